"""TIFFs of any number of bands: the array that was written is the array that is read."""

import io
from importlib.util import find_spec

import numpy as np
import pytest
import tifffile
from PIL import Image

from core.data.sources import Item
from core.errors import BadSample
from modalities.image.formats import tiff
from modalities.image.formats.files import read_picture
from modalities.image.reader import ImageReader

SHAPE = (12, 20)
NEEDS_CODECS = pytest.mark.skipif(find_spec("imagecodecs") is None, reason="imagecodecs is not installed")


def bands(count: int, dtype=np.uint8, most: int = 255) -> np.ndarray:
    return np.random.default_rng(count).integers(0, most + 1, (count, *SHAPE)).astype(dtype)


def written(values: np.ndarray, **options) -> bytes:
    tifffile.imwrite(file := io.BytesIO(), values, **options)
    return file.getvalue()


def read(content: bytes) -> np.ndarray:
    return read_picture(content, ".tif").values


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (4, {"photometric": "rgb", "extrasamples": [0]}),  # near infrared, as GDAL writes it
        (4, {"photometric": "minisblack", "planarconfig": "contig"}),
        (2, {"photometric": "minisblack", "planarconfig": "contig"}),
        (5, {"photometric": "rgb", "extrasamples": [0, 0]}),
        (7, {"photometric": "minisblack", "planarconfig": "contig", "tile": (16, 16)}),
        (4, {"photometric": "rgb", "extrasamples": [0], "bigtiff": True, "byteorder": ">"}),
        (13, {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib", "predictor": True}),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_side_by_side(count, options, dtype):
    if options.get("predictor") and find_spec("imagecodecs") is None:
        pytest.skip("imagecodecs is not installed")
    values = bands(count, dtype, np.iinfo(dtype).max)
    picture = read_picture(written(np.ascontiguousarray(values.transpose(1, 2, 0)), **options), ".tif")
    assert np.array_equal(picture.values, values) and not picture.alpha


@pytest.mark.parametrize("count", [2, 3, 4, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_bands_in_planes_or_pages(count, dtype):
    values = bands(count, np.uint8).astype(dtype)
    assert np.array_equal(read(written(values, photometric="minisblack", planarconfig="separate")), values)
    assert np.array_equal(read(written(values, photometric="minisblack", metadata=None)), values)


@NEEDS_CODECS
@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits"])
def test_packed_bands(compression):
    values = bands(6, np.uint16, 4000)
    content = written(
        np.ascontiguousarray(values.transpose(1, 2, 0)),
        photometric="minisblack",
        planarconfig="contig",
        compression=compression,
    )
    assert np.array_equal(read(content), values)


def test_colour_in_planes():
    values = bands(3)
    assert np.array_equal(read(written(values, photometric="rgb", planarconfig="separate")), values)


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (5, {"ome": True, "metadata": {"axes": "CYX"}}),
        (4, {"imagej": True, "metadata": {"axes": "ZYX"}}),
        (6, {"imagej": True, "metadata": {"axes": "TYX"}}),
    ],
)
def test_microscopes(count, options):
    values = bands(count, np.uint16, 65535)
    assert np.array_equal(read(written(values, photometric="minisblack", **options)), values)


def test_two_axes_beside_the_pixels_are_refused():
    values = np.zeros((3, 4, *SHAPE), np.uint16)
    with pytest.raises(BadSample, match=r"axes .* 3, .* 4, Y 12, X 20: a picture has"):
        read(written(values, imagej=True, photometric="minisblack", metadata={"axes": "ZCYX"}))


def test_overviews_are_no_bands():
    """A smaller page behind the picture, as in a cloud-optimised GeoTIFF."""
    values, file = bands(4), io.BytesIO()
    options = {"photometric": "rgb", "extrasamples": [0], "metadata": None}
    with tifffile.TiffWriter(file) as writer:
        writer.write(values.transpose(1, 2, 0).copy(), **options)
        writer.write(values[:, ::2, ::2].transpose(1, 2, 0).copy(), subfiletype=1, **options)
    assert np.array_equal(read(file.getvalue()), values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("premultiplied", [False, True])
def test_opacity(dtype, premultiplied):
    """Colours that are stored times their opacity are divided by it."""
    most = np.iinfo(dtype).max
    colours, alpha = bands(3, dtype, most), np.full((1, *SHAPE), most // 2, dtype)
    stored = (colours.astype(np.int64) * alpha // most).astype(dtype) if premultiplied else colours
    content = written(
        np.concatenate([stored, alpha]).transpose(1, 2, 0).copy(),
        photometric="rgb",
        extrasamples=["assocalpha" if premultiplied else "unassalpha"],
    )

    picture = read_picture(content, ".tif")
    assert picture.alpha and np.array_equal(picture.values[3:], alpha)
    off = np.abs(picture.values[:3].astype(int) - colours.astype(int)).max()
    assert off <= (3 if premultiplied else 0)  # of halves of whole numbers


@pytest.mark.parametrize(("turn", "orientation"), [(0, 1), (2, 3), (1, 6), (3, 8)])
def test_orientation(turn, orientation):
    """Quarter turns against the clock, and the numbers of the tag that undo them."""
    values = bands(4)
    turned = np.rot90(values, turn, (1, 2))
    content = written(
        turned.transpose(1, 2, 0).copy(),
        photometric="rgb",
        extrasamples=[0],
        metadata=None,
        extratags=[(tiff.ORIENTATION, 3, 1, orientation, True)],
    )
    assert np.array_equal(read(content), values)


def test_upright_is_what_pil_does():
    pixels = bands(3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[tiff.ORIENTATION] = orientation
        Image.fromarray(pixels.transpose(1, 2, 0).copy()).save(file := io.BytesIO(), "PNG", exif=exif)
        assert np.array_equal(tiff.upright(pixels, orientation), read_picture(file.getvalue(), ".png").values)


def test_white_is_zero():
    values = bands(1, np.uint16, 65535)[0]
    stack = np.stack([values, values // 2])
    assert np.array_equal(read(written(stack, photometric="miniswhite")), ~stack)


def test_types_that_pillow_does_not_know():
    for dtype in (np.int16, np.int32, np.uint32):
        values = bands(1, dtype, 4095)
        assert np.array_equal(read(written(values[0], photometric="minisblack")), values)
    with pytest.raises(BadSample, match="below 0 or of more than 16 bits"):
        read(written(np.full(SHAPE, -5, np.int16), photometric="minisblack"))


def test_a_missing_codec_is_named(monkeypatch):
    """Where imagecodecs is not installed; pages of one band each are read by Pillow all the same."""
    values = bands(5, np.uint16, 65535)
    missing = ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    def refuse(*_, **__):
        raise missing

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", refuse)
    with pytest.raises(BadSample, match=r'needs `pip install "lacuna-ssl\[tiff\]"`'):
        read(written(values.transpose(1, 2, 0).copy(), photometric="minisblack", planarconfig="contig"))

    pages = [Image.fromarray(page) for page in bands(5)]
    pages[0].save(file := io.BytesIO(), "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    assert np.array_equal(read(file.getvalue()), bands(5))


def test_a_header_of_too_many_pixels():
    content = bytearray(written(bands(4).transpose(1, 2, 0).copy(), photometric="rgb", extrasamples=[0]))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        places = [file.pages.first.tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
        order = "little" if file.byteorder == "<" else "big"
    for place in places:
        content[place : place + 2] = (60_000).to_bytes(2, order)
    with pytest.raises(BadSample, match=r"too many pixels .*cut it into tiles"):
        read(bytes(content))


def test_cut_and_changed_files_are_bad_samples(tmp_path):
    content = written(bands(13, np.uint16).transpose(1, 2, 0).copy(), photometric="minisblack", planarconfig="contig")
    draw = np.random.default_rng(0)
    broken = [content[: len(content) * part // 8] for part in range(1, 8)]
    for _ in range(60):
        copy = np.frombuffer(content, np.uint8).copy()
        copy[draw.integers(0, 400, 4)] = draw.integers(0, 256, 4)
        broken.append(copy.tobytes())

    path, reader, bad = tmp_path / "a.tif", ImageReader(8, channels=13), 0
    for content in broken:
        path.write_bytes(content)
        try:
            assert reader.decode(Item("a.tif", str(path))).shape[0] == 13
        except BadSample:
            bad += 1
    assert bad >= 7
