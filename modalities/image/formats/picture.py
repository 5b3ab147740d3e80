"""A picture as its file holds it, and how it becomes bytes of a given number of channels."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from core.errors import BadSample

LUMA = np.array([19595, 38470, 7471], np.uint32)[:, None, None]  # 0.299, 0.587, 0.114 in 1/65536, as PIL
DEEP = 65535  # the largest value of 16 bits


@dataclass(frozen=True)
class Picture:
    """Values (C, h, w) of the file's own type; `alpha`: the last channel is opacity, of 2 or 4.

    `notes`: what of the file these values leave out.
    """

    values: np.ndarray
    _: KW_ONLY
    alpha: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_grey(self) -> bool:
        """Whether one channel holds all there is to see: there is no other, or red, green and blue are equal."""
        colours = self.values[:-1] if self.alpha else self.values
        if len(colours) not in (1, 3):
            return False
        if self.is_transparent:  # transparent pixels may have any colour
            colours = colours * (self.values[-1:] > 0)
        return bool((colours == colours[:1]).all())

    @property
    def is_transparent(self) -> bool:
        """Whether some pixel is not opaque."""
        return self.alpha and bool((self.values[-1] < opaque(self.values.dtype)).any())


def opaque(dtype: np.dtype) -> float:
    """The largest value of a type: 1 for floats."""
    return 1.0 if dtype.kind == "f" else np.iinfo(dtype).max


def to_bytes(values: np.ndarray, white: int) -> np.ndarray:
    """Values as uint8: those of uint16 times 255 / `white`, floats from [0, 1], booleans as 0 and 255.

    Raises: BadSample for values beyond that; only integers from 0 to 255 are taken in any type.
    """
    kind, bits = values.dtype.kind, 8 * values.dtype.itemsize
    if kind not in "biuf":
        raise BadSample(f"holds values of type {values.dtype}, not numbers")
    if (kind, bits) == ("u", 8) or values.size == 0:
        return values.astype(np.uint8, copy=False)
    if kind == "b":
        return values.astype(np.uint8) * 255
    if (kind, bits) == ("u", 16):
        return np.rint(values.clip(max=white) * (255 / white)).astype(np.uint8)

    low, high = values.min(), values.max()
    if kind in "iu" and low >= 0 and high <= 255:
        return values.astype(np.uint8)
    if kind == "f" and low >= 0 and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    raise BadSample(
        f"values of type {values.dtype} from {low} to {high}: use uint8, uint16 (modality.reader.white), integers "
        "from 0 to 255 or floats from 0 to 1"
    )


def as_uint16(values: np.ndarray) -> np.ndarray:
    """Integers of picture files, which are 16 bits in whatever type a library opens them. Raises: BadSample."""
    if values.min(initial=0) < 0 or values.max(initial=0) > DEEP:
        raise BadSample("holds integers below 0 or of more than 16 bits: convert them to uint16")
    return values.astype(np.uint16)


def with_channels(pixels: np.ndarray, channels: int, alpha: bool = False) -> np.ndarray:
    """uint8 (…, C, h, w) -> (…, `channels`, h, w): grey repeated to 3, colour to grey by luma, opacity put on black.

    `alpha`: the last channel is opacity; it stays where there are to be 2 or 4 channels.
    Raises: BadSample where the numbers of channels do not fit.
    """
    if alpha and channels not in (2, 4):
        pixels = on_black(pixels)
    if alpha and (pixels.shape[-3], channels) == (2, 4):
        pixels = pixels[..., [0, 0, 0, 1], :, :]

    count = pixels.shape[-3]
    if count == channels:
        return pixels
    if (count, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=-3)
    if (count, channels) == (3, 1):
        luma = (pixels * LUMA).sum(-3, keepdims=True, dtype=np.uint32)
        return (luma + 0x8000 >> 16).astype(np.uint8)
    raise BadSample(f"has {count} channels, but {channels} are wanted: set modality.channels={count} or convert it")


def on_black(pixels: np.ndarray) -> np.ndarray:
    """uint8 with opacity last (…, C + 1, h, w) -> (…, C, h, w): colour · opacity / 255, rounded, as PIL pastes."""
    product = pixels[..., :-1, :, :].astype(np.uint32) * pixels[..., -1:, :, :] + 128
    return ((product >> 8) + product >> 8).astype(np.uint8)
