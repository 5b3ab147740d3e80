import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from core import seeding
from core.data.sources import Item
from core.errors import BadSample, UserError
from modalities.image.reader import ImageReader


@pytest.fixture
def colours() -> np.ndarray:
    """(h, w, 3): smooth, so that lossy formats keep it."""
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([x * 8, y * 10, 255 - x * 4], axis=2).astype(np.uint8)


@pytest.fixture
def put(tmp_path):
    """Writes bytes, an array or a PIL image to a file and gives its item."""

    def put(name, content, **options) -> Item:
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path, **options)
        return Item(name, str(path))

    return put


def decode(item, channels=3, **settings):
    return ImageReader(16, channels=channels, **settings).decode(item)


def chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("a.png", "A.PNG", "a.bmp", "a.ppm", "a.tif")),
        ("a.tiff", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
    ],
)
def test_lossless_formats(put, colours, name, options):
    pixels = decode(put(name, Image.fromarray(colours), **options))
    assert pixels.dtype == torch.uint8 and torch.equal(pixels, chw(colours))


@pytest.mark.parametrize(("name", "options"), [("a.jpg", {"quality": 95}), ("a.webp", {"quality": 95})])
def test_lossy_formats(put, colours, name, options):
    off = decode(put(name, Image.fromarray(colours), **options)).int() - chw(colours).int()
    assert off.abs().float().mean() < 3


def test_one_reader_gives_one_shape(put, colours):
    """Every kind of file, for 1 and 3 channels, as training and as evaluation sees it."""
    image = Image.fromarray(colours)
    items = [put(f"{mode}.png", image.convert(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    items += [put("cmyk.jpg", image.convert("CMYK")), put("lab.tif", image.convert("LAB")), put("g.gif", image)]
    items += [put("deep.png", Image.fromarray(np.zeros((9, 7), np.uint16)))]
    items += [put(f"{i}.npy", values) for i, values in enumerate((colours, colours[..., 0], chw(colours).numpy()))]
    for channels in (1, 3):
        reader = ImageReader((16, 12), channels=channels, repeats=2)
        train = reader.collate([reader.read(item, train=True) for item in items])
        test = reader.collate([reader.read(item, train=False) for item in items])
        assert train.shape == (2 * len(items), channels, 16, 12) and test.shape == (len(items), channels, 16, 12)
        assert train.dtype == test.dtype == torch.uint8 and test.is_contiguous()


def test_grey_and_colour(put, colours):
    grey = colours[..., 0]
    assert torch.equal(decode(put("g.png", Image.fromarray(grey))), torch.from_numpy(grey).expand(3, -1, -1))
    assert torch.equal(decode(put("g.png", Image.fromarray(grey)), channels=1)[0], torch.from_numpy(grey))
    luma = torch.from_numpy(np.array(Image.fromarray(colours).convert("L")))
    assert torch.equal(decode(put("c.png", Image.fromarray(colours)), channels=1)[0], luma)
    assert torch.equal(decode(put("c.npy", colours), channels=1)[0], luma)


def test_alpha_is_composited_on_black_unless_wanted(put, colours):
    alpha = np.full((24, 32, 1), 255, np.uint8)
    alpha[:, :16] = 0
    rgba = np.concatenate([colours, alpha], axis=2)
    item = put("a.png", Image.fromarray(rgba))
    expected = colours * (alpha > 0)
    assert torch.equal(decode(item), chw(expected))
    assert torch.equal(decode(item, channels=4), chw(rgba))
    assert decode(item, channels=1)[0, :, :16].eq(0).all()


def test_palettes(put, colours):
    palette = Image.fromarray(colours).quantize(16)
    assert torch.equal(decode(put("p.png", palette)), chw(np.array(palette.convert("RGB"))))
    palette.info["transparency"] = palette.getpixel((0, 0))
    palette.save(buffer := io.BytesIO(), "PNG", transparency=palette.getpixel((0, 0)))
    assert decode(put("t.png", buffer.getvalue()))[:, 0, 0].tolist() == [0, 0, 0]
    palette.save(buffer := io.BytesIO(), "PNG", transparency=bytes(range(0, 256, 16)))
    decode(put("u.png", buffer.getvalue()))  # no warning


def test_sixteen_bits(put):
    deep = np.array([[0, 257, 4095], [65535, 32768, 128]], np.uint16)
    for item in (
        put("d.png", Image.fromarray(deep)),
        put("d.tif", Image.fromarray(deep)),
        put("d.npy", deep),
        put("e.npy", deep.astype(">u2")),
    ):
        assert decode(item, channels=1)[0].tolist() == [[0, 1, 16], [255, 128, 0]]
        assert decode(item, channels=1, white=4095)[0].tolist() == [[0, 16, 255], [255, 255, 8]]


def test_exif_rotation(put, colours):
    exif = Image.Exif()
    exif[0x0112] = 6
    item = put("r.png", Image.fromarray(colours), exif=exif)
    assert torch.equal(decode(item), chw(np.rot90(colours, -1)))
    assert np.array_equal(np.array(ImageOps.exif_transpose(Image.open(item.path))), np.rot90(colours, -1))


def test_channels_of_arrays(put):
    bands = np.random.randint(0, 256, (7, 20, 30), dtype=np.uint8)
    expected = torch.from_numpy(bands)
    assert torch.equal(decode(put("a.npy", bands), channels=7), expected)
    assert torch.equal(decode(put("b.npy", np.ascontiguousarray(bands.transpose(1, 2, 0))), channels=7), expected)
    pages = [Image.fromarray(band) for band in bands]
    assert torch.equal(decode(put("c.tif", pages[0], save_all=True, append_images=pages[1:]), channels=7), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1(put, dtype):
    values = np.array([[0, 0.5, 1]], dtype)
    assert decode(put("a.npy", values), channels=1).tolist() == [[[0, 128, 255]]]
    if dtype == np.float32:
        assert decode(put("a.tif", Image.fromarray(values)), channels=1).tolist() == [[[0, 128, 255]]]


def test_booleans_and_small_integers(put):
    assert decode(put("a.npy", np.array([[True, False]])), channels=1).tolist() == [[[255, 0]]]
    assert decode(put("a.npy", np.array([[7, 255]])), channels=1).tolist() == [[[7, 255]]]


@pytest.mark.parametrize(
    ("values", "channels", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), 4, r"has 3 channels, but 4 are wanted: set modality.channels=3"),
        (np.zeros((8, 9, 5), np.uint8), 3, r"shape \(8, 9, 5\) is no image of 3 channels"),
        (np.zeros((2, 3, 8, 9), np.uint8), 3, "is no image"),
        (np.zeros(9, np.uint8), 1, "is no image"),
        (np.full((8, 8), 300), 1, "values of type int64 from 300 to 300: use uint8, uint16"),
        (np.full((8, 8), 2.5), 1, "values of type float64 from 2.5"),
        (np.full((8, 8), np.nan), 1, "from nan to nan"),
        (np.full((8, 8), -1), 1, "from -1"),
        (np.zeros((0, 8, 3), np.uint8), 3, "holds no pixel"),
        (np.array([["a"]]), 1, "not numbers"),
    ],
)
def test_arrays_that_do_not_fit(put, values, channels, message):
    with pytest.raises(BadSample, match=message):
        decode(put("a.npy", values), channels)


def test_too_few_channels(put, colours):
    with pytest.raises(BadSample, match="has 3 channels, but 4 are wanted"):
        decode(put("a.png", Image.fromarray(colours)), channels=4)


def noise_file(form: str) -> bytes:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file := io.BytesIO(), form)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_damaged_files(put, form):
    content = noise_file(form)
    for part in (2, 20, len(content) // 2):
        with pytest.raises(BadSample, match="is no readable image"):
            decode(put("a." + form.lower(), content[:part]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zero.jpg", b"", "empty"),
        ("text.jpg", b"<html>404 not found</html>", "is no readable image: cannot identify its format$"),
        ("text.npy", b"hello", "no readable array"),
    ],
)
def test_files_that_are_none(put, name, content, message):
    with pytest.raises(BadSample, match=message):
        decode(put(name, content))


@pytest.mark.parametrize("side", [20_000, 10_000])
def test_decompression_bombs(put, side):
    """A PNG header that promises far more pixels than there are bytes."""
    content = bytearray(noise_file("PNG"))
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(BadSample, match=r"too many pixels .*cut it into tiles"):
        decode(put("bomb.png", bytes(content)))


def test_bytes_changed_at_random_never_break_out(put):
    generator = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "TIFF", "GIF", "WEBP"):
        content = np.frombuffer(noise_file(form), np.uint8)
        for _ in range(40):
            broken = content.copy()
            broken[generator.integers(0, min(len(content), 400), 6)] = generator.integers(0, 256, 6)
            try:
                decode(put("x." + form.lower(), broken.tobytes()))
            except BadSample:
                continue


def test_evaluation_frame(put, colours):
    """As torchvision's Resize and CenterCrop, for a square."""
    raw = chw(colours)
    for size, ratio in ((16, 1.0), (14, 0.875), (40, 1.0)):
        resize = v2.Resize(int(size / ratio), v2.InterpolationMode.BICUBIC, antialias=True)
        expected = v2.CenterCrop(size)(resize(raw))
        assert torch.equal(ImageReader(size, crop_ratio=ratio).augment(raw, train=False)[0], expected)


@pytest.mark.parametrize("shape", [(24, 32), (32, 24), (5, 5), (1, 1), (1, 3000), (3000, 1), (200, 30)])
@pytest.mark.parametrize("size", [(16, 12), (12, 16), (1, 9)])
def test_any_image_fits_any_size(shape, size):
    reader = ImageReader(size, crop_ratio=0.9)
    raw = torch.full((3, *shape), 90, dtype=torch.uint8)
    for train in (False, True):
        views = reader.augment(raw, train)
        assert views.shape == (1, 3, *size) and views.eq(90).all()


def test_a_very_long_image_costs_little():
    raw = torch.zeros(3, 1, 100_000, dtype=torch.uint8)
    assert ImageReader(224).augment(raw, train=False).shape == (1, 3, 224, 224)


def test_training_views_are_drawn_from_the_global_generator(put, colours):
    item, reader = put("a.png", Image.fromarray(colours)), ImageReader(16, repeats=3)
    with seeding.seeded(1):
        first = reader.read(item, train=True)
    with seeding.seeded(1):
        again = reader.read(item, train=True)
    with seeding.seeded(2):
        other = reader.read(item, train=True)
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first[0], first[1])


def test_augmenting_leaves_the_decoded_image_alone(put, colours):
    reader = ImageReader(16, repeats=4)
    raw = reader.decode(put("a.npy", colours))
    reader.augment(raw, train=True)
    assert torch.equal(raw, chw(colours))


def test_own_transform(put, colours):
    item = put("a.png", Image.fromarray(colours))
    corner = ImageReader(24, transform=[v2.CenterCrop(24)]).read(item, train=True)[0]
    assert torch.equal(corner, chw(colours)[:, :, 4:28])
    with pytest.raises(UserError, match=r"modality.reader.transform makes \(3, 8, 8\) of an image, not \(3, 16, 16\)"):
        ImageReader(16, transform=[v2.CenterCrop(8)]).read(item, train=True)


def test_objects_are_aligned(put, colours, tmp_path):
    """A mask and an image that shows it come out alike."""
    mask = np.zeros((24, 32), bool)
    mask[6:18, 10:20] = True
    np.save(tmp_path / "a.object.npy", mask)
    item = put("a.png", Image.fromarray(mask.astype(np.uint8) * 255))
    item = Item(item.key, item.path, aux={"object": str(tmp_path / "a.object.npy")})
    reader = ImageReader((12, 12))
    objects = reader.objects(item)
    assert objects.dtype == torch.bool and torch.equal(objects, reader.read(item, train=False)[0, 0] > 127)
    assert reader.objects(put("b.png", Image.fromarray(colours))) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 0},
        {"size": [1, 2, 3]},
        {"size": 8, "channels": 0},
        {"size": 8, "crop_ratio": 1.5},
        {"size": 8, "repeats": 0},
    ],
)
def test_settings_that_are_wrong(settings):
    with pytest.raises(UserError, match=r"modality\.(size|channels|reader)"):
        ImageReader(**settings)


def test_a_look_at_pictures(put, colours):
    """Grey is recognised in whatever way the files hold it; notes say how values are changed."""
    grey = Image.fromarray(colours[..., 0])
    items = [put("l.png", grey), put("rgb.png", grey.convert("RGB")), put("rgb.jpg", grey.convert("RGB"))]
    items += [put("p.gif", grey), put("deep.png", Image.fromarray(colours[..., 0].astype(np.uint16) * 16))]
    items += [put("la.png", grey.convert("LA")), put("a.npy", colours[..., :1]), put("torn.png", b"torn")]
    facts = ImageReader(16).peek(items)
    assert facts.channels == 1 and facts.samples == 7 and set(facts.sizes) == {(24, 32)}
    assert [key for key, _ in facts.bad] == ["torn.png"]
    [note] = facts.notes
    assert note.endswith("none is above 4095, so set modality.reader.white=4095")

    assert ImageReader(16).peek([*items, put("c.png", Image.fromarray(colours))]).channels == 3
    assert ImageReader(16).peek([put("c.png", Image.fromarray(colours))]).channels == 3
    assert ImageReader(16).peek([put("torn.png", b"torn")]).channels is None
