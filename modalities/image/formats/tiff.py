"""TIFFs that Pillow does not read whole: more than three bands, pages as bands, deep bands, bands in planes."""

import io
import logging

import numpy as np
from PIL import Image
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG, TiffFile, TiffPage, TiffPageSeries

from core.errors import BadSample
from modalities.image.formats.picture import Picture, as_uint16, opaque

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian, classic and BigTIFF
ORIENTATION = 274  # the tag, of EXIF too
MOST_BYTES = 2**31  # of one picture's values; more are a damaged header, or belong cut into tiles
PLAIN = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB)
SINGLE_BAND = (np.dtype(bool), np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)

# It writes a line for every odd tag; errors still come as exceptions.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def is_tiff(content: bytes) -> bool:
    return content.startswith(MAGIC)


def read(content: bytes) -> Picture | None:
    """The bands of a TIFF, its pages where these have one band each; None where Pillow reads it as it should.

    Of several pages of colour the first is read. Raises: BadSample.
    """
    with TiffFile(io.BytesIO(content)) as file:
        page = file.pages.first
        series = file.series[0]
        if _is_for_pillow(page, series):
            return None

        _check_size(series)
        return _picture(_values(content, series), series.axes, page)


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (C, h, w) in their display orientation, by the number of the tag (EXIF 2.32, table 6)."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        values = values[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _is_for_pillow(page: TiffPage, series: TiffPageSeries) -> bool:
    """Whether it is one picture of the kinds that Pillow converts to grey or colour and loses nothing of."""
    if page.photometric not in PLAIN:
        return True
    if page.samplesperpixel == 1:
        return series.axes == "YX" and page.dtype in SINGLE_BAND

    colours = 3 if page.photometric == PHOTOMETRIC.RGB else 1
    has_alpha = len(page.extrasamples) == 1 and page.extrasamples[0] in ALPHA
    is_standard = page.samplesperpixel == colours + has_alpha
    return is_standard and page.dtype == np.uint8 and page.planarconfig == PLANARCONFIG.CONTIG


def _values(content: bytes, series: TiffPageSeries) -> np.ndarray:
    """The array of a series. Raises: BadSample where its compression needs a further package."""
    try:
        return series.asarray(maxworkers=1)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise

        page = series.keyframe
        if page.samplesperpixel > 1 or len(series.axes) > 3:
            name = COMPRESSION(page.compression).name
            raise BadSample(f'a TIFF packed by {name}: it needs `pip install "lacuna-ssl[tiff]"`') from error

    # Pillow has its own libtiff, for one band at a time.
    pages = []
    with Image.open(io.BytesIO(content), formats=("TIFF",)) as image:
        for number in range(image.n_frames):
            image.seek(number)
            pages.append(np.array(image))
    return np.stack(pages).reshape(series.shape)


def _check_size(series: TiffPageSeries) -> None:
    lengths = dict(zip(series.axes, series.shape, strict=True))
    pixels = lengths.get("Y", 1) * lengths.get("X", 1)
    if pixels > (Image.MAX_IMAGE_PIXELS or pixels) or series.nbytes > MOST_BYTES:
        raise BadSample(f"too many pixels (a TIFF of shape {series.shape}): cut it into tiles")


def _picture(values: np.ndarray, axes: str, page: TiffPage) -> Picture:
    """The array of a series, its axes named by letters: Y, X, samples S, and others for pages."""
    notes = ()
    others = [axis for axis in axes if axis not in "YXS"]
    if "S" in axes and others:
        values = values[(0,) * len(others)] if axes[: len(others)] == "".join(others) else values
        axes, others = axes[len(others) :], []
        notes = ("a TIFF of several pages in colour, of which the first is read",)
    if len(others) > 1 or sorted(set(axes) & set("YX")) != ["X", "Y"] or values.ndim != len(axes):
        sizes = ", ".join(f"{axis} {length}" for axis, length in zip(axes, values.shape, strict=False))
        raise BadSample(f"a TIFF with the axes {sizes}: a picture has Y, X and one axis of bands")

    # Bands first, then rows and columns.
    bands = [position for position, axis in enumerate(axes) if axis not in "YX"]
    values = values.transpose(*bands, axes.index("Y"), axes.index("X"))
    if not bands:
        values = values[None]

    if page.photometric == PHOTOMETRIC.MINISWHITE and values.dtype.kind in "bu":
        values = ~values
    if values.dtype.kind in "iu" and values.dtype.itemsize > 1:
        values = as_uint16(values)
    values = upright(values, _orientation(page))

    alpha = "S" in axes and len(page.extrasamples) == 1 and page.extrasamples[0] in ALPHA
    if alpha and page.extrasamples[0] == EXTRASAMPLE.ASSOCALPHA:
        values = _unassociated(values)
    return Picture(values, alpha=alpha and len(values) in (2, 4), notes=notes)


def _orientation(page: TiffPage) -> int:
    tag = page.tags.get(ORIENTATION)
    return 1 if tag is None else int(tag.value)


def _unassociated(values: np.ndarray) -> np.ndarray:
    """Colours that are multiplied by their opacity, divided by it again."""
    full = opaque(values.dtype)
    colours = values[:-1] * (full / np.maximum(values[-1:], full / 65535))
    return np.concatenate([colours.clip(0, full).round(0 if full > 1 else 7).astype(values.dtype), values[-1:]])
