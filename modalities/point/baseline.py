"""Hidden groups of points predicted without learning: the baseline of a reconstruction's skill."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.reconstruction.baseline import Baseline
from core.tokenizers import Tokenizer
from core.tokens import Mask, Tokens


class NearestGroup(Baseline):
    """The points of the visible group whose centre is nearest, moved to the hidden group's centre.

    At every level of a pyramid among its own groups. Without a visible group: all points at the centre.
    It answers with tokens, since clouds whose points have moved would be cut into other groups.
    """

    name = (
        "the visible group with the nearest centre, moved to the hidden group's centre, level by level; without a "
        "visible group, all points at the centre"
    )

    def answer(self, tokens: Tokens, masks: Mask) -> Tokens:
        """Tokens with the same layouts, whose content (B, G, S, 3 + C) is replaced at hidden rows."""
        finer = None
        if tokens.finer is not None:
            assert masks.finer is not None, "masks are propagated to finer levels"
            finer = self.answer(tokens.finer, masks.finer)

        assert tokens.layout.coords is not None, "groups have centres"
        visible = masks.visible.to_mask(tokens.layout.count) & ~masks.hidden
        content = _nearest_content(tokens.content, tokens.layout.coords, visible)

        hidden = masks.hidden.reshape(*masks.hidden.shape, *(1,) * (content.dim() - 2))
        return replace(tokens, content=torch.where(hidden, content, tokens.content), finer=finer)

    def predict(self, tokenizer: Tokenizer, data: Any, tokens: Tokens, hidden: Tensor) -> Any:
        raise NotImplementedError("groups of points are predicted as tokens: `answer`")


def _nearest_content(content: Tensor, centres: Tensor, visible: Tensor) -> Tensor:
    """content (B, G, …) of the visible group nearest to each; 0 where a sample has none.

    Shapes: centres (B, G, 3), visible (B, G) bool.
    """
    # Direct differences: equal distances stay equal, and of them the lowest row counts.
    distance = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.masked_fill(~visible[:, None], float("inf"))
    nearest = distance.argmin(2)

    sample = torch.arange(len(content), device=content.device)[:, None]
    answer = content[sample, nearest]
    answer[~visible.any(1)] = 0
    return answer
