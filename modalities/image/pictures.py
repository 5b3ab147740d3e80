"""Images in a report: input, masked, interpolation and reconstruction in columns."""

from collections.abc import Mapping, Sequence

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

SIDE = 224  # pixels of the longer side; larger images are shown smaller


class ImagePictures(Pictures):
    """Draws images (B, C, H, W) of any number of channels.

    `shown`: the channels drawn as red, green and blue, or one as grey; by default the first
    three, of fewer the first.
    """

    def __init__(self, shown: Sequence[int] | None = None, baseline: Baseline | None = None):
        self.shown, self.baseline = shown, baseline or HarmonicInterpolation()

    def draw(self, method: MaskedAutoencoder, batch: Batch, masks: Mapping[str, Mask]) -> Gallery:
        views = grid_views(method, batch, "image", masks, self.baseline)
        hidden, panels = [], []
        for index, key in enumerate(batch.keys):
            hidden.append(Panel(key, [_still(tinted(views, index, self.shown), "mask", key)]))
            rasters = [_still(rgb, label, key) for label, rgb in colour_versions(views, index, self.shown).items()]
            panels.append(Panel(key, rasters))
        return Gallery(hidden, panels, views.notes)

    def thumbnails(self, batch: Batch, side: int) -> Sequence[Raster]:
        pictures = unit(batch.views["image"]).float().cpu()
        rasters = []
        for key, picture in zip(batch.keys, pictures, strict=True):
            rgb = shrink(as_rgb(picture, self.shown)[None], side)
            rasters.append(encode(rgb, "input", f"input of {key}", exact=max(rgb.shape[1:3]) <= LOSSLESS))
        return rasters


def _still(rgb: Tensor, label: str, key: str) -> Raster:
    return encode(shrink(rgb[None], SIDE), label, f"{label} of {key}", exact=max(rgb.shape[:2]) <= LOSSLESS)
