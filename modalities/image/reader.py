"""Image files and arrays as raw samples: uint8 (R, C, H, W)."""

import io
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from core.data.reader import PIXELS, WholeReader
from core.data.sources import Item
from core.errors import BadSample, UserError

BICUBIC, NEAREST = v2.InterpolationMode.BICUBIC, v2.InterpolationMode.NEAREST_EXACT
MOST_ASPECT = 8  # times the wanted shape's; what is longer loses its ends before it is resized
LUMA = torch.tensor([19595, 38470, 7471], dtype=torch.int32)[:, None, None]  # 0.299, 0.587, 0.114 in 1/65536, as PIL


class ImageReader(WholeReader):
    """Reads one image as uint8 (R, C, H, W) with (H, W) = `size`, any two numbers (one means a square).

    Training draws `repeats` views by `transform`, a list of torchvision v2 transforms of uint8 (C, h, w), whole images,
    that end at `size`; by default MAE's: random resized crop (area 0.2-1, bicubic) and flip. Otherwise R = 1: resized
    (bicubic) to cover `size` / `crop_ratio`, then its centre; smaller images are enlarged.

    `channels` is what every image gets: grey is repeated to 3, colour becomes grey by luma (ITU-R 601) for 1, alpha is
    composited on black unless there are 4; palettes, CMYK and the like become colour; EXIF rotation is applied.
    Anything else does not fit and is a BadSample. Arrays are (H, W), (H, W, C) or (C, H, W), pages of a TIFF too.
    16-bit values are scaled by 255 / `white` (4095 for 12-bit images), floats from [0, 1].

    Source: facebookresearch/mae (pre-training and evaluation transforms; resizing is torchvision's, not PIL's).
    """

    view = "image"
    values = PIXELS
    extensions = (
        *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"),
        *(".npy", ".npz"),
    )

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
            raise UserError(f"modality.reader.size is {size}: it must be one number or [height, width], in pixels.")
        if min(channels, repeats, white) < 1 or not 0 < crop_ratio <= 1:
            raise UserError("modality.reader: channels, repeats and white must be at least 1, crop_ratio in (0, 1].")
        self.channels, self.repeats, self.crop_ratio, self.white = channels, repeats, crop_ratio, white
        self.transform = nn.Sequential(*(mae_transform(self.size) if transform is None else transform))

    def decode(self, item: Item) -> Tensor:
        """The whole image as uint8 (C, h, w)."""
        is_array = item.suffix in (".npy", ".npz")
        pixels = self._from_array(item.array()) if is_array else self._from_file(item.open())
        if pixels.numel() == 0:
            raise BadSample(f"holds no pixel: its shape is {tuple(pixels.shape)}")
        return self._with_channels(pixels)

    def augment(self, raw: Tensor, train: bool) -> Tensor:
        if not train:
            return self._frame(raw, BICUBIC)[None]
        views = torch.stack([self.transform(raw) for _ in range(self.repeats)])
        wanted = (self.channels, *self.size)
        if views.shape[1:] != wanted:
            raise UserError(
                f"modality.reader.transform makes {tuple(views.shape[1:])} of an image, not {wanted}, which is "
                "(channels, height, width): end it at modality.reader.size."
            )
        return views

    def objects(self, item: Item) -> Tensor | None:
        """Object pixels (H, W) out of the .npy (h, w) beside the image."""
        if "object" not in item.aux:
            return None
        mask = torch.from_numpy(np.load(item.aux["object"], allow_pickle=False)).bool()
        return self._frame(mask.to(torch.uint8)[None], NEAREST)[0].bool()

    def _frame(self, pixels: Tensor, interpolation: v2.InterpolationMode) -> Tensor:
        """(C, h, w) resized to cover `size` / `crop_ratio`, and its centre of `size`."""
        (height, width), (h, w) = self.size, pixels.shape[-2:]
        ends = [min(h, -(-MOST_ASPECT * w * height // width)), min(w, -(-MOST_ASPECT * h * width // height))]
        if ends != [h, w]:
            pixels, (h, w) = F.center_crop(pixels, ends), ends
        low, across = int(height / self.crop_ratio), int(width / self.crop_ratio)
        # The side that is short for the wanted shape decides; the other is rounded down, as torchvision's Resize does.
        tall = [max(height, across * h // w), across]
        shape = [low, max(width, low * w // h)] if h * across <= w * low else tall
        return F.center_crop(F.resize(pixels, shape, interpolation, antialias=True), list(self.size)).contiguous()

    def _from_file(self, content: bytes) -> Tensor:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damaged metadata
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content)) as image:
                    return self._from_pil(image)
        except BadSample:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise BadSample(f"too many pixels ({error}): cut it into tiles") from error
        except Exception as error:  # damaged files raise anything
            raise BadSample(f"is no readable image: {error}") from error

    def _from_pil(self, image: Image.Image) -> Tensor:
        pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        if pages == self.channels > 1 and len(image.getbands()) == 1:
            return self._from_array(np.stack(list(_pages(image))))
        image = ImageOps.exif_transpose(image)
        if image.mode in ("F", "I") or image.mode.startswith("I;16"):
            values = np.array(image)
            return self._from_array(values if image.mode == "F" else _as_uint16(values))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = image if self.channels == 4 else _on_black(image)
        elif not (image.mode == "RGBX" and self.channels == 4):
            image = image.convert("L" if image.mode in ("1", "L") else "RGB")
        values = torch.from_numpy(np.array(image))
        return values[None] if values.ndim == 2 else values.permute(2, 0, 1)

    def _from_array(self, values: np.ndarray) -> Tensor:
        """(C, h, w) uint8; which axis holds the channels is told by their number."""
        known = (self.channels, 1, 3)
        if values.ndim == 2:
            values = values[None]
        elif values.ndim == 3 and values.shape[-1] in known and values.shape[0] != self.channels:
            values = values.transpose(2, 0, 1)
        elif values.ndim != 3 or values.shape[0] not in known:
            raise BadSample(
                f"an array of shape {values.shape} is no image of {self.channels} channels (modality.reader.channels): "
                "it must be (H, W), (H, W, C) or (C, H, W)"
            )
        return torch.from_numpy(np.ascontiguousarray(self._as_uint8(values)))

    def _as_uint8(self, values: np.ndarray) -> np.ndarray:
        kind, bits = values.dtype.kind, 8 * values.dtype.itemsize
        if kind not in "biuf":
            raise BadSample(f"holds values of type {values.dtype}, not numbers")
        if (kind, bits) == ("u", 8) or values.size == 0:
            return values.astype(np.uint8, copy=False)
        if kind == "b":
            return values.astype(np.uint8) * 255
        if (kind, bits) == ("u", 16):
            return np.rint(values.clip(max=self.white) * (255 / self.white)).astype(np.uint8)
        low, high = values.min(), values.max()
        if kind in "iu" and low >= 0 and high <= 255:
            return values.astype(np.uint8)
        if kind == "f" and low >= 0 and high <= 1:
            return np.rint(values * 255).astype(np.uint8)
        raise BadSample(
            f"values of type {values.dtype} from {low} to {high}: use uint8, uint16 (modality.reader.white), integers "
            "from 0 to 255 or floats from 0 to 1"
        )

    def _with_channels(self, pixels: Tensor) -> Tensor:
        found = len(pixels)
        if found == self.channels:
            return pixels
        if (found, self.channels) == (1, 3):
            return pixels.expand(3, -1, -1)
        if (found, self.channels) == (3, 1):
            return ((pixels * LUMA).sum(0, keepdim=True) + 0x8000 >> 16).to(torch.uint8)
        raise BadSample(
            f"has {found} channels, but {self.channels} are wanted: set modality.reader.channels={found} or convert it"
        )


def mae_transform(size: tuple[int, int]) -> list[nn.Module]:
    """The published pre-training augmentation."""
    crop = v2.RandomResizedCrop(size, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), interpolation=BICUBIC, antialias=True)
    return [crop, v2.RandomHorizontalFlip(0.5)]


def _pages(image: Image.Image) -> Iterator[np.ndarray]:
    for page in range(image.n_frames):
        image.seek(page)
        values = np.array(image)
        yield _as_uint16(values) if image.mode.startswith("I") else values


def _as_uint16(values: np.ndarray) -> np.ndarray:
    """PIL opens 16-bit files as 16 or 32 bits, in either byte order."""
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise BadSample("holds integers of more than 16 bits: convert them to uint16")
    return values.astype(np.uint16)


def _on_black(image: Image.Image) -> Image.Image:
    black = Image.new("RGB", image.size)
    black.paste(image, mask=image.getchannel("A"))
    return black
