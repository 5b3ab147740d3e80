"""Several seeds of one command, and the commands that a finished run names."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import core
from core import evaluate, train
from core.engine.stopping import Interrupted
from core.errors import UserError
from core.runs import expand_runs, open_run
from tests.core.small_runs import WORLD

STEPS = [*WORLD, "steps=2"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A folder of the seeds 5 and 6."""
    folder = tmp_path_factory.mktemp("seeds") / "both"
    assert train.main([*STEPS, "seed=5", "seeds=2", f"run_dir={folder}"]) == 0
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return open_run(run).encoder().state_dict()


def test_every_seed_is_the_run_that_it_is_alone(seeds, tmp_path):
    assert sorted(path.name for path in seeds.iterdir()) == ["seed5", "seed6"]
    alone = core.train(*STEPS, seed=6, run_dir=str(tmp_path / "alone"))
    ours, theirs = weights(seeds / "seed6"), weights(alone.path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not all(torch.equal(ours[name], value) for name, value in weights(seeds / "seed5").items())


def test_the_same_command_trains_the_seeds_that_lack(seeds, capsys):
    stamp = (seeds / "seed6" / "finished.json").stat().st_mtime_ns
    runs = core.train(*STEPS, seed=5, seeds=3, run_dir=str(seeds))
    lines = capsys.readouterr().out
    assert [run.config["seed"] for run in runs] == [5, 6, 7] and all(run.is_finished for run in runs)
    assert (seeds / "seed6" / "finished.json").stat().st_mtime_ns == stamp
    assert lines.count("nothing to do") == 2 and f"All 3 seeds are in {seeds}" in lines
    assert lines.count("Next:") == 1 and lines.index("Next:") > lines.index("All 3 seeds")


def test_a_dry_run_of_seeds_promises_no_runs(tmp_path, capsys):
    assert train.main([*STEPS, "seeds=2", "dry_run=true", f"run_dir={tmp_path / 'both'}"]) == 0
    out = capsys.readouterr().out
    assert out.count("Nothing was written") == 2 and "All 2 seeds were tried" in out
    assert "seeds are in" not in out and "Next:" not in out
    assert not (tmp_path / "both").exists()


def test_a_stop_names_the_command_of_all_seeds(tmp_path, monkeypatch, capsys):
    def stop(*arguments, **settings):
        raise Interrupted(15, saved=True)

    monkeypatch.setattr("core.training.run", stop)
    argv = [*STEPS, "seeds=2", f"run_dir={tmp_path / 'both'}"]
    assert train.main(argv) == 128 + 15
    assert f"python -m core.train {shlex.join(argv)}" in capsys.readouterr().err


def test_seeds_below_one_and_a_run_in_their_folder(seeds):
    with pytest.raises(UserError, match="seeds=0 must be at least 1"):
        core.train(*STEPS, seeds=0)
    with pytest.raises(UserError, match="holds a run; seeds=2 makes a folder"):
        core.train(*STEPS, seeds=2, run_dir=str(seeds / "seed5"))


def test_a_folder_of_seeds_stands_for_its_runs(tmp_path, monkeypatch):
    for name in ("seed10", "seed9", "seed9_longer", "seedling", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
    assert [path.name for path in expand_runs([tmp_path, tmp_path / "other"])] == ["seed9", "seed10", "other"]

    with pytest.raises(UserError, match=r"runs of 2 seeds: give one of them, as run=.*seed9"):
        open_run(tmp_path)


def test_evaluations_take_all_seeds(seeds, capsys):
    result = core.evaluate(seeds, "knn", seeds=1)
    runs = [str(path) for path in expand_runs([seeds])]
    assert len(runs) >= 2 and result.record["run"] == runs

    capsys.readouterr()
    assert evaluate.main([f"run={seeds}", "task=reconstruction", "samples=4", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert [record["run"] for record in records] == runs and f"run={runs[1]}" in lines

    skills = []
    for record in records:
        skills.append(record["figures"]["pixels"]["total"]["skill"]["value"])
    assert lines[-1].startswith(f"mean of {len(runs)} runs: pixels, skill ")
    assert f"{abs(np.mean(skills)):.3f}" in lines[-1]


def test_the_commands_that_a_finished_run_names_work(tmp_path, capsys):
    """Each as it stands, with the user's own names in place of <…>."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.fromarray(np.full((32, 32, 3), 50 * number, np.uint8)).save(photos / f"{number}.png")
    run_dir = tmp_path / "a run"
    capsys.readouterr()
    assert train.main([*STEPS, f"run_dir={run_dir}"]) == 0
    page = capsys.readouterr().out.partition("Next:\n")[2]
    commands = re.findall(r"^  python -m (\S+) (.*?)  # ", page, re.M)
    assert [name for name, _ in commands] == ["core.report", "core.evaluate", "core.encode", "core.train"]

    for name, text in commands:
        text = text.replace("<files>", str(photos)).replace("<another>", str(tmp_path / "on"))
        text = text.replace("out=features.npz", f"out={tmp_path / 'f.npz'}")
        assert import_module(name).main(shlex.split(text)) == 0

    assert len(np.load(tmp_path / "f.npz")["key"]) == 3 and open_run(tmp_path / "on").is_finished
    before, after = weights(run_dir), weights(tmp_path / "on")
    assert max(float((after[name] - value).abs().max()) for name, value in before.items()) < 0.01  # two small steps
    assert not all(torch.equal(after[name], value) for name, value in before.items())
