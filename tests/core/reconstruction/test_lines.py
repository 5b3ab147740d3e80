"""Samples along one axis as curves: hidden stretches are shaded, visible values are the input's own."""

import re

import pytest
import torch

from core.decoders import MAEDecoder
from core.embeddings import PatchEmbed, SinCos
from core.encoder import Trunk, ViT
from core.errors import UserError
from core.losses import mse
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.reconstruction import lines
from core.reconstruction.lines import LinePictures
from core.targets import Pixels
from core.tokenizers import Normalise, Patchify
from core.tokens import Batch


@pytest.fixture
def method():
    torch.manual_seed(0)
    normalise = Normalise([0.0], [1.0])
    encoder = ViT(embed=PatchEmbed(8, 24, normalise, SinCos((8,), 24)), trunk=Trunk(24, 1, 2))
    objective = Objective(Pixels((4,), 2, (8,), normalise, "none"), mse, Head(16, 8))
    decoder = MAEDecoder(24, 16, trunk=Trunk(16, 1, 2), positions=SinCos((8,), 16))
    readouts = {"main": Readout(objectives={"x": objective}, decoder=decoder)}
    return MaskedAutoencoder(Patchify((4,), (32,), 2), RandomMasker(0.5), encoder, readouts).eval()


def batch(channels=2):
    time = torch.arange(32) / 5
    waves = [torch.stack([(-3) ** c * torch.sin(time + n) for c in range(channels)]) for n in range(3)]
    return Batch({"signal": torch.stack(waves)}, ["<a>", "b", "c"])


def test_a_signal_is_drawn_as_curves(method):
    samples = batch()
    ctx = method.context(samples, generator=torch.Generator().manual_seed(0))
    masks = method.draw_mask(ctx)
    gallery = LinePictures().draw(method, samples, masks)
    assert len(gallery.masks) == len(gallery.reconstructions) == 3

    (raster,) = gallery.reconstructions[0].rasters
    text = raster.data.decode()
    assert text.count("<polyline") == 2 * 3, "input, interpolation and reconstruction of two channels"
    assert "<a>" not in text and "&lt;a&gt;" in text and raster.size == (lines.WIDTH, 2 * lines.BAND)

    # Half of the patches are hidden; the shaded stretches are as wide as those.
    widths = [float(width) for width in re.findall(r'y="0" width="([\d.]+)"', text)]
    assert sum(widths) == pytest.approx(0.5 * (lines.WIDTH - 2 * lines.MARGIN), abs=0.5)
    assert gallery.masks[0].rasters[0].data.decode().count("<polyline") == 2


def test_values_beyond_those_of_pictures_are_not_cut(method):
    """The second channel goes from -3 to 3: its curve fills its band."""
    samples = batch()
    masks = method.draw_mask(method.context(samples, generator=torch.Generator().manual_seed(0)))
    text = LinePictures().draw(method, samples, masks).masks[0].rasters[0].data.decode()
    second = re.findall(r'<polyline points="([^"]+)"', text)[1]
    heights = [float(point.split(",")[1]) for point in second.split()]
    assert max(heights) - min(heights) == pytest.approx(lines.BAND - 2 * lines.MARGIN, abs=0.2)


def test_thumbnails_are_small_curves():
    rasters = LinePictures().thumbnails(batch(), 64)
    assert [raster.size for raster in rasters] == 3 * [(64, 32)]
    assert all(raster.data.decode().count("<polyline") == 1 for raster in rasters)


def test_samples_of_more_axes_are_no_curves(method):
    with pytest.raises(UserError, match="Curves are of samples"):
        LinePictures().draw(method, Batch({"signal": torch.zeros(1, 2, 8, 8)}, ["a"]), {"signal": None})


@pytest.mark.parametrize(
    ("flags", "stretches"),
    [("0110", [(1, 3)]), ("1001", [(0, 1), (3, 4)]), ("0000", []), ("1111", [(0, 4)])],
)
def test_stretches(flags, stretches):
    assert lines._stretches(torch.tensor([flag == "1" for flag in flags])) == stretches
