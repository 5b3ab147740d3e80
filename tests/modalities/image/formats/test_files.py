"""Formats that Pillow reads, and those for which it needs help."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from core.errors import BadSample
from modalities.image.formats import files
from modalities.image.formats.files import read_picture
from modalities.image.formats.picture import Picture, on_black, to_bytes, with_channels


@pytest.fixture
def colours() -> np.ndarray:
    """(h, w, 3): smooth, so that lossy formats keep it."""
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([x * 8, y * 10, 255 - x * 4], axis=2).astype(np.uint8)


def saved(image: Image.Image, form: str, **options) -> bytes:
    image.save(file := io.BytesIO(), form, **options)
    return file.getvalue()


def deep_png(values: np.ndarray) -> bytes:
    """16 bits, (h, w, C) with C 2, 3 or 4: signature, header, data and end (PNG specification, 5)."""
    height, width, count = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
    content = files.PNG
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


@pytest.mark.parametrize(
    ("name", "form"), [("a.tga", "TGA"), ("a.sgi", "SGI"), ("a.pcx", "PCX"), ("a.dds", "DDS"), ("a.jp2", "JPEG2000")]
)
def test_lossless_formats(colours, name, form):
    picture = read_picture(saved(Image.fromarray(colours), form), name[1:])
    assert name[1:] in files.extensions() and np.array_equal(picture.values, colours.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "content", [b"<html>404</html>", b"\x89PNG\r\n\x1a\n", b"GIF89a", bytes(100), b"BM" + bytes(50)]
)
def test_no_address_in_the_reason(content):
    """By the address of its buffer every file would have a reason of its own."""
    with pytest.raises(BadSample, match="is no readable image") as raised:
        read_picture(content, ".png")
    assert "0x" not in str(raised.value) and "object at" not in str(raised.value)


@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
def test_formats_of_telephones(colours, form):
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {form}")
    picture = read_picture(saved(Image.fromarray(colours), form, quality=95), f".{form.lower()}")
    off = picture.values.astype(int) - colours.transpose(2, 0, 1)
    assert np.abs(off).mean() < 3


@pytest.mark.parametrize(
    ("suffix", "remedy"), [(".heic", r"lacuna-ssl\[heic\]"), (".heif", r"lacuna-ssl\[heic\]"), (".avif", "Pillow 11.3")]
)
def test_a_missing_package_is_named(monkeypatch, suffix, remedy):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    assert suffix in files.extensions()
    with pytest.raises(BadSample, match=remedy):
        read_picture(b"\0\0\0\x18ftypheic" + bytes(90), suffix)


def test_formats_that_run_programs_or_are_no_pictures_are_not_opened():
    assert not {".eps", ".ps", ".wmf", ".mpg", ".mpeg", ".h5", ".grib"} & set(files.extensions())
    with pytest.raises(BadSample, match="is no readable image"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", ".png")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_deep_pngs_keep_all_bits(count):
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, count), dtype=np.uint16)
    picture = read_picture(deep_png(values), ".png")
    assert picture.values.dtype == np.uint16 and np.array_equal(picture.values, values.transpose(2, 0, 1))
    assert picture.alpha == (count != 3)


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_animations_give_their_first_frame(colours, form, options):
    image = Image.fromarray(colours).quantize(16).convert("RGB")
    others = [image.rotate(180), image.rotate(90)]
    picture = read_picture(saved(image, form, save_all=True, append_images=others, **options), f".{form.lower()}")
    off = np.abs(picture.values[:3].astype(int) - np.array(image).transpose(2, 0, 1)).max()
    assert off <= 1 and picture.notes == ("a file of several frames, of which the first is read",)


def test_grey_is_recognised():
    grey = np.random.default_rng(0).integers(0, 256, (1, 6, 5), dtype=np.uint8)
    hole = np.full_like(grey, 255)
    hole[:, 2] = 0
    tinted = grey.repeat(3, 0)
    tinted[0, 2] ^= 1

    assert Picture(grey).is_grey and Picture(grey.repeat(3, 0)).is_grey
    assert Picture(np.concatenate([grey, hole]), alpha=True).is_grey
    assert Picture(np.concatenate([tinted, hole]), alpha=True).is_grey  # the tint is in the hole
    assert not Picture(tinted).is_grey
    assert not Picture(grey.repeat(2, 0)).is_grey and not Picture(grey.repeat(4, 0)).is_grey  # bands


def test_a_colour_jpeg_of_a_grey_picture_is_grey(colours):
    grey = Image.fromarray(colours).convert("L").convert("RGB")
    assert read_picture(saved(grey, "JPEG", quality=80), ".jpg").is_grey
    assert not read_picture(saved(Image.fromarray(colours), "JPEG", quality=80), ".jpg").is_grey


def test_opacity_on_black_is_what_pil_pastes():
    rgba = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    image, black = Image.fromarray(rgba), Image.new("RGB", (50, 40))
    black.paste(image, mask=image.getchannel("A"))
    assert np.array_equal(on_black(rgba.transpose(2, 0, 1)), np.array(black).transpose(2, 0, 1))


def test_numbers_of_channels():
    rgba = np.arange(4, dtype=np.uint8)[:, None, None] + np.full((4, 2, 2), 100, np.uint8)
    grey_alpha = rgba[2:]
    assert with_channels(rgba, 4, alpha=True) is rgba
    assert with_channels(grey_alpha, 2, alpha=True) is grey_alpha
    assert with_channels(grey_alpha, 4, alpha=True)[:, 0, 0].tolist() == [102, 102, 102, 103]
    assert with_channels(grey_alpha, 3, alpha=True).shape == with_channels(rgba, 3, alpha=True).shape == (3, 2, 2)
    assert with_channels(rgba[None, :1], 3).shape == (1, 3, 2, 2)  # clips have frames before the channels
    for count in (1, 2, 3, 5):
        with pytest.raises(BadSample, match=f"has 4 channels, but {count} are wanted: set modality.channels=4"):
            with_channels(rgba, count)


def test_deep_values_become_bytes():
    deep = np.array([0, 128, 257, 32768, 65535], np.uint16)
    assert to_bytes(deep, 65535).tolist() == [0, 0, 1, 128, 255]
    assert to_bytes(deep, 257).tolist() == [0, 127, 255, 255, 255]
