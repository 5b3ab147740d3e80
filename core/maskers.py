"""Maskers decide what is hidden. `draw` makes every random number, the masker itself is a pure function of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from core.errors import UserError
from core.tokens import ForwardContext, Mask, Query, Rows, Tokens


class Masker(ABC):
    """`draw(tokens, generator, step)` -> draws by view; `masker(tokens, draws, step)` -> masks by view.

    Maskers that look at one view at a time derive from `ViewMasker`; joint ones from this.
    """

    @abstractmethod
    def draw(
        self, tokens: Mapping[str, Tokens], generator: torch.Generator | None, ctx: ForwardContext
    ) -> dict[str, Any]: ...

    @abstractmethod
    def __call__(
        self, tokens: Mapping[str, Tokens], draws: Mapping[str, Any], ctx: ForwardContext
    ) -> dict[str, Mask]: ...


class ViewMasker(Masker):
    """A masker written for one view, applied to each."""

    def draw(
        self, tokens: Mapping[str, Tokens], generator: torch.Generator | None, ctx: ForwardContext
    ) -> dict[str, Any]:
        return {view: self.draw_view(one, generator, ctx) for view, one in tokens.items()}

    def __call__(self, tokens: Mapping[str, Tokens], draws: Mapping[str, Any], ctx: ForwardContext) -> dict[str, Mask]:
        return {view: self.mask_view(tokens[view], one, ctx) for view, one in draws.items()}

    @abstractmethod
    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Any: ...

    @abstractmethod
    def mask_view(self, tokens: Tokens, draws: Any, ctx: ForwardContext) -> Mask: ...


class RandomMasker(ViewMasker):
    """Hides tokens at random: per sample, noise ~ U[0, 1), the first int(n · (1 − ratio)) in ascending order are kept.

    n is the number of tokens, or of valid ones where samples are padded. The float product is truncated as published
    (100 tokens at 0.9 keep 9), or, `rounding="nearest"`, rounded, halves to even (SparK). Visible rows are in noise
    order.
    Source: facebookresearch/mae, facebookresearch/mae_st, keyu-tian/SparK.
    """

    def __init__(self, ratio: float, rounding: Literal["down", "nearest"] = "down"):
        self.ratio, self.rounding = checked_ratio(ratio), rounding

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Tensor:
        return uniform((tokens.content.shape[0], tokens.layout.count), tokens.content.device, generator)

    def mask_view(self, tokens: Tokens, draws: Tensor, ctx: ForwardContext) -> Mask:
        if self.rounding == "nearest" and tokens.layout.valid is None:
            return keep_lowest(draws, tokens, keep=round(tokens.layout.count * (1 - self.ratio)))
        return keep_lowest(draws, tokens, self.ratio)


class BlockMasker(ViewMasker):
    """Hides whole boxes of a grid until int(N · ratio) tokens are hidden, exactly.

    Boxes have random places and sides between `smallest` cells and `largest` (a share of each axis); tokens are ranked
    by the first box that covers them, ties and the rest at random, so that the count is exact for every sample.
    Raises: UserError for tokens that do not fill a grid.
    """

    def __init__(self, ratio: float, smallest: int = 2, largest: float = 0.5, boxes: int = 16):
        self.ratio, self.smallest, self.largest, self.boxes = checked_ratio(ratio), smallest, largest, boxes

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> dict[str, Tensor]:
        layout = tokens.layout
        if layout.grid is None or layout.coords is not None or layout.valid is not None:
            raise UserError("method.masker: boxes (BlockMasker) need tokens that fill a grid; take RandomMasker.")
        batch, axes, device = tokens.content.shape[0], len(layout.grid), tokens.content.device
        return {
            "boxes": uniform((batch, self.boxes, axes, 2), device, generator),
            "noise": uniform((batch, layout.count), device, generator),
        }

    def mask_view(self, tokens: Tokens, draws: dict[str, Tensor], ctx: ForwardContext) -> Mask:
        grid = tokens.layout.grid
        inside = torch.ones((), dtype=torch.bool, device=tokens.content.device)
        for axis, n in enumerate(grid):
            top = max(int(n * self.largest), min(self.smallest, n))
            side = min(self.smallest, n) + (draws["boxes"][..., axis, 0] * (top - min(self.smallest, n) + 1)).long()
            start = (draws["boxes"][..., axis, 1] * (n - side + 1)).long()
            place = torch.arange(n, device=side.device)
            along = (place >= start[..., None]) & (place < (start + side)[..., None])  # (B, boxes, n)
            inside = inside & along.reshape(*along.shape[:2], *(n if a == axis else 1 for a in range(len(grid))))
        covered = inside.flatten(2)
        first = torch.where(covered.any(1), covered.to(torch.uint8).argmax(1), self.boxes)
        rank = (first + draws["noise"]).flatten(1)
        hidden = int(prod(grid) * self.ratio)
        return keep_lowest(-rank, tokens, keep=prod(grid) - hidden)


class ScoreMasker(ViewMasker):
    """Hides the tokens that a teacher scores highest, with some chance mixed in.

    `scores`: name of the teacher, whose answer is (B, N); `randomness` 0 hides strictly by score, 1 at random; scores
    are compared by rank within their sample. Keeps int(N · (1 − ratio)).
    """

    def __init__(self, ratio: float, scores: str, randomness: float = 0.0):
        self.ratio, self.scores, self.randomness = checked_ratio(ratio), scores, randomness

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Tensor:
        return uniform((tokens.content.shape[0], tokens.layout.count), tokens.content.device, generator)

    def mask_view(self, tokens: Tokens, draws: Tensor, ctx: ForwardContext) -> Mask:
        rank = ctx.teacher_output(self.scores).argsort(1).argsort(1) / max(tokens.layout.count - 1, 1)
        return keep_lowest((1 - self.randomness) * rank + self.randomness * draws, tokens, self.ratio)


def keep_lowest(score: Tensor, tokens: Tokens, ratio: float | None = None, keep: int | None = None) -> Mask:
    """Keeps the rows with the lowest scores (B, N), in that order; padding is neither hidden nor visible.

    How many: `keep`, or int(n · (1 − ratio)) of the n valid rows of each sample.
    """
    valid = tokens.layout.valid
    if valid is None:
        keep = int(score.shape[1] * (1 - ratio)) if keep is None else keep
        visible = Rows(score.argsort(1)[:, :keep])
        hidden = ~visible.to_mask(score.shape[1])
        return Mask(hidden, visible, {"main": Query(Rows.from_mask(hidden, score.shape[1] - keep))})
    counts = (valid.sum(1).double() * (1 - ratio)).long()
    order = score.masked_fill(~valid, torch.inf).argsort(1)[:, : int(counts.max())]
    inside = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    visible = Rows(order.masked_fill(~inside, 0), inside)
    hidden = valid & ~visible.to_mask(score.shape[1])
    return Mask(hidden, visible, {"main": Query(Rows.from_mask(hidden))})


def uniform(shape: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform noise drawn where the generator lives (the CPU, mostly), so that masks do not depend on the device."""
    where = "cpu" if generator is None else generator.device
    return torch.rand(tuple(shape), generator=generator, device=where).to(device, non_blocking=True)


def checked_ratio(ratio: float) -> float:
    if not 0 <= ratio < 1:
        raise UserError(f"masker.ratio={ratio} must lie in [0, 1): the share of tokens that is hidden.")
    return ratio
