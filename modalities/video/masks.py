"""Masks in space and time: tubes for the encoder, the running cell for the decoder."""

from typing import ClassVar

import torch
from torch import Tensor

from core.errors import UserError
from core.maskers import ViewMasker, checked_ratio, uniform
from core.tokens import ForwardContext, Mask, Query, Rows, Tokens


class TubeMasker(ViewMasker):
    """Hides the same spatial cells in every time slot.

    Of S = h·w cells, m = int(ratio · S) are hidden, one draw per sample; visible rows are in raster order.

    Shapes: tokens on a (t, h, w) grid -> visible (B, t · (S − m)), predicted (B, t · m).
    Source: MCG-NJU/VideoMAE.
    """

    requires: ClassVar = {"axes": 3}

    def __init__(self, ratio: float):
        self.ratio = checked_ratio(ratio)

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Tensor:
        _, h, w = tokens.layout.grid
        return uniform((tokens.content.shape[0], h * w), tokens.content.device, generator)

    def mask_view(self, tokens: Tokens, draws: Tensor, ctx: ForwardContext) -> Mask:
        hidden = self.tube(draws, tokens.layout.grid[0])
        return Mask.from_hidden(hidden, count=tokens.layout.grid[0] * int(self.ratio * draws.shape[1]))

    def tube(self, noise: Tensor, slots: int) -> Tensor:
        """Noise per cell (B, S) -> hidden (B, t · S): the cells with the highest noise, in every slot."""
        cells = noise.shape[1]
        visible_cells = cells - int(self.ratio * cells)
        visible = Rows(noise.argsort(dim=1, stable=True)[:, :visible_cells])

        hidden = ~visible.to_mask(cells)
        return hidden.repeat(1, slots)


class DualMasker(ViewMasker):
    """VideoMAE V2: a tube mask for the encoder, a running cell for the decoder.

    The cell leaves out `decoder_ratio` of all rows. The decoder predicts the others, visible ones too; a
    target with `count: hidden` leaves visible ones out of the loss. With a decoder ratio of 0 it predicts
    exactly the hidden rows, as VideoMAE does.

    Raises: UserError for odd h or w, or a decoder ratio other than 0, 0.25, 0.5 and 0.75.
    Source: OpenGVLab/VideoMAEv2.
    """

    requires: ClassVar = {"axes": 3}

    def __init__(self, ratio: float, decoder_ratio: float):
        if decoder_ratio not in (0, 0.25, 0.5, 0.75):
            raise UserError(f"masker.decoder_ratio={decoder_ratio} must leave out 0, 1, 2 or 3 of every 4 cells.")

        self.encoder = TubeMasker(ratio)
        self.left_out = int(4 * decoder_ratio)  # of every 4 cells

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> dict[str, Tensor]:
        batch, device = tokens.content.shape[0], tokens.content.device
        return {
            "cells": self.encoder.draw_view(tokens, generator, ctx),
            "phase": (uniform((batch,), device, generator) * 4).long(),
        }

    def mask_view(self, tokens: Tokens, draws: dict[str, Tensor], ctx: ForwardContext) -> Mask:
        tube = self.encoder.mask_view(tokens, draws["cells"], ctx)
        if not self.left_out:
            return tube

        t, h, w = tokens.layout.grid
        phase = draws["phase"]
        skipped = running_cell(self.left_out, (t, h, w)).to(phase.device)[phase]
        rows = Rows.from_mask(~skipped, count=t * h * w * (4 - self.left_out) // 4)
        return Mask(tube.hidden, tube.visible, queries={"main": Query(rows)})


def running_cell(left_out: int, grid: tuple[int, int, int]) -> Tensor:
    """(4, t · h · w) bool, one map for each phase: True = the decoder leaves the row out.

    A 2 × 2 cell is filled from a ring of four that turns by one each slot. Over any four slots every cell is
    predicted 4 − left_out times. Raises: UserError for odd h or w.
    """
    t, h, w = grid
    if h % 2 or w % 2:
        raise UserError(
            f"The running cell needs even rows and columns of patches, not {h} × {w}: change modality.size."
        )

    ring = torch.arange(4) < left_out
    # The official pointer moves before it is first read, hence + 1.
    turn = torch.arange(4)[:, None] + torch.arange(t) + 1  # (phase, slot)
    cells = ring[(turn[..., None] + torch.arange(4)) % 4].view(4, t, 2, 2)
    return cells.repeat(1, 1, h // 2, w // 2).flatten(1)
