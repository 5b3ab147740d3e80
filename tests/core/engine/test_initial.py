"""`init=`: teachers that follow the method's weights begin with what was loaded."""

import copy

import torch

from core.engine.checkpoint import MODEL, STATE, Position, write_folder
from core.engine.initial import initialise
from core.export import SavedEncoder, save_encoder
from core.methods.masked_autoencoder import MaskedAutoencoder, MovingTeacher
from tests.core.test_masked_autoencoder import method


class Copy(MovingTeacher):
    """Keeps the encoder as it was when told to follow."""

    def follow(self, method: MaskedAutoencoder) -> None:
        self.copy = copy.deepcopy(method.encoder).requires_grad_(False)


def shaken(seed: int) -> MaskedAutoencoder:
    """A method whose encoder and teacher have gone different ways."""
    made = method(teachers={"f": Copy()})
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
    monkeypatch.setattr("core.engine.initial.load_encoder", lambda path: SavedEncoder(None, source.encoder, config))
    initialise(made, tmp_path)
    assert same(made.encoder, source.encoder) and same(made.followers["f"].copy, source.encoder)


def test_a_teacher_that_was_loaded_stays(tmp_path):
    source, made = shaken(1), shaken(2)
    assert not same(source.followers["f"].copy, source.encoder)
    write_folder(tmp_path / "step_1", {MODEL: source.state_dict(), STATE: {}}, Position(1))
    initialise(made, tmp_path / "step_1")
    assert same(made.encoder, source.encoder) and same(made.followers["f"].copy, source.followers["f"].copy)


def test_a_teacher_that_is_lacking_among_the_loaded_follows():
    source, made = shaken(1), shaken(2)
    weights = {name: value for name, value in source.state_dict().items() if not name.startswith("moving_teachers.")}
    made.load_state_dict(weights, strict=False)
    made.follow(weights)
    assert same(made.followers["f"].copy, source.encoder)
