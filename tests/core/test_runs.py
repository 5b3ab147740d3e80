"""`init.from=`: teachers that follow the method's weights begin with what was loaded."""

import copy

import pytest
import torch

from core.engine.checkpoint import MODEL, STATE, Position, write_folder
from core.errors import UserError
from core.export import SavedEncoder, save_encoder
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Readout
from core.runs import load_weights
from core.teachers import MovingTeacher
from tests.contracts.toys import DIM, light, patches, raw_objective, vit


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
    monkeypatch.setattr("core.runs.load_encoder", lambda path: SavedEncoder(None, source.encoder, config))
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
