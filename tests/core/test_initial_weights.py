"""`init.from=`: a whole method, other inputs, options that differ; teachers begin with what was loaded."""

import copy
import re
from pathlib import Path

import pytest
import torch

from core import train
from core.config import compose, dump
from core.config.build import build_method
from core.data.facts import DataFacts
from core.defaults import choose
from core.embeddings import SinCos
from core.engine.checkpoint import MODEL, STATE, Position, write_folder
from core.errors import UserError
from core.export import SavedEncoder, export_official, save_encoder
from core.initial_weights import choose_sizes, load_weights
from core.interop import load_official
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Readout
from core.teachers import MovingTeacher
from tests.contracts.toys import DIM, light, patches, raw_objective, vit
from tests.core.official_files import official_mae
from tests.core.small_runs import draw


class Copy(MovingTeacher):
    """Keeps the encoder as it was when told to follow."""

    def follow(self, method: MaskedAutoencoder) -> None:
        self.copy = copy.deepcopy(method.encoder).requires_grad_(False)


def shaken(seed: int) -> MaskedAutoencoder:
    """A method whose encoder and teacher have gone different ways."""
    readout = Readout(light((4, 4)), {"content": raw_objective(4)})
    made = MaskedAutoencoder(patches(), RandomMasker(0.5), vit(4, (4, 4)), {"main": readout}, {"f": Copy()})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator))
    return made


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_teacher_begins_with_the_loaded_encoder(tmp_path, monkeypatch):
    source, made = shaken(1), shaken(2)
    config = {"format": 1, "view": "image", "tokenizer": {}, "encoder": {}}
    save_encoder(tmp_path, SavedEncoder(source.tokenizer, source.encoder, config))
    monkeypatch.setattr("core.initial_weights.load_encoder", lambda path: SavedEncoder(None, source.encoder, config))
    load_weights(made, tmp_path)
    assert same(made.encoder, source.encoder) and same(made.moving_teachers["f"].copy, source.encoder)


def test_a_teacher_that_was_loaded_stays(tmp_path):
    source, made = shaken(1), shaken(2)
    assert not same(source.moving_teachers["f"].copy, source.encoder)
    write_folder(tmp_path / "step_1", {MODEL: source.state_dict(), STATE: {}}, Position(1))
    load_weights(made, tmp_path / "step_1")
    assert same(made.encoder, source.encoder) and same(made.moving_teachers["f"].copy, source.moving_teachers["f"].copy)


def test_a_teacher_that_is_lacking_among_the_loaded_follows():
    source, made = shaken(1), shaken(2)
    weights = {name: value for name, value in source.state_dict().items() if not name.startswith("moving_teachers.")}
    made.load_state_dict(weights, strict=False)
    made.follow(weights)
    assert same(made.moving_teachers["f"].copy, source.encoder)


def test_a_part_alone_starts_from_another_run(tmp_path):
    """`init.part`: the trunk of one method in another; embedding and decoder stay fresh."""
    source, made = shaken(1), shaken(2)
    write_folder(tmp_path / "step_1", {MODEL: source.state_dict(), STATE: {}}, Position(1))
    embed, decoder = copy.deepcopy(made.encoder.embed), copy.deepcopy(made.readouts)

    load_weights(made, tmp_path / "step_1", "encoder.trunk")

    assert same(made.encoder.trunk, source.encoder.trunk)
    assert same(made.encoder.embed, embed) and same(made.readouts, decoder)


def test_a_part_of_another_shape_or_name_is_refused(tmp_path):
    write_folder(tmp_path / "step_1", {MODEL: shaken(1).state_dict(), STATE: {}}, Position(1))
    readout = Readout(light((4, 4), width=36), {"content": raw_objective(4)})
    wide = MaskedAutoencoder(patches(), RandomMasker(0.5), vit(4, (4, 4), dim=36), {"main": readout})

    with pytest.raises(UserError, match=rf"attn\.proj\.bias: \({DIM},\) in the checkpoint, \(36,\) in the method"):
        load_weights(wide, tmp_path / "step_1", "encoder.trunk")
    with pytest.raises(
        UserError, match=r"init\.part=encoder\.trunc: init\.from=.* Parts of the method: .*encoder\.trunk"
    ):
        load_weights(shaken(2), tmp_path / "step_1", "encoder.trunc")


SMALL = ["modality=image", "method=mae", "size=nano", "data=folder", "data.root=none", "modality.patch=[8,8]"]


def composed(*overrides: str) -> tuple[MaskedAutoencoder, dict]:
    config = compose([*SMALL, *overrides])
    return build_method(config), config


def saved_run(path, *overrides: str) -> MaskedAutoencoder:
    """A run's folder with its config and a checkpoint."""
    method, config = composed(*overrides)
    write_folder(path / "checkpoints" / "step_1", {MODEL: method.state_dict(), STATE: {}}, Position(1))
    dump(config, path / "config.yaml")
    return method


@pytest.fixture
def converted(tmp_path) -> Path:
    """An official file, converted: 32 pixels in patches of 8, width 192, a decoder of 512."""
    export_official("mae", official_mae(), tmp_path / "mae")
    return tmp_path / "mae"


LIKE_OFFICIAL = (
    *("method.encoder.trunk.dim=192", "method.encoder.trunk.depth=2", "method.encoder.trunk.heads=3"),
    *("method.readouts.main.decoder.dim=512", "method.readouts.main.decoder.trunk.depth=1"),
    "method.readouts.main.decoder.trunk.heads=16",
)


def test_a_converted_file_begins_with_its_decoder(converted):
    made, config = composed("modality.size=[32,32]", *LIKE_OFFICIAL)
    text = load_weights(made, converted, config=config)
    expected = load_official("mae", official_mae()).state_dict()
    for name, value in made.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert "loaded: encoder." in text and "readouts.main" in text and text.endswith("fresh: nothing")


def test_an_encoder_alone_leaves_the_decoder_fresh_and_says_so(tmp_path):
    state = {key: value for key, value in official_mae().items() if not key.startswith(("decoder", "mask"))}
    with pytest.warns(UserWarning, match="no decoder"):
        export_official("mae", state, tmp_path)
    made, config = composed("modality.size=[32,32]", *LIKE_OFFICIAL)
    before = copy.deepcopy(made.readouts)
    text = load_weights(made, tmp_path, config=config)
    assert torch.equal(made.encoder.cls.token, state["cls_token"]) and same(made.readouts, before)
    assert re.search(r"fresh: readouts\.main \(\d+ tensors\)", text)


def test_fixed_positions_are_computed_for_another_input(converted):
    made, config = composed("modality.size=[48,64]", *LIKE_OFFICIAL)
    expected = SinCos((6, 8), 192).table
    text = load_weights(made, converted, config=config)
    assert torch.equal(made.encoder.embed.positions.table, expected)
    assert "encoder.embed.positions: fixed positions computed for this input, 4×4 → 6×8" in text
    assert torch.equal(made.encoder.trunk.norm.weight, official_mae()["norm.weight"])


def test_a_grid_of_as_many_cells_is_another_grid(tmp_path):
    """(4, 6) and (6, 4) have tables of one shape."""
    saved_run(tmp_path, "modality.size=[32,48]")
    made, config = composed("modality.size=[48,32]")
    load_weights(made, tmp_path, config=config)
    assert torch.equal(made.encoder.embed.positions.table, SinCos((6, 4), 128).table)


def keys_kernel(distance: torch.Tensor, a: float = -0.75) -> torch.Tensor:
    d = distance.abs()
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return torch.where(d <= 1, near, far) * (d < 2)


def test_learned_positions_are_resampled(tmp_path):
    """A ramp along both axes; expected is cubic convolution with a = −0.75 (Keys, 1981), away from the edges."""
    learned = "method.encoder.embed.positions._target_=core.embeddings.Learned"
    source = saved_run(tmp_path, "modality.size=[64,64]", learned)
    ramp = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).sum(1)
    with torch.no_grad():
        source.encoder.embed.positions.table.copy_(ramp[None, :, None].expand(1, 64, 128))
    write_folder(tmp_path / "checkpoints" / "step_2", {MODEL: source.state_dict(), STATE: {}}, Position(2))

    made, config = composed("modality.size=[128,128]", learned)
    text = load_weights(made, tmp_path, config=config)
    table = made.encoder.embed.positions.table[0, :, 0].view(16, 16)
    cells = (torch.arange(16.0) + 0.5) / 2 - 0.5  # centres of the new cells, in old ones
    line = (keys_kernel(cells[:, None] - torch.arange(8.0)) * torch.arange(8.0)).sum(1)
    expected = line[:, None] + line
    torch.testing.assert_close(table[4:12, 4:12], expected[4:12, 4:12], atol=1e-4, rtol=0)
    assert "learned positions resampled, 8×8 → 16×16" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "method.encoder.trunk.heads=8",
            r"encoder\.trunk\.heads: 4 there, 8 here[\s\S]*Give method\.encoder\.trunk\.heads=4",
        ),
        ("method.encoder.trunk.norm_eps=1e-5", r"norm_eps: 1e-06 there, 1e-05 here"),
        ("method.readouts.main.decoder.trunk.heads=6", r"decoder\.trunk\.heads: 3 there, 6 here"),
        ("modality.normalise.mean=[0.5,0.5,0.5]", r"Give modality\.normalise\.mean=\[0\.485,0\.456,0\.406\]"),
        ("modality.patch=[4,16]", r"Give modality\.patch=\[8,8\]"),
        ("method.encoder.embed.positions._target_=core.embeddings.Learned", r"positions\._target_"),
    ],
)
def test_options_that_no_shape_shows_are_compared(tmp_path, change, message):
    saved_run(tmp_path, "modality.size=[32,32]")
    made, config = composed("modality.size=[32,32]", change)
    with pytest.raises(UserError, match=message):
        load_weights(made, tmp_path, config=config)


def test_options_of_training_alone_may_differ(tmp_path):
    source = saved_run(tmp_path, "modality.size=[32,32]")
    changes = ("method.encoder.trunk.drop_path=0.1", "method.masker.ratio=0.5")
    made, config = composed("modality.size=[32,32]", *changes, "method.readouts.main.objectives.pixels.target.per=none")
    load_weights(made, tmp_path, config=config)
    assert same(made.encoder, source.encoder)


def test_a_part_is_compared_in_that_part_alone(tmp_path):
    source = saved_run(tmp_path, "modality.size=[32,32]")
    made, config = composed("modality.size=[64,64]", "modality.patch=[16,16]")
    load_weights(made, tmp_path, "encoder.trunk", config)
    assert same(made.encoder.trunk, source.encoder.trunk)


def test_other_sizes_are_refused_with_the_settings_that_fit(converted):
    """The message's own settings make a method that loads."""
    made, config = composed("modality.size=[32,32]")
    with pytest.raises(UserError, match=r"method\.encoder\.trunk\.dim=192") as error:
        load_weights(made, converted, config=config)

    settings = re.findall(r"(?:method|modality)\.[\w.]+=(?:\[[^]]*\]|[\w.+-]*\w)", str(error.value))
    made, config = composed("modality.size=[32,32]", *settings)
    load_weights(made, converted, config=config)
    assert torch.equal(made.encoder.cls.token, official_mae()["cls_token"])


@pytest.mark.parametrize(("side", "short", "size"), [(16, 20, 64), (12, 32, 48), (16, 200, 64), (24, 200, 96)])
def test_a_size_follows_from_the_source_s_patch(tmp_path, side, short, size):
    saved_run(tmp_path / "source", f"modality.size={2 * side}", f"modality.patch=[{side},{side}]")
    facts = DataFacts(samples=1, channels=3, sizes=[(short, short)])
    config = compose(SMALL[:-1])
    sizes = choose_sizes(tmp_path / "source", None, config, ())
    overrides = [setting.override for setting in sizes]
    chosen = choose(compose([*SMALL[:-1], *overrides]), facts, 100, {setting.key for setting in sizes})
    assert next(setting.value for setting in chosen if setting.key == "modality.size") == [size, size]


@pytest.mark.parametrize(("side", "given", "fits"), [(16, 40, 32), (12, 40, 36), (24, 10, 24)])
def test_a_given_size_that_the_source_s_patch_does_not_divide(tmp_path, side, given, fits):
    saved_run(tmp_path, f"modality.size={2 * side}", f"modality.patch=[{side},{side}]")
    config = compose([*SMALL[:-1], f"modality.size={given}"])
    with pytest.raises(UserError, match=rf"do not divide modality.size=.*give modality\.size=\[{fits},{fits}\]"):
        choose_sizes(tmp_path, None, config, {"modality.size"})
    assert choose_sizes(tmp_path, None, config, {"modality.size", "modality.patch"}) == []


def test_sizes_are_the_source_s_where_no_others_are_given(converted, tmp_path, capsys):
    """Two converted widths, depths and numbers of heads; a given depth wins, and is then refused by its shapes."""
    draw(tmp_path / "photos", "train", 0, 8)
    words = ["modality=image", "data=folder", f"data.root={tmp_path / 'photos'}", f"init.from={converted}"]
    words += ["batch_size=2", "steps=1", "engine.workers=0", "precision=fp32", f"run_dir={tmp_path / 'run'}"]
    config = train(*words).config
    assert (config["method"]["encoder"]["trunk"]["dim"], config["method"]["encoder"]["trunk"]["heads"]) == (192, 3)
    assert config["method"]["readouts"]["main"]["decoder"]["dim"] == 512
    assert "method.encoder.trunk.depth" in config["chosen"]

    text = capsys.readouterr().out
    assert "Sizes of init.from=" in text and "method.encoder.trunk.dim=192" in text and "fresh: nothing" in text
    assert train(*words).step == 1  # the same command again
    with pytest.raises(UserError, match=r"encoder\.trunk"):
        train(*words[:-1], "method.encoder.trunk.depth=1", f"run_dir={tmp_path / 'other'}")


def cloud_method(*overrides: str) -> tuple[MaskedAutoencoder, dict]:
    config = compose(["modality=point", "method=point_mae", "size=nano", "data=folder", "data.root=none", *overrides])
    return build_method(config), config


@pytest.mark.parametrize("begins", ["image", "point"])
def test_the_trunks_of_clouds_and_images_take_each_others_weights(tmp_path, begins):
    """Where an option makes them alike: the biases of attention and the eps of norms are the image trunk's."""
    alike = ("method.encoder.trunk.bias=full", "method.encoder.trunk.norm_eps=1e-6")
    image, image_config = composed()
    points, point_config = cloud_method(*alike)
    source, config, made, own = image, image_config, points, point_config
    if begins == "point":
        source, config, made, own = points, point_config, image, image_config
    write_folder(tmp_path / "checkpoints" / "step_1", {MODEL: source.state_dict(), STATE: {}}, Position(1))
    dump(config, tmp_path / "config.yaml")

    assert not same(made.encoder.trunk, source.encoder.trunk)
    load_weights(made, tmp_path, "encoder.trunk", own)
    assert same(made.encoder.trunk, source.encoder.trunk)


def test_trunks_that_differ_name_the_options_that_make_them_alike(tmp_path):
    saved_run(tmp_path)
    made, config = cloud_method()
    remedy = r"Give method\.encoder\.trunk\.bias=full method\.encoder\.trunk\.norm_eps=1e-06\."
    with pytest.raises(UserError, match=remedy):
        load_weights(made, tmp_path, "encoder.trunk", config)
