"""Image files and arrays as raw samples: uint8 (R, C, H, W)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from core.data.facts import SampleFacts
from core.data.reader import PIXELS, WholeReader
from core.data.sources import Item
from core.errors import BadSample, UserError
from modalities.image.formats import files
from modalities.image.formats.picture import Picture, to_bytes, with_channels

BICUBIC, NEAREST = v2.InterpolationMode.BICUBIC, v2.InterpolationMode.NEAREST_EXACT
MOST_ASPECT = 8  # times the aspect ratio of `size`; longer images lose their ends before they are resized
ARRAYS = (".npy", ".npz")


class ImageReader(WholeReader):
    """Reads one image as uint8 (R, C, H, W) with (H, W) = `size`, any two numbers (one means a square).

    Training draws `repeats` views by `transform`, a list of torchvision v2 transforms of uint8 (C, h, w),
    whole images, that end at `size`; by default MAE's: random resized crop (area 0.2-1, bicubic) and flip.
    Otherwise R = 1: resized (bicubic) to cover `size` / `crop_ratio`, then its centre; smaller images are
    enlarged.

    `channels` is the number that every image gets: grey is repeated to 3; colour becomes luma (ITU-R 601) for
    1; opacity is composited on black unless there are 4 (with grey: 2 or 4); palettes, CMYK and the like
    become colour; EXIF rotation is applied. All bands of a TIFF are channels, and its pages where they have
    one band each. Anything else does not fit and is a BadSample. Of an animation (GIF, WebP, APNG) and of a
    TIFF with pages in colour the first frame is read.

    Formats are those of the installed Pillow, TIFF by tifffile, HEIC with the extra `heic`. Arrays
    are (H, W), (H, W, C) or (C, H, W). 16-bit values are scaled by 255 / `white` (4095 for 12-bit
    images), floats from [0, 1].

    Source: facebookresearch/mae (pre-training and evaluation transforms; resizing is torchvision's).
    """

    view = "image"
    values = PIXELS
    sample_axes = 2
    extensions = (*files.extensions(), *ARRAYS)

    def __init__(
        self,
        size: int | Sequence[int],
        channels: int = 3,
        transform: Sequence[nn.Module] | None = None,
        repeats: int = 1,
        crop_ratio: float = 1.0,
        white: int = 65535,
    ):
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"modality.size is {size}: it must be one number or [height, width], in pixels.")
        if channels < 1:
            raise UserError(f"modality.channels is {channels}: it must be at least 1.")
        if min(repeats, white) < 1 or not 0 < crop_ratio <= 1:
            raise UserError("modality.reader: repeats and white must be at least 1, crop_ratio in (0, 1].")

        if transform is None:
            transform = mae_transform(self.size)
        self.channels, self.repeats, self.crop_ratio, self.white = channels, repeats, crop_ratio, white
        self.transform = nn.Sequential(*transform)

    def decode(self, item: Item) -> Tensor:
        """The whole image as uint8 (C, h, w)."""
        picture = self._picture(item)
        if picture.values.size == 0:
            raise BadSample(f"holds no pixel: its shape is {picture.values.shape}")

        pixels = to_bytes(picture.values, self.white)
        pixels = with_channels(pixels, self.channels, picture.alpha)
        return torch.from_numpy(pixels)

    def augment(self, raw: Tensor, train: bool) -> Tensor:
        if not train:
            return self._frame(raw, BICUBIC)[None]

        views = torch.stack([self.transform(raw) for _ in range(self.repeats)])
        shape = (self.channels, *self.size)
        if views.shape[1:] != shape:
            raise UserError(
                f"modality.reader.transform makes {tuple(views.shape[1:])} of an image, not {shape}, "
                "which is (channels, height, width): end it at modality.size."
            )
        return views

    def measure(self, item: Item) -> SampleFacts:
        """Channels, (height, width), and notes on opacity, depth and frames of one image."""
        picture = self._picture(item)
        count, *size = picture.values.shape
        if picture.values.size == 0:
            raise BadSample(f"holds no pixel: its shape is {picture.values.shape}")

        notes = list(picture.notes)
        if picture.is_transparent:
            notes.append("with opacity, composited on black (modality.channels=4 keeps it)")
        if picture.values.dtype == np.uint16:
            notes.append(self._depth(int(picture.values.max())))

        channels = count - picture.alpha
        if picture.is_grey:
            channels = 1
        return SampleFacts(channels=channels, size=tuple(size), notes=tuple(notes))

    def objects(self, item: Item) -> Tensor | None:
        """Object pixels (H, W) out of the .npy (h, w) beside the image."""
        if "object" not in item.aux:
            return None
        mask = torch.from_numpy(np.load(item.aux["object"], allow_pickle=False)).bool()
        return self._frame(mask.to(torch.uint8)[None], NEAREST)[0].bool()

    def _depth(self, largest: int) -> str:
        """How 16-bit values up to `largest` are scaled; where they use less than half the range, the remedy."""
        note = f"16-bit values, scaled by 255 / {self.white} (modality.reader.white)"
        if largest <= self.white // 2:
            full = (1 << max(largest, 1).bit_length()) - 1
            note += f", which makes them dark: none is above {full}, so set modality.reader.white={full}"
        return note

    def _picture(self, item: Item) -> Picture:
        if item.suffix in ARRAYS:
            return Picture(np.ascontiguousarray(self._channels_first(item.array())))
        return files.read_picture(item.open(), item.suffix)

    def _channels_first(self, values: np.ndarray) -> np.ndarray:
        """(C, h, w) of an array; the number of channels tells which of its axes holds them."""
        counts = (self.channels, 1, 3)
        if values.ndim == 2:
            return values[None]
        if values.ndim == 3 and values.shape[-1] in counts and values.shape[0] != self.channels:
            return values.transpose(2, 0, 1)
        if values.ndim == 3 and values.shape[0] in counts:
            return values

        raise BadSample(
            f"an array of shape {values.shape} is no image of {self.channels} channels (modality.channels): "
            "it must be (H, W), (H, W, C) or (C, H, W)"
        )

    def _frame(self, pixels: Tensor, interpolation: v2.InterpolationMode) -> Tensor:
        """(C, h, w) resized to cover `size` / `crop_ratio`, and its centre of `size`."""
        height, width = self.size
        h, w = pixels.shape[-2:]

        # A very long image loses its ends first, so that resizing stays cheap.
        ends = [min(h, -(-MOST_ASPECT * w * height // width)), min(w, -(-MOST_ASPECT * h * width // height))]
        if ends != [h, w]:
            pixels = F.center_crop(pixels, ends)
            h, w = ends

        # The side that is short for the aspect ratio decides; the other is rounded down, as by torchvision's Resize.
        low, across = int(height / self.crop_ratio), int(width / self.crop_ratio)
        shape = [low, max(width, low * w // h)]
        if h * across > w * low:
            shape = [max(height, across * h // w), across]

        pixels = F.resize(pixels, shape, interpolation, antialias=True)
        return F.center_crop(pixels, list(self.size)).contiguous()


def mae_transform(size: tuple[int, int]) -> list[nn.Module]:
    """The published pre-training augmentation."""
    crop = v2.RandomResizedCrop(size, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), interpolation=BICUBIC, antialias=True)
    return [crop, v2.RandomHorizontalFlip(0.5)]
