"""Crops of whole clips: uint8 (T, C, h, w) -> (T, C, H, W), the same for every frame.

They combine with torchvision's v2 transforms of images. `size` is that of the clip, (T, H, W), of which the
last two numbers are used. Random numbers come from torch's global generator.
"""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

BILINEAR, NEAREST = v2.InterpolationMode.BILINEAR, v2.InterpolationMode.NEAREST_EXACT
NEAR = 3  # pixels: a crop side that differs by less from the clip's becomes that, to save resampling


class MultiScaleCrop(nn.Module):
    """Crops at one of 13 fixed positions, at one of a few scales and slightly distorted, resized to `size`.

    Height and width are `scales` times the largest crop of the shape of `size`; the numbers of their two
    scales differ by at most `distort`. All such pairs are equally likely, and so are all positions of the
    crop.
    Source: VideoMAE and VideoMAE V2 (pre-training); here also for sizes that are not square.
    """

    def __init__(
        self,
        size: Sequence[int],
        scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66),
        distort: int = 1,
    ):
        super().__init__()
        self.size, self.scales, self.distort = tuple(size)[-2:], tuple(scales), distort

    def forward(self, clip: Tensor) -> Tensor:
        shape = clip.shape[-2:]
        pairs = self.pairs(*shape)
        height, width = pairs[int(torch.randint(len(pairs), ()))]
        corners = offsets(*shape, height, width)
        corner = corners[int(torch.randint(len(corners), ()))]
        return F.resized_crop(clip, *corner, height, width, self.size, BILINEAR, antialias=True)

    def pairs(self, h: int, w: int) -> list[tuple[int, int]]:
        """(height, width) of the possible crops of pictures of h x w."""
        max_height, max_width = largest(h, w, self.size)
        heights = [near(int(max_height * scale), self.size[0], h) for scale in self.scales]
        widths = [near(int(max_width * scale), self.size[1], w) for scale in self.scales]

        pairs = []
        for i, height in enumerate(heights):
            for j, width in enumerate(widths):
                if abs(i - j) <= self.distort:
                    pairs.append((height, width))
        return pairs


class ResizedCrop(nn.Module):
    """A random part of the pictures, resized to `size`.

    The part is `scale` of their area, with an aspect ratio within `ratio`.
    Source: st-MAE (which then flips one clip in two: add RandomHorizontalFlip).
    """

    def __init__(
        self,
        size: Sequence[int],
        scale: Sequence[float] = (0.5, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ):
        super().__init__()
        self.crop = v2.RandomResizedCrop(tuple(size)[-2:], tuple(scale), tuple(ratio), BILINEAR, antialias=True)

    def forward(self, clip: Tensor) -> Tensor:
        return self.crop(clip)


class CentreCrop(nn.Module):
    """The largest part in the middle that has the shape of `size`, resized to it; nothing random.

    Resizing comes first and rounds down, as in published evaluations (short side, then centre).
    """

    def __init__(self, size: Sequence[int], interpolation: v2.InterpolationMode = BILINEAR):
        super().__init__()
        self.size, self.interpolation = tuple(size)[-2:], interpolation

    def forward(self, clip: Tensor) -> Tensor:
        height, width = self.size
        h, w = clip.shape[-2:]

        if h * width <= w * height:  # the clip is wider: its height fits, its width is cut
            shape = [height, max(width, height * w // h)]
        else:
            shape = [max(height, width * h // w), width]

        clip = F.resize(clip, shape, self.interpolation, antialias=True)
        return F.center_crop(clip, list(self.size))


def largest(h: int, w: int, size: Sequence[int]) -> tuple[int, int]:
    """(height, width) of the largest part of an h x w picture that has the shape of `size`."""
    height, width = size
    if h * width <= w * height:
        return h, h * width // height
    return w * height // width, w


def near(side: int, target: int, limit: int) -> int:
    """`target` where `side` is nearly that and at most `limit`, the picture's own; else `side`, at least 1."""
    if abs(side - target) < NEAR and target <= limit:
        return target
    return max(side, 1)


def offsets(h: int, w: int, height: int, width: int) -> list[tuple[int, int]]:
    """(top, left) of a crop at 13 points: corners, middles of sides, centre, and between."""
    down, across = (h - height) // 4, (w - width) // 4
    points = [*product((0, 2, 4), repeat=2), *product((1, 3), repeat=2)]
    return [(y * down, x * across) for y, x in points]
