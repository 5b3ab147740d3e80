"""Encoders of clouds as people use them: by name, from a file or a run; tensors, lists, arrays and files."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core import load_encoder
from core.config import compose
from core.config.build import build_method
from core.errors import UserError
from core.export import export_encoder
from modalities.point import encoder
from tests.parity.vectors import Folder, cases

NANO = ["modality=point", "size=nano", "data=folder", "data.root=none"]


@pytest.fixture(params=["point_mae", "point_m2ae"])
def run(request, tmp_path):
    """A folder with the encoder of a run."""
    torch.manual_seed(0)
    config = compose([*NANO, f"method={request.param}"])
    export_encoder(tmp_path, build_method(config), config)
    return tmp_path


def test_an_encoder_by_name_has_features_of_groups_with_their_centres():
    opened = encoder("point_mae_nano")
    clouds = torch.randn(2, 1024, 3)
    features = opened(clouds)
    assert features.tokens.shape == (2, 64, 128) and features.pooled.shape == (2, 128)
    assert features.coords.shape == (2, 64, 3)
    gaps = torch.cdist(features.coords, clouds, compute_mode="donot_use_mm_for_euclid_dist").amin(2)
    assert torch.equal(gaps, torch.zeros_like(gaps)), "centres are points of the cloud"
    torch.testing.assert_close(features.pooled, features.tokens.mean(1))
    assert "clouds (B, N, 3 + C)" in repr(opened)


def test_clouds_of_unlike_size_are_encoded_as_each_is_alone(run):
    opened = load_encoder(run)
    clouds = [torch.randn(700, 3), torch.randn(1500, 3), torch.randn(1024, 3)]
    together = opened(clouds)
    for number, cloud in enumerate(clouds):
        alone = opened(cloud[None])
        torch.testing.assert_close(together.tokens[number], alone.tokens[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.pooled[number], alone.pooled[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(together.coords[number], alone.coords[0])


def test_arrays_are_taken_as_tensors_are(run):
    opened = load_encoder(run)
    clouds = [np.random.default_rng(number).normal(size=(600, 3)) for number in range(2)]
    features = opened(clouds)
    tensors = opened(torch.tensor(np.stack(clouds)))
    assert torch.equal(features.tokens, tensors.tokens)
    assert torch.equal(opened(np.stack(clouds)).tokens, tensors.tokens)


def test_files_and_arrays_are_centred_and_scaled(run, tmp_path):
    """Metres far from the origin are encoded as the same cloud in the unit sphere."""
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(300, 3))
    np.save(tmp_path / "far.npy", 40 * cloud + 1000)
    opened = load_encoder(run)
    cloud = (40 * cloud + 1000) - (40 * cloud + 1000).mean(0)
    unit = cloud / np.linalg.norm(cloud, axis=1).max()
    read = opened.read([str(tmp_path / "far.npy")])
    distances = torch.cdist(read.points[0].double(), torch.from_numpy(unit)).amin(1)
    assert distances.max() < 1e-5
    assert opened.encode([str(tmp_path / "far.npy")]).shape == (1, 128)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(100, 3), r"of shape \(100, 3\).*cloud\[None\]"),
        ([torch.zeros(100, 3), torch.zeros(100, 2)], r"a list with a tensor of shape \(100, 2\)"),
        ([torch.zeros(1, 100, 3)], r"a list with a tensor of shape \(1, 100, 3\).*two axes"),
        ([], "an empty list"),
        ("cloud.npy", "a str"),
    ],
    ids=["one cloud", "two columns", "three axes", "nothing", "path"],
)
def test_what_is_no_batch_of_clouds_is_one_message(run, data, message):
    with pytest.raises(UserError, match=message):
        load_encoder(run)(data)


@pytest.mark.parametrize("case", cases("point-mae", "point-mae-finetune"))
def test_official_files_open_by_name(case, tmp_path):
    """Pre-trained and fine-tuned, as they are saved without parallel training: each name behind `module.`."""
    folder = Folder(case[1], "point-mae")
    state = {f"module.{key}": value.contiguous() for key, value in folder.checkpoint.items()}
    save_file(state, tmp_path / "file.safetensors")
    with pytest.warns(UserWarning):  # heads are not in tensors; a classifier has no decoder
        opened = encoder("point_mae_small", weights=tmp_path / "file.safetensors")
    features = opened(torch.randn(2, 200, 3))
    assert features.tokens.shape == (2, 64, opened.embed_dim) and features.pooled.isfinite().all()
    assert (features.cls is None) == (case[0] == "point-mae")
