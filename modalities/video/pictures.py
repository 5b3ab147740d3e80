"""Clips in a report: film strips, one row each for input, masked, interpolation and reconstruction; and all moving."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.methods.masked_autoencoder import MaskedAutoencoder
from core.reconstruction.baseline import Baseline, HarmonicInterpolation
from core.reconstruction.pictures import (
    LOSSLESS,
    Gallery,
    Panel,
    Pictures,
    Raster,
    as_rgb,
    colour_versions,
    encode,
    grid_views,
    shrink,
    tinted,
)
from core.tokenizers import unit
from core.tokens import Batch, Mask

SIDE = 112  # pixels of a frame's longer side; larger frames are shown smaller
MOST = 16  # frames of a strip, spread evenly over longer clips; the animation shows all
GAP = 2  # transparent pixels between frames


class VideoPictures(Pictures):
    """Draws clips (B, C, T, H, W) of any number of channels.

    `shown`: as for images. `rate`: frames of the animation in a second.
    """

    def __init__(self, shown: Sequence[int] | None = None, rate: float = 8.0, baseline: Baseline | None = None):
        self.shown, self.rate, self.baseline = shown, rate, baseline or HarmonicInterpolation()

    def draw(self, method: MaskedAutoencoder, batch: Batch, masks: Mapping[str, Mask]) -> Gallery:
        views = grid_views(method, batch, "video", masks, self.baseline)
        slots = method.tokenizer.patch[0]
        hidden, panels = [], []
        for index, key in enumerate(batch.keys):
            over = tinted(views, index, self.shown)[::slots]  # a mask is the same for all frames of a slot
            hidden.append(Panel(key, [film(over, "mask", f"mask of {key}, first frame of every time slot")], "rows"))
            clips = colour_versions(views, index, self.shown)
            strips = [film(clip, label, f"{label} of {key}, frame by frame") for label, clip in clips.items()]
            panels.append(Panel(key, [*strips, self._moving(clips, key)], "rows"))
        return Gallery(hidden, panels, [*views.notes, *_say_frames(batch)])

    def thumbnails(self, batch: Batch, side: int) -> Sequence[Raster]:
        """The frame in the middle."""
        clips = batch.views["video"]
        frames = unit(clips[:, :, clips.shape[2] // 2]).float().cpu()
        rasters = []
        for key, frame in zip(batch.keys, frames, strict=True):
            rgb = shrink(as_rgb(frame, self.shown)[None], side)
            rasters.append(encode(rgb, "input", f"middle of {key}", exact=max(rgb.shape[1:3]) <= LOSSLESS))
        return rasters

    def _moving(self, clips: Mapping[str, Tensor], key: str) -> Raster:
        """All versions of a clip side by side, moving together."""
        frames = torch.stack([shrink(clip, SIDE) for clip in clips.values()], 1)  # (T, versions, H, W, 3)
        exact = max(next(iter(clips.values())).shape[1:3]) <= LOSSLESS
        names = ", ".join(clips)
        wide = torch.stack([beside(each) for each in frames])
        alt = f"animation of {key}: {names}"
        return encode(wide, "the same, moving", alt, exact=exact, milliseconds=round(1000 / self.rate))


def film(clip: Tensor, label: str, alt: str) -> Raster:
    """Frames (T, H, W, 3) in a row."""
    if len(clip) > MOST:
        clip = clip[torch.linspace(0, len(clip) - 1, MOST).round().long()]
    return encode(beside(shrink(clip, SIDE))[None], label, alt, exact=max(clip.shape[1:3]) <= LOSSLESS)


def beside(pictures: Tensor) -> Tensor:
    """(K, H, W, 3) -> (H, K · W + (K − 1) · GAP, 4), with transparent gaps."""
    opaque = F.pad(pictures, (0, 1), value=1.0)
    spaced = F.pad(opaque, (0, 0, 0, GAP))  # on the right of each
    return spaced.movedim(0, 1).flatten(1, 2)[:, :-GAP]


def _say_frames(batch: Batch) -> list[str]:
    frames = batch.views["video"].shape[2]
    return [f"Strips show {MOST} of {frames} frames; animations show all."] if frames > MOST else []
