"""Picture files, whatever their format: bytes -> `Picture`."""

import io
import warnings
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_png

from core.errors import BadSample
from modalities.image.formats import tiff
from modalities.image.formats.picture import Picture, as_uint16

# Formats that Pillow opens but that are no pictures, run another program, or need a library that it lacks.
NOT_READ = {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC", "GBR"}
HEIF = (".heic", ".heif")
PNG = b"\x89PNG\r\n\x1a\n"

if find_spec("pillow_heif"):
    import pillow_heif

    pillow_heif.register_heif_opener()
Image.init()
FORMATS = tuple(name for name in Image.OPEN if name not in NOT_READ)


def extensions() -> tuple[str, ...]:
    """Endings of the files that the installed Pillow reads, and of those that need a further package."""
    endings = {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}
    return tuple(sorted(endings | {".avif", ".jp2", *HEIF}))


def read_picture(content: bytes, suffix: str) -> Picture:
    """The first picture of a file, upright, in its own number of channels; `suffix` is for messages.

    The pages of a TIFF are channels (`tiff`). Of an animation it is the first frame. Palettes, CMYK and the
    like become red, green and blue. Raises: BadSample.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _read(content)
    except BadSample:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSample(f"too many pixels ({error}): cut it into tiles") from error
    except UnidentifiedImageError as error:  # whose text names an address in memory
        raise BadSample(f"is no readable image: cannot identify its format{_remedy(suffix)}") from error
    except Exception as error:  # damaged files raise anything
        raise BadSample(f"is no readable image: {error}{_remedy(suffix)}") from error


def _read(content: bytes) -> Picture:
    if tiff.is_tiff(content):
        picture = tiff.read(content)
        if picture is not None:
            return picture
    if _is_deep_png(content):
        return _deep_png(content)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return _from_pil(image)


def _from_pil(image: Image.Image) -> Picture:
    notes = ()
    if getattr(image, "n_frames", 1) > 1 and image.format not in ("TIFF", "ICO", "ICNS"):
        notes = ("a file of several frames, of which the first is read",)
    image = ImageOps.exif_transpose(image)

    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        values = np.array(image)[None]
        if image.mode != "F":
            values = as_uint16(values)
        return Picture(values, notes=notes)

    is_grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        values = np.array(image.convert("RGBA")).transpose(2, 0, 1)
        if is_grey:
            values = values[[0, 3]]
        return Picture(values, alpha=True, notes=notes)
    if is_grey:
        return Picture(np.array(image.convert("L"))[None], notes=notes)
    return Picture(np.array(image.convert("RGB")).transpose(2, 0, 1), notes=notes)


def _is_deep_png(content: bytes) -> bool:
    """Whether it is a PNG of 16 bits and several channels, of which Pillow reads the upper 8 bits."""
    return content.startswith(PNG) and content[24:25] == b"\x10" and content[25:26] in (b"\2", b"\4", b"\6")


def _deep_png(content: bytes) -> Picture:
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        orientation = image.getexif().get(tiff.ORIENTATION, 1)
        size = image.size  # opening it has refused far too many pixels
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    values = decode_png(data, ImageReadMode.UNCHANGED).numpy()
    if values.shape[1:] != size[::-1]:
        raise BadSample(f"is no readable image: {values.shape[1:]} pixels, by its header {size[::-1]}")
    return Picture(tiff.upright(values, orientation), alpha=len(values) in (2, 4))


def _remedy(suffix: str) -> str:
    """The package that a format needs."""
    if suffix in HEIF and not find_spec("pillow_heif"):
        return '. HEIC needs `pip install "lacuna-ssl[heic]"`'
    if suffix == ".avif" and "AVIF" not in Image.OPEN:
        return ". AVIF needs Pillow 11.3 or newer: `pip install -U pillow`"
    return ""
