"""Targets: the values to predict at a query, computed there only and without gradient."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.tokenizers import Normalise, unit
from core.tokens import ForwardContext, Layout, Query, Rows, TargetValues


class Target(nn.Module, ABC):
    """`(ctx, view, query) -> TargetValues`: values (B, M, out); weight (B, M) or (B, M, out) where some count less.

    `reveals`: the part of hidden rows that a decoder may know, their "layout" or "nothing".
    """

    reveals: Literal["layout", "nothing"] = "layout"
    out: int  # values per row

    @property
    def provides(self) -> dict:
        return {"out": self.out}

    @abstractmethod
    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues: ...

    def unseen(self, ctx: ForwardContext, view: str, query: Query, hidden: Sequence[Tensor]) -> Tensor | None:
        """Flags (B, M, S) of the parts of each row's values (B, M, S, A) that no visible token shows.

        None where tokens do not overlap: all parts of hidden rows are unseen. `hidden`: rows (B, N) of every
        level, coarsest first.
        """
        return None


class Pixels(Target):
    """The raw content of each row (B, M, P), channel fastest; plain or standardised per patch.

    `normalise`: applied first; None leaves values in [0, 1].
    `per`: "none"; "patch": (v − mean) / sqrt(var + 1e-6) over all values (MAE); "channel": (v − mean) / (std + 1e-6)
    per channel over the pixels (VideoMAE). Variances are unbiased, as in the official codes.
    `per_slot`: of each patch's frames (first axis) only that many are predicted, such that they spread evenly over the
    whole clip, truncated to whole frames (mae_st: 1, which is 8 of 16). None: all.
    `count`: which rows weigh in the loss: all predicted ones, or only those hidden from the encoder (VideoMAE V2).
    Shapes: content (B, N, *patch, C), query of M rows -> values (B, M, P), weight (B, M) or None.
    Raises: UserError where `per_slot` frames do not spread over the patches.
    Source: facebookresearch/mae, MCG-NJU/VideoMAE, facebookresearch/mae_st.
    """

    offsets: Tensor  # (slots, per_slot)

    def __init__(
        self,
        patch: Sequence[int],
        channels: int,
        grid: Sequence[int],
        normalise: Normalise | None = None,
        per: Literal["none", "patch", "channel"] = "none",
        per_slot: int | None = None,
        count: Literal["all", "hidden"] = "all",
    ):
        super().__init__()
        self.patch, self.channels, self.grid = tuple(patch), channels, tuple(grid)
        self.normalise, self.per, self.per_slot, self.count = normalise, per, per_slot, count

        if per_slot is not None:
            self.register_buffer("offsets", _frame_offsets(per_slot, self.grid[0], self.patch[0]), persistent=False)
        self.out = (per_slot or self.patch[0]) * prod(self.patch[1:]) * channels

    @torch.no_grad()
    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        tokens = ctx.tokens[view]
        rows = query.rows_in(tokens.layout, tokens.content)
        content = self._select(rows.gather(tokens.content), tokens.layout, rows)

        values = self.values(content)
        mean, std = self.statistics(values)

        weight = None
        if self.count == "hidden":
            weight = rows.gather(ctx.masks[view].hidden).to(values.dtype)

        return TargetValues(((values - mean) / std).flatten(2).float(), weight)

    def values(self, content: Tensor) -> Tensor:
        """Raw content (B, M, *patch, C) -> values (B, M, pixels, C) before standardisation."""
        content = unit(content) if self.normalise is None else self.normalise(content)
        return content.flatten(2, -2)

    def statistics(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and divisor of each row: (B, M, 1, 1), per channel (B, M, 1, C), or 0 and 1."""
        if self.per == "none":
            return values.new_zeros(()), values.new_ones(())

        # The official codes differ in the place of the small number.
        if self.per == "patch":
            mean, variance = values.mean((2, 3), keepdim=True), values.var((2, 3), keepdim=True)
            return mean, (variance + 1e-6).sqrt()

        mean, variance = values.mean((2,), keepdim=True), values.var((2,), keepdim=True)
        return mean, variance.sqrt() + 1e-6

    def restore(self, prediction: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Predicted rows (B, M, P) -> [0, 1] pixels (B, M, pixels, C), with statistics the caller has a right to."""
        values = prediction.unflatten(2, (-1, self.channels)) * std + mean
        return values if self.normalise is None else self.normalise.inverse(values)

    def _select(self, content: Tensor, layout: Layout, rows: Rows) -> Tensor:
        """Of content (B, M, *patch, C) the frames that are predicted."""
        if self.per_slot is None:
            return content

        slot = layout.cells(rows) // prod(self.grid[1:])
        frames = self.offsets[slot]  # (B, M, u)
        frames = frames.reshape(*frames.shape, *(1,) * (content.dim() - 3))
        return content.gather(2, frames.expand(-1, -1, -1, *content.shape[3:]))


def _frame_offsets(per_slot: int, slots: int, depth: int) -> Tensor:
    """(slots, per_slot): which frames of its tube each slot predicts."""
    # On the CPU whatever the default device is: the values are read here.
    frames = torch.linspace(0, slots * depth - 1, slots * per_slot, device="cpu").long().view(slots, -1)
    offsets = frames - torch.arange(slots, device="cpu")[:, None] * depth
    if bool(((offsets < 0) | (offsets >= depth)).any()):
        raise UserError(f"target.per_slot={per_slot} does not spread over {slots} patches of {depth} frames.")
    return offsets


class TeacherFeatures(Target):
    """The output of the teacher of that name at the rows of the query.

    `width`: D, of the teacher's features.
    Shapes: teacher output (B, N, D), query of M rows -> values (B, M, D).
    """

    def __init__(self, teacher: str, width: int):
        super().__init__()
        self.teacher, self.out = teacher, width

    @torch.no_grad()
    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        output = ctx.teacher_output(self.teacher)
        return TargetValues(query.rows_in(ctx.tokens[view].layout, output).gather(output))
