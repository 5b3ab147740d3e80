"""Crops of whole clips: uint8 (T, C, h, w) -> (T, C, H, W), the same for every frame.

torchvision v2 transforms of images work likewise and can stand beside these. `size` is that of the clip, (T, H, W), of
which the last two numbers are used. Random numbers come from torch's global generator.
"""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

BILINEAR, NEAREST = v2.InterpolationMode.BILINEAR, v2.InterpolationMode.NEAREST_EXACT
NEAR = 3  # pixels: a crop side that is off by less becomes the wanted one, so that nothing is resampled


class MultiScaleCrop(nn.Module):
    """Crops at one of 13 fixed places, at one of a few scales and slightly distorted, resized to `size`.

    Height and width are `scales` times the largest crop of the wanted shape; which of the scales may differ by at most
    `distort` places. Each such pair is as likely, and each place of the crop.
    Source: VideoMAE and VideoMAE V2 (pre-training); here also for sizes that are not square.
    """

    def __init__(self, size: Sequence[int], scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66), distort: int = 1):
        super().__init__()
        self.size, self.scales, self.distort = tuple(size)[-2:], tuple(scales), distort

    def forward(self, clip: Tensor) -> Tensor:
        shape = clip.shape[-2:]
        pairs = self.pairs(*shape)
        height, width = pairs[int(torch.randint(len(pairs), ()))]
        places = offsets(*shape, height, width)
        top, left = places[int(torch.randint(len(places), ()))]
        return F.resized_crop(clip, top, left, height, width, self.size, BILINEAR, antialias=True)

    def pairs(self, h: int, w: int) -> list[tuple[int, int]]:
        """(height, width) of the possible crops of pictures of h x w."""
        high, wide = largest(h, w, self.size)
        heights = [near(int(high * scale), self.size[0], h) for scale in self.scales]
        widths = [near(int(wide * scale), self.size[1], w) for scale in self.scales]
        numbered = product(enumerate(heights), enumerate(widths))
        return [(height, width) for (i, height), (j, width) in numbered if abs(i - j) <= self.distort]


class ResizedCrop(nn.Module):
    """A random part of the pictures, `scale` of their area, its shape within `ratio`, resized to `size`.

    Source: st-MAE (which then flips one clip in two: add RandomHorizontalFlip).
    """

    def __init__(
        self, size: Sequence[int], scale: Sequence[float] = (0.5, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)
    ):
        super().__init__()
        self.crop = v2.RandomResizedCrop(tuple(size)[-2:], tuple(scale), tuple(ratio), BILINEAR, antialias=True)

    def forward(self, clip: Tensor) -> Tensor:
        return self.crop(clip)


class CentreCrop(nn.Module):
    """The largest part of the wanted shape in the middle, resized to `size`; nothing random.

    Resizing comes first and rounds down, as in published evaluations (short side, then centre).
    """

    def __init__(self, size: Sequence[int], interpolation: v2.InterpolationMode = BILINEAR):
        super().__init__()
        self.size, self.interpolation = tuple(size)[-2:], interpolation

    def forward(self, clip: Tensor) -> Tensor:
        (height, width), (h, w) = self.size, clip.shape[-2:]
        wide = h * width <= w * height
        shape = [height, max(width, height * w // h)] if wide else [max(height, width * h // w), width]
        return F.center_crop(F.resize(clip, shape, self.interpolation, antialias=True), list(self.size))


def largest(h: int, w: int, size: Sequence[int]) -> tuple[int, int]:
    """(height, width) of the largest part of an h x w picture that has the shape of `size`."""
    height, width = size
    return (h, h * width // height) if h * width <= w * height else (w * height // width, w)


def near(side: int, wanted: int, limit: int) -> int:
    """`wanted` where `side` is nearly that and the picture, `limit` long, holds it; at least 1."""
    return wanted if abs(side - wanted) < NEAR and wanted <= limit else max(side, 1)


def offsets(h: int, w: int, height: int, width: int) -> list[tuple[int, int]]:
    """(top, left) of a crop at the 13 places of a grid of quarters: corners, middles of sides, centre, and between."""
    down, right = (h - height) // 4, (w - width) // 4
    even, odd = product((0, 2, 4), repeat=2), product((1, 3), repeat=2)
    return [(y * down, x * right) for y, x in (*even, *odd)]
