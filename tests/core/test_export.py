"""Saved encoders: what goes in comes out, and nothing that a stranger wrote is run."""

import json
from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from core import load_encoder
from core.config import compose
from core.config.build import build_method
from core.errors import UserError
from core.export import export_encoder, open_encoder

SMALL = ["size=nano", "modality.size=[32,48]", "modality.patch=[8,8]", "data=folder", "data.root=none"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A method, its config, and the run folder with its exported encoder."""
    torch.manual_seed(0)
    config = compose(["modality=image", "method=mae", *SMALL])
    method = build_method(config).eval()
    run = tmp_path_factory.mktemp("run")
    export_encoder(run, method, config)
    return method, run


@pytest.fixture
def two_views(tmp_path):
    """A method with an encoder for each of two views, and the run folder with both."""
    config = compose(["modality=image", "method=mae", *SMALL])
    build_method(config)  # completes the nodes
    for part, target in [("tokenizer", "core.tokenizers.TokenizerByView"), ("encoder", "core.encoder.EncoderByView")]:
        node = config["method"][part]
        config["method"][part] = {"_target_": target, "views": {"left": deepcopy(node), "right": deepcopy(node)}}

    method = build_method(config).eval()
    export_encoder(tmp_path, method, config)
    return method, tmp_path


@pytest.fixture
def copied(trained, tmp_path):
    """A private copy of the saved encoder, to be spoilt."""
    for file in (trained[1] / "encoder").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@torch.no_grad()
def test_what_is_loaded_computes_what_was_saved(trained):
    method, run = trained
    images = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8)
    features = load_encoder(run)(images)
    latent = method.encoder(method.tokenizer(images).unmasked())
    assert torch.equal(features.tokens, latent.features)
    assert torch.equal(features.cls, latent.cls)
    assert_close(features.pooled, latent.features.mean(1))
    assert features.grid == (4, 6)


@torch.no_grad()
@pytest.mark.parametrize("view", ["left", "right"])
def test_an_encoder_for_each_view(two_views, view):
    method, run = two_views
    images = torch.rand(2, 3, 32, 48)
    tokens = method.tokenizer.tokenize_views({"left": images, "right": images})
    latents = method.encoder.encode_views({name: one.unmasked() for name, one in tokens.items()})
    assert not torch.equal(latents["left"].features, latents["right"].features)

    for path in (run, run / "encoder"):
        assert torch.equal(load_encoder(path, view=view)(images).tokens, latents[view].features)
    assert load_encoder(run / "encoder" / view).view == view


@pytest.mark.parametrize("view", [None, "middle"])
def test_a_view_is_chosen_where_there_are_several(two_views, view):
    with pytest.raises(UserError, match="left, right: choose one by view="):
        load_encoder(two_views[1], view=view)


def test_a_view_that_an_encoder_does_not_have(trained):
    with pytest.raises(UserError, match="of the view image, none of view=left"):
        load_encoder(trained[1], view="left")


def test_a_run_without_its_encoder_says_how_to_go_on(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UserError, match=f"config={tmp_path}/config.yaml run_dir={tmp_path} goes on"):
        load_encoder(tmp_path)


@torch.no_grad()
def test_bytes_and_unit_floats_are_the_same_image(trained):
    encoder = load_encoder(trained[1] / "encoder")
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    assert_close(encoder(images).tokens, encoder(images.float() / 255).tokens)


@torch.no_grad()
def test_other_grids_are_taken(trained):
    assert load_encoder(trained[1])(torch.rand(1, 3, 64, 16)).tokens.shape == (1, 16, 128)


def test_the_folder_needs_no_training_code(trained):
    config = json.loads((trained[1] / "encoder" / "config.json").read_text())
    named = json.dumps(config)
    assert "core.methods" not in named and "core.engine" not in named and "masker" not in named
    assert "${" not in named


def test_fresh_weights_differ_from_the_trained(trained):
    torch.manual_seed(1)  # not that of the fixture
    fresh, own = load_encoder(trained[1], pretrained=False), load_encoder(trained[1])
    weight = "encoder.trunk.blocks.0.mlp.fc1.weight"
    assert fresh.state_dict().keys() == own.state_dict().keys()
    assert not torch.equal(fresh.state_dict()[weight], own.state_dict()[weight])


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "subprocess.run", "core.config.build.torch.hub.load"])
def test_a_target_outside_the_allowed_packages_is_refused(copied, target):
    config = json.loads((copied / "config.json").read_text())
    config["encoder"]["embed"] = {"_target_": target, "command": "true"}
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=target.partition(".")[0]):
        load_encoder(copied)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "config.json").unlink(), "no config.json"),
        (lambda p: (p / "config.json").write_text("{"), "cannot be read"),
        (lambda p: (p / "config.json").write_text('{"format": 99}'), "no encoder of format"),
        (lambda p: (p / "model.safetensors").write_bytes(b"\x80\x04pickle"), "safetensors"),
        (lambda p: (p / "model.safetensors").unlink(), "safetensors"),
    ],
)
def test_missing_and_damaged_files_are_named(copied, spoil, message):
    spoil(copied)
    with pytest.raises(UserError, match=message):
        load_encoder(copied)


def test_weights_of_another_shape_are_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    config["encoder"]["trunk"]["depth"] = 7
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit.*trunk.blocks.6"):
        load_encoder(copied)


@torch.no_grad()
def test_encoders_by_name():
    features = open_encoder("video", "videomae_tiny")(torch.rand(1, 3, 16, 32, 32))
    assert features.tokens.shape == (1, 8 * 2 * 2, 192)
    with pytest.raises(UserError, match="mea"):
        open_encoder("image", "mea_base")
