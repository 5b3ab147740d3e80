"""Hidden groups of points predicted without learning: the baseline of a reconstruction's skill."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from core.data.sources import Source
from core.reconstruction.baseline import Baseline
from core.tokenizers import Tokenizer
from core.tokens import Rows, Tokens, levels
from modalities.point.grouping import neighbours


@runtime_checkable
class Resampled(Protocol):
    """A source that can sample the surfaces of its clouds anew, in the frame of the item."""

    def resample(self, key: str) -> Tensor: ...


class NearestGroup(Baseline):
    """The members of the visible group whose centre is nearest, moved to the hidden group's centre.

    At every level of a pyramid among the groups of that level. Where no group is visible, all members are 0:
    they lie at the centre. It answers with tokens: clouds whose points have moved would be cut into other groups.
    """

    name = "the visible group with the nearest centre (members relative to it; 0 without a visible group)"
    ceiling = "other points of the same surfaces round the same centres"

    def predict(self, tokenizer: Tokenizer, data: Any, tokens: Tokens, hidden: Tensor) -> Any:
        raise NotImplementedError("groups are predicted as tokens: `predict_tokens`")

    def predict_tokens(self, tokens: Tokens, hidden: Sequence[Tensor]) -> Tokens:
        finer = None
        if tokens.finer is not None:
            finer = self.predict_tokens(tokens.finer, hidden[1:])

        visible = ~hidden[0]
        if tokens.layout.valid is not None:
            visible = visible & tokens.layout.valid

        assert tokens.layout.coords is not None, "groups have centres"
        nearest = _nearest_content(tokens.content, tokens.layout.coords, visible)
        content = torch.where(hidden[0][..., None, None], nearest, tokens.content)
        return replace(tokens, content=content, finer=finer)

    def ceiling_data(self, source: Source, keys: Sequence[str], data: Any) -> None:
        """None: `ceiling_tokens`, as other points would be cut into other groups."""

    def ceiling_tokens(
        self, tokenizer: Tokenizer, source: Source, keys: Sequence[str], tokens: Tokens
    ) -> Tokens | None:
        """Groups of an independent sample of the same surfaces: its members nearest to each centre, relative to it.

        Higher levels take their members from the sample's own groups.
        """
        if not isinstance(source, Resampled):
            return None
        points = torch.stack([source.resample(key) for key in keys]).to(tokens.content.device)
        own = levels(tokenizer(points))

        pools = [*(level.layout.coords for level in own[1:]), points]  # members of each level, coarsest first
        finer = None
        for level, pool in reversed(list(zip(levels(tokens), pools, strict=True))):
            finer = replace(level, content=_members_around(level, pool), finer=finer)
        return finer


def _members_around(tokens: Tokens, pool: Tensor) -> Tensor:
    """As many of the points `pool` (B, N, 3) as groups have, nearest to each centre: (B, G, S, 3), relative to it."""
    centres = tokens.layout.coords
    assert centres is not None, "groups have centres"
    rows = neighbours(centres, pool, tokens.content.shape[2])
    return Rows(rows.flatten(1)).gather(pool).unflatten(1, rows.shape[1:]) - centres[:, :, None]


def _nearest_content(content: Tensor, centres: Tensor, visible: Tensor) -> Tensor:
    """content (B, G, S, C) of the visible group nearest to each group; 0 in samples without a visible one.

    Shapes: centres (B, G, 3), visible (B, G) bool.
    """
    # Without products of matrices: rounding must not decide between near groups.
    distance = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    rows = distance.masked_fill(~visible[:, None], float("inf")).argmin(2)

    samples = torch.arange(len(content), device=content.device)[:, None]
    some = visible.any(1)[:, None, None, None]
    return content[samples, rows] * some
