"""VideoMAE V2: dual masks, and official checkpoints (OpenGVLab/VideoMAEv2).

Options are VideoMAE's (`videomae.py`), and of `meta` or the published recipe decoder_mask_ratio (0.5).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.errors import UserError
from core.interop import IMAGENET, Official, State, raw_pixels
from core.maskers import ViewMasker, uniform
from core.tokens import Batch, ForwardContext, Mask, Query, Rows, Tokens
from modalities.video.methods.videomae import TRANSFORMERS, VIDEOMAE_RULES, TubeMasker, videomae_overrides


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


# Official checkpoints -----------------------------------------------------------------------------


def _overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    ratio = settings.get("decoder_mask_ratio", 0.5)
    return [*videomae_overrides(state, settings), f"method.masker.decoder_ratio={ratio}"]


def _replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    """The recorded clip, tube and phase of the running cell."""
    # The official target un-normalises in float32 by this very product and sum: the raw pixels are those.
    clip = raw_pixels(io["video"], *IMAGENET, dtype=torch.float32)
    draws = {"cells": io["encoder_mask"][:, 0].float()}

    # A sample's phase is the number of the map that its decoder mask equals.
    if "running_cell_all_maps" in io:
        maps = io["running_cell_all_maps"].flatten(1)
        equal = (io["decoder_mask"].flatten(1)[:, None] == maps).all(2)
        draws["phase"] = equal.to(torch.uint8).argmax(1)

    return Batch({"video": clip}), {"video": draws}


VIDEOMAE_V2 = Official(
    method="videomaev2",
    modality="video",
    overrides=_overrides,
    replay=_replay,
    rules=VIDEOMAE_RULES,
    other_names=(TRANSFORMERS,),
)
