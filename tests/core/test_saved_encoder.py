"""An encoder by itself: it reads files, refuses what it cannot mean, takes no gradients unless asked."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from core import encode, load_classifier, load_encoder, open_run
from core.config import compose
from core.config.build import build, build_method
from core.data.sources import Item
from core.errors import UserError
from core.evaluation.tasks import run_task
from core.export import Features, SavedEncoder, export_encoder, export_official
from core.reconstruction.sheet import Drawer
from tests.core.official_files import official_mae

SIZE = ["size=nano", "data=folder", "data.root=none"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with an exported image encoder of 32 × 48 pixels."""
    torch.manual_seed(0)
    config = compose(["modality=image", "method=mae", "modality.size=[32,48]", "modality.patch=[8,8]", *SIZE])
    path = tmp_path_factory.mktemp("run")
    export_encoder(path, build_method(config).eval(), config)
    return path


@pytest.fixture
def encoder(run) -> SavedEncoder:
    return load_encoder(run)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten pictures of two brightnesses in class folders, of several sizes and forms."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for number in range(20):
        folder = root / ("dark" if number % 2 else "light")
        folder.mkdir(exist_ok=True)
        values = draw.integers(0, 100, (40 + number, 60, 3), dtype=np.uint8) + 150 * (1 - number % 2)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return root


def test_files_are_read_as_evaluations_read_them(run, encoder, pictures):
    """The expected batch is that of the run's reader, built from its config."""
    config = compose(["modality=image", "method=mae", "modality.size=[32,48]", "modality.patch=[8,8]", *SIZE])
    reader = build(config["modality"]["reader"], key="reader")
    paths = sorted(pictures.rglob("*.png"))[:3]
    expected = torch.cat([reader.read(Item(str(path), str(path)), train=False) for path in paths])

    assert torch.equal(encoder.read(paths), expected) and torch.equal(encoder.read(str(paths[0])), expected[:1])
    assert torch.equal(encoder.read([Image.open(path) for path in paths]), expected)
    assert torch.equal(encoder.read([np.asarray(Image.open(path)) for path in paths]), expected)
    assert torch.equal(encoder.read(expected), expected)  # of an array alone the first axis counts samples


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_every_mode_are_read_as_their_files_are(encoder, tmp_path, mode):
    """Lossless files of that mode; a photograph's rotation counts too."""
    values = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    deep = Image.fromarray(values[..., 0].astype(np.uint16) * 200)
    picture = deep if mode == "I;16" else picture.convert(mode)
    picture.save(tmp_path / "a.tif")
    assert torch.equal(encoder.read(picture), encoder.read(tmp_path / "a.tif"))


def test_the_rotation_of_a_photograph_counts(encoder, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (64, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    upright = Image.fromarray(np.rot90(values, -1))
    assert torch.equal(encoder.read(Image.open(tmp_path / "a.png")), encoder.read(upright))


def test_encode_gives_the_pooled_features_in_numpy(encoder, pictures):
    paths = sorted(pictures.rglob("*.png"))
    features = encoder.encode(paths, batch_size=7)
    assert features.dtype == np.float32 and features.shape == (20, encoder.embed_dim)
    expected = encoder(encoder.read(paths)).pooled.numpy()
    assert_close(torch.from_numpy(features), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)
    assert_close(encoder.encode(encoder.read(paths)), features, atol=1e-5, rtol=1e-5)


def test_a_file_that_cannot_be_read_has_a_row_of_nan_and_is_named(encoder, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    path = next(pictures.rglob("*.png"))
    with pytest.warns(UserWarning, match=r"1 of 2 samples cannot be read \(.*bad\.png: .*NaN"):
        features = encoder.encode([tmp_path / "bad.png", path])
    assert np.isnan(features[0]).all() and np.isfinite(features[1]).all()
    for samples in ([tmp_path / "bad.png"], tmp_path / "none.png", tmp_path, [], [3], np.float32(1)):
        with pytest.raises(UserError):
            encoder.encode(samples)
    with pytest.raises(UserError, match=r"bad\.png|no readable image"):
        encoder.read(tmp_path / "bad.png")


def test_arrays_are_tensors(encoder):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 48), dtype=np.uint8)
    assert torch.equal(encoder(images).tokens, encoder(torch.from_numpy(images)).tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 255, r"0 to 25\d.*Divide them by 255"),
        (lambda x: (x - 0.5) / 0.25, "normalised already"),
        (lambda x: x * 2 - 1, "normalised already"),
        (lambda x: x + 1.5, "normalised already"),
    ],
)
def test_floats_of_another_range_bring_one_warning(encoder, change, message):
    images = torch.linspace(0, 1, 3 * 32 * 48).view(1, 3, 32, 48)
    with pytest.warns(UserWarning, match=message) as caught:
        encoder(change(images))
        encoder(change(images))
    assert len(caught) == 1


def test_pixels_as_expected_bring_none(encoder):
    with warnings.catch_warnings(action="error"):
        encoder(torch.rand(1, 3, 32, 48))
        encoder(torch.rand(1, 3, 32, 48) * 1.2 - 0.1)  # resized pictures overshoot
        encoder(torch.zeros(1, 3, 32, 48, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(1, 3, 32, 48, dtype=torch.int64), "torch.int64.*to\\(torch.uint8\\)"),
        (np.zeros((1, 3, 32, 48), dtype=np.int32), "torch.int32"),
        (torch.zeros(1, 3, 32, 48, dtype=torch.bool), "torch.bool"),
        (np.zeros((1, 3, 32, 48), dtype=np.uint16), "65535"),
        (torch.full((1, 3, 32, 48), float("nan")), "NaN"),
        (torch.full((1, 3, 32, 48), float("inf")), "NaN or infinite"),
        (torch.zeros(3, 32, 48), "axis of the batch"),
        (torch.zeros(1, 32, 48, 3), "Channels come second"),
        ([torch.zeros(3, 32, 48)], "list.*encoder.read"),
        ("a.png", "str.*encoder.read"),
    ],
)
def test_other_batches_are_refused_with_the_remedy(encoder, data, message):
    with pytest.raises(UserError, match=message):
        encoder(data)


def test_what_goes_in_is_printed(encoder):
    text = repr(encoder)
    for words in ("image", "mae nano", "uint8, or floats from 0 to 1", "(B, 3, 32, 48)", "(8, 8)", "(B, 128)"):
        assert words in text
    assert len(text.splitlines()) == 3


def test_weights_take_no_gradients_until_training(run):
    encoder = load_encoder(run)
    assert not encoder.training and not encoder(torch.rand(1, 3, 32, 48)).pooled.requires_grad
    encoder.train()
    encoder(torch.rand(1, 3, 32, 48)).pooled.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.encoder.trunk.parameters())

    encoder = load_encoder(run).unfreeze()
    assert encoder(torch.rand(1, 3, 32, 48)).pooled.requires_grad and not encoder.training


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((3, 32, 48), r"data\[None\]"),
        ((2, 32, 48, 3), "torch.movedim"),
        ((2, 1, 32, 48), "trained on 3 channels, these have 1"),
        ((2, 3, 30, 50), "Resize the batch"),
        ((2, 3, 4, 32, 48), r"encoder\.read"),
        ((48,), r"encoder\.read"),
        ((2, 3, 0, 48), "Resize the batch"),
    ],
)
def test_a_batch_of_another_shape_is_refused_in_words_of_the_encoder(encoder, shape, remedy):
    with pytest.raises(UserError, match=rf"takes \(B, 3, 32, 48\), or other sizes in multiples of \(8, 8\).*{remedy}"):
        encoder(torch.zeros(shape))


def test_a_whole_encoder_is_exported(encoder):
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    program = torch.export.export(encoder, (images,))
    features = program.module()(images)
    assert isinstance(features, Features) and features.grid == (4, 6)
    assert_close(features.pooled, encoder(images).pooled, atol=1e-5, rtol=1e-5)


def test_an_exported_encoder_is_saved_and_opened_again(encoder, tmp_path):
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    program = torch.export.export(encoder, (images,), dynamic_shapes=({0: torch.export.Dim("samples")},))
    torch.export.save(program, tmp_path / "encoder.pt2")
    features = torch.export.load(tmp_path / "encoder.pt2").module()(images.repeat(3, 1, 1, 1))
    assert isinstance(features, Features) and features.pooled.shape == (6, 128)
    assert_close(features.pooled, encoder(images).pooled.repeat(3, 1), atol=1e-5, rtol=1e-5)


def test_an_encoder_of_an_earlier_version_still_opens(run, tmp_path):
    for file in (run / "encoder").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["reader"], config["values"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(tmp_path)
    assert encoder(torch.rand(1, 3, 32, 48)).pooled.shape == (1, 128)
    with pytest.raises(UserError, match="without its reader"):
        encoder.encode([np.zeros((32, 48, 3), dtype=np.uint8)])
    with pytest.raises(UserError, match="without its reader"):
        run_task(tmp_path, "knn", "data.root=pictures")


def test_clips_are_read_too(tmp_path):
    config = compose(["modality=video", "method=videomae", "modality.size=[4,16,16]", "modality.patch=[2,8,8]", *SIZE])
    export_encoder(tmp_path, build_method(config).eval(), config)
    encoder = load_encoder(tmp_path)
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), dtype=np.uint8)
    assert torch.equal(encoder.read(clips), torch.from_numpy(clips).permute(0, 4, 1, 2, 3))
    assert encoder.encode(list(clips)).shape == (2, 128)


def test_a_converted_encoder_is_evaluated_like_a_run(tmp_path, pictures):
    """Two brightnesses, which even random weights tell apart."""
    export_official("mae", official_mae(), tmp_path / "mae")
    result = run_task(tmp_path / "mae", "knn", f"data.root={pictures}", folds=2, seeds=1)
    assert result.accuracy > 0.9
    assert len(list((tmp_path / "mae" / "evaluation").glob("knn*.json"))) == 1
    with pytest.raises(UserError, match=r"saved encoder.*data\.root"):
        run_task(tmp_path / "mae", "knn")
    with pytest.raises(UserError, match=r"no config\.json"):
        run_task(tmp_path, "knn", f"data.root={pictures}")


@pytest.fixture
def converted(tmp_path) -> Path:
    export_official("mae", official_mae(), tmp_path / "mae")
    return tmp_path / "mae"


def test_a_converted_encoder_encodes_files(converted, pictures, tmp_path):
    out = tmp_path / "features.npz"
    assert encode.main([f"run={converted}", f"data.root={pictures}", f"out={out}"]) == 0
    arrays = np.load(out)
    files = [pictures / key for key in arrays["key"]]
    assert_close(
        torch.tensor(arrays["features"]), torch.tensor(load_encoder(converted).encode(files)), atol=1e-4, rtol=0
    )


def test_a_converted_encoder_is_fine_tuned(converted, pictures, capsys):
    """Without the baseline of equal compute, which it does not tell; with a classifier beside it."""
    options = {"folds": 2, "seeds": 1, "epochs": 1}
    result = run_task(converted, "finetune", f"data.root={pictures}", **options)
    assert set(result.baselines) == {"majority class", "random init"}
    assert "supervised, equal compute, is left out" in capsys.readouterr().err

    (folder,) = (converted / "classifier").iterdir()
    files = sorted(map(str, pictures.rglob("*.png")))[:2]
    assert len(load_classifier(folder)(files).labels) == 2
    with pytest.raises(UserError, match=r"how much compute.*Leave out supervised=true"):
        run_task(converted, "knn", f"data.root={pictures}", supervised=True, **options)


def test_a_converted_encoder_is_no_run(converted, pictures):
    message = r"saved encoder, not a run.*init\.from="
    with pytest.raises(UserError, match=message):
        open_run(converted)
    with pytest.raises(UserError, match=message):
        Drawer(converted)
    with pytest.raises(UserError, match=message):
        run_task(converted, "reconstruction", f"data.root={pictures}")
