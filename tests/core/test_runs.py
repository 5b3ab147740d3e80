"""`python -m core.runs`: the runs below a folder, with their key figures."""

import json
import os
import shutil

import pytest
from torch.testing import assert_close

from core.errors import UserError
from core.runs import main, open_run
from core.train import main as train
from tests.core.small_runs import WORLD


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert train([*WORLD, "seed=4", f"run_dir={folder / 'deep' / '[1]'}"]) == 0
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


@pytest.mark.parametrize(("schedule", "anew"), [("cosine", ["optim.schedule=cosine"]), ("constant", [])])
def test_a_run_that_was_stopped_can_end_where_it_is(tmp_path, monkeypatch, schedule, anew):
    """The message names the settings, and they give the encoder of the newest checkpoint."""
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    run, rate = tmp_path / "run", [f"optim.schedule={schedule}", "optim.lr=0.001"]
    assert train([*WORLD, *rate, "engine.checkpoint_every=3", f"run_dir={run}"]) == 0
    (run / "finished.json").unlink()
    for left in (run / "encoder", run / "evaluation", run / "checkpoints" / "step_00000006"):
        shutil.rmtree(left)

    settings = ["steps=3", *anew]
    with pytest.raises(UserError, match=f"with {' '.join(settings)} ends where it is"):
        open_run(run).encoder()
    assert train([f"config={run / 'config.yaml'}", f"run_dir={run}", *settings]) == 0
    encoder, method = open_run(run).encoder(), open_run(run).method()
    assert open_run(run).step == 3
    assert_close(encoder.encoder.state_dict(), method.encoder.state_dict())


def test_the_list_is_a_table(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # however long the path of the folder is
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
