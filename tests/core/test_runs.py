"""A run opened again: weights for another one (`init.from=`), and the list of all runs below a folder."""

import copy
import json
import os
import shutil

import pytest
import torch

from core.engine.checkpoint import MODEL, STATE, Position, write_folder
from core.errors import UserError
from core.export import SavedEncoder, save_encoder
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Readout
from core.runs import load_weights, main, open_run
from core.teachers import MovingTeacher
from core.train import main as train
from tests.contracts.toys import DIM, light, patches, raw_objective, vit
from tests.core.test_report import TINY


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert train([*TINY, "seed=4", f"run_dir={folder / 'deep' / '[1]'}"]) == 0
    return folder / "deep" / "[1]"


@pytest.fixture
def runs(finished, tmp_path):
    """A finished run, one that was stopped half-way, and a config.yaml of another program."""
    shutil.copytree(finished, tmp_path / "deep" / "[1]")
    half = shutil.copytree(finished, tmp_path / "half")
    (half / "finished.json").unlink()
    shutil.rmtree(half / "evaluation")
    shutil.rmtree(half / "checkpoints")
    lines = (half / "metrics.jsonl").read_text().splitlines()
    logged = [line for line in lines if json.loads(line)["kind"] == "train"][:1]
    (half / "metrics.jsonl").write_text("\n".join([*logged, '{"kind": "stop", "step": 1, "reason": "SIGTERM"}', ""]))

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("a: 1\n")
    return tmp_path


def test_runs_are_listed_with_their_figures(runs, capsys):
    assert main([f"folder={runs}", "--json"]) == 0
    lines = list(map(json.loads, capsys.readouterr().out.splitlines()))
    by_name = {os.path.relpath(line["run"], runs): line for line in lines}
    assert by_name.keys() == {"deep/[1]", "half", "other"} and "error" in by_name["other"]

    whole, half, run = by_name["deep/[1]"], by_name["half"], open_run(runs / "deep" / "[1]")
    assert [whole[name] for name in ("modality", "method", "data", "seed")] == ["image", "mae", "world", 4]
    assert (whole["steps"], whole["planned"], whole["state"]) == (6, 6, "finished")
    assert whole["loss"] == run.metrics["loss"][-1] and whole["evaluations"] == ["reconstruction"]
    record = json.loads((run.path / "evaluation" / "reconstruction.json").read_text())
    assert whole["skill"] == record["figures"]["pixels"]["total"]["skill"]["value"]
    assert (half["steps"], half["planned"], half["skill"], half["evaluations"]) == (1, 6, None, [])
    assert half["state"] == "stopped: SIGTERM"


def test_the_list_is_a_table(runs, capsys):
    assert main([f"folder={runs}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "last activity" in lines[1] and "evaluations" in lines[1]
    (whole,) = [line for line in lines if f"{runs}/deep/[1]" in line]
    assert "6 of 6" in whole and "finished" in whole
    assert any("other cannot be read: " in line for line in lines)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["folder=nowhere"], "nowhere does not exist"),
        (["folder=."], "holds no run"),
        (["fold=."], "Did you mean folder"),
    ],
)
def test_a_folder_without_runs(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert message in capsys.readouterr().err
