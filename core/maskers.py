"""Maskers decide which tokens are hidden: pure functions of the random numbers that `draw` makes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Any, Literal

import torch
from torch import Tensor

from core.errors import UserError
from core.seeding import PlacedGenerator
from core.tokens import ForwardContext, Mask, Query, Rows, Tokens


class Masker(ABC):
    """`draw(tokens, generator, ctx)` -> draws by view; `masker(tokens, draws, ctx)` -> masks by view.

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
        draws = {}
        for view, content in tokens.items():
            draws[view] = self.draw_view(content, generator, ctx)
        return draws

    def __call__(self, tokens: Mapping[str, Tokens], draws: Mapping[str, Any], ctx: ForwardContext) -> dict[str, Mask]:
        return {view: self.mask_view(tokens[view], draw, ctx) for view, draw in draws.items()}

    @abstractmethod
    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Any: ...

    @abstractmethod
    def mask_view(self, tokens: Tokens, draws: Any, ctx: ForwardContext) -> Mask: ...


class RandomMasker(ViewMasker):
    """Hides tokens at random: noise ~ U[0, 1) per sample, the lowest int(n · (1 − ratio)) stay visible.

    n is the number of tokens, or of valid ones where samples are padded. The float product is truncated as
    published (100 tokens at 0.9 keep 9), or, `rounding="nearest"`, rounded, halves to even (SparK); "up": int(n ·
    ratio) are hidden and the others visible (Point-MAE). Visible rows are in noise order.
    Shapes: tokens of N rows -> Mask with visible (B, V), query `main` (B, N − V).
    Source: facebookresearch/mae, facebookresearch/mae_st, keyu-tian/SparK, Pang-Yatian/Point-MAE.
    """

    def __init__(self, ratio: float, rounding: Literal["down", "nearest", "up"] = "down"):
        self.ratio, self.rounding = checked_ratio(ratio), rounding

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Tensor:
        return uniform((tokens.content.shape[0], tokens.layout.count), tokens.content.device, generator)

    def mask_view(self, tokens: Tokens, draws: Tensor, ctx: ForwardContext) -> Mask:
        if self.rounding == "nearest" and tokens.layout.valid is None:
            return keep_lowest(draws, tokens, keep=round(tokens.layout.count * (1 - self.ratio)))
        if self.rounding == "up" and tokens.layout.valid is None:
            return keep_lowest(draws, tokens, keep=tokens.layout.count - int(tokens.layout.count * self.ratio))
        return keep_lowest(draws, tokens, self.ratio)


class NeighbourhoodMasker(ViewMasker):
    """Hides the int(N · ratio) tokens whose coordinates are nearest to those of one token drawn at random.

    Per sample, u ~ U[0, 1) draws token ⌊u · N⌋, which is hidden itself; of equal distances the lower row first.
    Visible rows are in ascending order.
    Shapes: tokens with coords (B, N, A) -> Mask with visible (B, N − int(N · ratio)), query `main`.
    Raises: UserError for tokens without coordinates, or with padding.
    Source: Pang-Yatian/Point-MAE (mask_type: block).
    """

    def __init__(self, ratio: float):
        self.ratio = checked_ratio(ratio)

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Tensor:
        if tokens.layout.coords is None or tokens.layout.valid is not None:
            raise UserError("method.masker: neighbourhoods need coordinates and no padding; take RandomMasker.")
        return uniform((tokens.content.shape[0],), tokens.content.device, generator)

    def mask_view(self, tokens: Tokens, draws: Tensor, ctx: ForwardContext) -> Mask:
        coords, count = tokens.layout.coords, tokens.layout.count
        assert coords is not None, "draw_view refuses tokens without coordinates"
        start = (draws * count).long().clamp(max=count - 1)
        centre = coords[torch.arange(len(coords), device=coords.device), start]
        distance = (coords - centre[:, None]).square().sum(2)

        hidden = int(count * self.ratio)
        rows = Rows(distance.sort(dim=1, stable=True).indices[:, :hidden])
        return Mask.from_hidden(rows.to_mask(count), hidden)


class BlockMasker(ViewMasker):
    """Hides whole boxes of a grid until int(N · ratio) tokens are hidden, exactly.

    Boxes have random places and sides between `smallest` cells and `largest` (a share of each axis); tokens
    are ranked by the first box that covers them, ties and the rest at random, so that the count is exact for
    every sample.
    `boxes`: how many are drawn; where they cover too little, the rest is hidden at random.
    Shapes: tokens on a grid of N cells -> Mask with visible (B, N − int(N · ratio)), query `main`
    (B, int(N · ratio)).
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
        assert grid is not None, "draw_view refuses tokens without a grid"
        covered = torch.ones((), dtype=torch.bool, device=tokens.content.device)
        for axis, length in enumerate(grid):
            span = self._spans(draws["boxes"][..., axis, :], length)  # (B, boxes, length)
            shape = [1] * len(grid)
            shape[axis] = length
            covered = covered & span.reshape(*span.shape[:2], *shape)

        # The number of the first box over each token; `boxes` where there is none.
        covered = covered.flatten(2)
        box = torch.where(covered.any(1), covered.to(torch.uint8).argmax(1), self.boxes)

        rank = (box + draws["noise"]).flatten(1)
        hidden = int(prod(grid) * self.ratio)
        return keep_lowest(-rank, tokens, keep=prod(grid) - hidden)

    def _spans(self, draws: Tensor, length: int) -> Tensor:
        """draws (B, boxes, 2) -> (B, boxes, length) bool: the cells of one axis that each box covers."""
        least = min(self.smallest, length)
        most = max(int(length * self.largest), least)
        side = least + (draws[..., 0] * (most - least + 1)).long()
        start = (draws[..., 1] * (length - side + 1)).long()

        cell = torch.arange(length, device=draws.device)
        return (cell >= start[..., None]) & (cell < (start + side)[..., None])


class CellMasker(ViewMasker):
    """Hides whole cells of a coarser grid, each `side` tokens long on every axis: ⌈cells · ratio⌉ of them, at random.

    Per sample, noise ~ U[0, 1) for every cell; those with the lowest are hidden. Visible rows are in ascending order.
    Shapes: tokens on a grid of A axes and C cells -> Mask with query `main` (B, ⌈C · ratio⌉ · side^A).
    Raises: UserError for tokens that do not fill a grid, or whose grid `side` does not divide.
    Source: microsoft/SimMIM (32-pixel cells, which are 2 × 2 tokens of 16 pixels).
    """

    def __init__(self, ratio: float, side: int = 2):
        self.ratio, self.side = checked_ratio(ratio), side

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Tensor:
        layout = tokens.layout
        if layout.grid is None or layout.coords is not None or layout.valid is not None:
            raise UserError("method.masker: cells (CellMasker) need tokens that fill a grid; take RandomMasker.")
        if any(length % self.side for length in layout.grid):
            raise UserError(f"method.masker.side={self.side} does not divide the grid of tokens {layout.grid}.")

        cells = prod(length // self.side for length in layout.grid)
        return uniform((tokens.content.shape[0], cells), tokens.content.device, generator)

    def mask_view(self, tokens: Tokens, draws: Tensor, ctx: ForwardContext) -> Mask:
        grid = tokens.layout.grid
        assert grid is not None, "draw_view refuses tokens without a grid"
        count = ceil(draws.shape[1] * self.ratio)
        cells = Rows(draws.argsort(1)[:, :count]).to_mask(draws.shape[1])

        # Every token is hidden with its cell.
        hidden = cells.unflatten(1, [length // self.side for length in grid])
        for axis in range(1, len(grid) + 1):
            hidden = hidden.repeat_interleave(self.side, axis)
        return Mask.from_hidden(hidden.flatten(1), count * self.side ** len(grid))


class ScoreMasker(ViewMasker):
    """Hides the tokens that a teacher scores highest, with some chance mixed in.

    `scores`: name of the teacher, whose output is (B, N); `randomness` 0 hides strictly by score, 1 at
    random; scores are compared by rank within their sample: with r = rank / (N − 1), the int(N · (1 − ratio))
    rows with the lowest (1 − randomness) · r + randomness · noise are kept.
    Shapes: scores (B, N) -> Mask with visible (B, V), query `main` (B, N − V).
    """

    def __init__(self, ratio: float, scores: str, randomness: float = 0.0):
        self.ratio, self.scores, self.randomness = checked_ratio(ratio), scores, randomness

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Tensor:
        return uniform((tokens.content.shape[0], tokens.layout.count), tokens.content.device, generator)

    def mask_view(self, tokens: Tokens, draws: Tensor, ctx: ForwardContext) -> Mask:
        scores = ctx.teacher_output(self.scores)
        rank = scores.argsort(1).argsort(1) / max(tokens.layout.count - 1, 1)
        return keep_lowest((1 - self.randomness) * rank + self.randomness * draws, tokens, self.ratio)


class SaliencyMasker(ViewMasker):
    """Keeps tokens drawn without replacement by the softmax of a teacher's scores: N − int(N · ratio) stay visible.

    `scores`: name of the teacher, whose output s is (B, N). Tokens are drawn one after another, each time with
    probabilities p = softmax(s) among those that are left: the order of s − log e descending, e ~ Exp(1), which is the
    order of e / p. Visible rows are in ascending order.
    Shapes: scores (B, N) -> Mask with visible (B, N − int(N · ratio)), query `main`.
    Raises: UserError for tokens with padding.
    Source: ZrrSkywalker/I2P-MAE.
    """

    def __init__(self, ratio: float, scores: str):
        self.ratio, self.scores = checked_ratio(ratio), scores

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Tensor:
        if tokens.layout.valid is not None:
            raise UserError("method.masker: SaliencyMasker draws as many tokens of each sample; take ScoreMasker.")
        shape = tokens.content.shape[0], tokens.layout.count
        return -torch.log1p(-uniform(shape, tokens.content.device, generator))

    def mask_view(self, tokens: Tokens, draws: Tensor, ctx: ForwardContext) -> Mask:
        keys = draws.log() - ctx.teacher_output(self.scores)
        count = tokens.layout.count
        hidden = int(count * self.ratio)
        visible = Rows(keys.argsort(1)[:, : count - hidden]).to_mask(count)
        return Mask.from_hidden(~visible, hidden)


def keep_lowest(score: Tensor, tokens: Tokens, ratio: float | None = None, keep: int | None = None) -> Mask:
    """Keeps the rows with the lowest scores (B, N), in that order; padding is neither hidden nor visible.

    How many: `keep`, or int(n · (1 − ratio)) of the n valid rows of each sample; one of the two is given.
    """
    valid, count = tokens.layout.valid, score.shape[1]

    if valid is None:
        if keep is None:
            assert ratio is not None
            keep = int(count * (1 - ratio))
        visible = Rows(score.argsort(1)[:, :keep])
        hidden = ~visible.to_mask(count)
        return Mask(hidden, visible, queries={"main": Query(Rows.from_mask(hidden, count - keep))})

    assert ratio is not None, "padded samples keep a share"
    counts = (valid.sum(1).double() * (1 - ratio)).long()
    order = score.masked_fill(~valid, torch.inf).argsort(1)[:, : int(counts.max())]
    keeps = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    visible = Rows(order.masked_fill(~keeps, 0), keeps)
    hidden = valid & ~visible.to_mask(count)
    return Mask(hidden, visible, queries={"main": Query(Rows.from_mask(hidden))})


def uniform(shape: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform noise drawn on the generator's device (the CPU, mostly): masks do not depend on the model's."""
    if isinstance(generator, PlacedGenerator):
        return generator.uniform(tuple(shape)).to(device, non_blocking=True)

    source = torch.device("cpu")
    if generator is not None:
        source = generator.device
    return torch.rand(tuple(shape), generator=generator, device=source).to(device, non_blocking=True)


def checked_ratio(ratio: float) -> float:
    if not 0 <= ratio < 1:
        raise UserError(f"method.masker.ratio={ratio} must lie in [0, 1): the share of tokens that is hidden.")
    return ratio
