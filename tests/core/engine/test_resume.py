"""A start in the directory of a run: moved or changed data, another length, another course of the rate."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from core import training
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.train import main

SMALL = [
    "modality=image", "modality.size=[16,16]", "modality.patch=[8,8]", "data=folder", "size.dim=16", "size.depth=1",
    "size.heads=2", "batch_size=2", "precision=fp32", "engine.workers=0", "engine.held_out=0", "optim.lr=1e-3",
    "engine.checkpoint_every=2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Reconstruction is measured elsewhere."""
    monkeypatch.setattr(training.reconstruction, "evaluate_run", lambda run_dir, method, config: {"figures": {}})


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for number in range(14):
        file = tmp_path / "photos" / "train" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(file)
    return tmp_path / "photos"


def train(run_dir, *more, steps=6) -> int:
    return main([*SMALL, f"run_dir={run_dir}", f"steps={steps}", *more])


def cut(run_dir, *more, after=4, steps=6):
    """A run that Ctrl-C ends after some steps."""
    after_step = MaskedAutoencoder.after_step

    def stop(self, progress):
        if progress.step == after - 1:
            os.kill(os.getpid(), signal.SIGINT)
        after_step(self, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskedAutoencoder, "after_step", stop)
        assert train(run_dir, *more, steps=steps) == 130


def weights(run_dir, step=6):
    return load_file(run_dir / "checkpoints" / f"step_{step:08d}" / "model.safetensors")


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def config(run_dir):
    return OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))


# Data


def test_moved_data_resume_to_the_same_bits(photos, tmp_path):
    """Another spelling, a copy elsewhere, a link: compared by contents. The config says where they lie now."""
    assert train("whole", "data.root=photos") == 0
    cut(tmp_path / "cut", "data.root=photos", after=2)
    cut(tmp_path / "cut", f"data.root={photos}/", after=4)
    shutil.move(photos, tmp_path / "scratch")
    assert train(tmp_path / "cut", "data.root=./scratch") == 0
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert config(tmp_path / "cut")["data"]["root"] == "./scratch"


def remove(photos):
    for number in range(10, 14):
        (photos / "train" / f"{number}.png").unlink()


def add(photos):
    shutil.copy(photos / "train" / "1.png", photos / "train" / "99.png")


def alter(photos):
    shutil.copy(photos / "train" / "1.png", photos / "train" / "2.png")


CHANGES = [(remove, "14 samples, now 10"), (add, "14 samples, now 15"), (alter, "14 samples of the same names")]


@pytest.mark.parametrize("change, words", CHANGES)
def test_changed_data_are_refused_until_accepted(photos, tmp_path, capsys, change, words):
    cut(tmp_path / "run", "data.root=photos")
    change(photos)
    before = (tmp_path / "run" / "config.yaml").read_text()
    assert train(tmp_path / "run", "data.root=photos") == 2
    message = capsys.readouterr().err
    assert f"the data changed since step 4: {words}" in message and "data.changed=accept" in message
    assert (tmp_path / "run" / "config.yaml").read_text() == before

    assert train(tmp_path / "run", "data.root=photos", "data.changed=accept") == 0
    assert f"the data changed since step 4: {words}" in capsys.readouterr().out
    (noted,) = json.loads((tmp_path / "run" / "data.json").read_text())["changes"]
    assert words in noted and "changed" not in config(tmp_path / "run")["data"]


def test_an_accepted_change_is_accepted_for_good(photos, tmp_path):
    cut(tmp_path / "run", "data.root=photos", after=2)
    remove(photos)
    cut(tmp_path / "run", "data.root=photos", "data.changed=accept", after=4)
    assert train(tmp_path / "run", "data.root=photos") == 0


def test_a_finished_run_needs_no_data(photos, tmp_path, capsys):
    assert train(tmp_path / "run", "data.root=photos") == 0
    remove(photos)
    assert train(tmp_path / "run", "data.root=photos") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_other_settings_of_the_data_are_still_compared(photos, tmp_path, capsys):
    cut(tmp_path / "run", "data.root=photos")
    assert train(tmp_path / "run", "data.root=photos", "modality.reader.repeats=2") == 2
    assert "modality.reader.repeats" in capsys.readouterr().err


def test_a_wrong_value_of_changed(photos, tmp_path, capsys):
    assert train(tmp_path / "run", "data.root=photos", "data.changed=yes") == 2
    assert "data.changed=yes: expected one of accept" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# Length


def test_a_constant_rate_permits_more_steps_with_the_same_bits(photos, tmp_path):
    """As if the run had been that long from the start: no warm-up by share of the length here."""
    constant = ["data.root=photos", "optim.schedule=constant", "optim.warmup_steps=2"]
    assert train(tmp_path / "whole", *constant, steps=8) == 0
    assert train(tmp_path / "more", *constant, steps=4) == 0
    assert train(tmp_path / "more", *constant, steps=8) == 0
    assert equal(weights(tmp_path / "whole", 8), weights(tmp_path / "more", 8))
    assert json.loads((tmp_path / "more" / "finished.json").read_text()) == {"steps": 8}
    assert config(tmp_path / "more")["steps"] == 8


def test_a_course_that_ends_must_be_stated_anew(photos, tmp_path, capsys):
    assert train(tmp_path / "run", "data.root=photos") == 0
    assert train(tmp_path / "run", "data.root=photos", steps=9) == 2
    message = capsys.readouterr().err
    assert "steps: 6 -> 9" in message and "optim.schedule=constant" in message

    more = ["data.root=photos", "optim.schedule=constant", "optim.lr=1e-4"]
    assert train(tmp_path / "run", *more, steps=9) == 0
    rates = [json.loads(line)["lr"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rates[-1] == 1e-4
    assert train(tmp_path / "run", "data.root=photos", "optim.schedule=cosine", steps=12) == 0


def test_epochs_are_a_length_too(photos, tmp_path, capsys):
    assert train(tmp_path / "run", "data.root=photos", steps=7) == 0
    for words, code in ((["epochs=2"], 2), (["epochs=2", "optim.schedule=cosine"], 0)):
        assert main([*SMALL, "data.root=photos", f"run_dir={tmp_path / 'run'}", *words]) == code
    assert config(tmp_path / "run")["steps"] is None
    assert json.loads((tmp_path / "run" / "finished.json").read_text()) == {
        "steps": 10
    }  # 11 training samples in batches of 2


def test_a_run_does_not_become_shorter_than_it_is(photos, tmp_path, capsys):
    assert train(tmp_path / "run", "data.root=photos", "optim.schedule=constant") == 0
    assert train(tmp_path / "run", "data.root=photos", "optim.schedule=constant", steps=3) == 2
    assert "a run of 6 steps" in capsys.readouterr().err


def test_a_run_without_its_checkpoints_cannot_go_on(photos, tmp_path, capsys):
    assert train(tmp_path / "run", "data.root=photos", "optim.schedule=constant") == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert train(tmp_path / "run", "data.root=photos", "optim.schedule=constant", steps=9) == 2
    assert "without a checkpoint" in capsys.readouterr().err


# Starts that fail


@pytest.mark.parametrize("wrong", ["data.root=nowhere", "size.heads=3", "batch_size=99", "init.from=nowhere"])
def test_a_start_that_fails_leaves_nothing_and_blocks_nothing(photos, tmp_path, wrong):
    assert train(tmp_path / "run", "data.root=photos", wrong) == 2
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run", "data.root=photos", steps=1) == 0


def test_a_signal_before_the_first_step_leaves_nothing(photos, tmp_path, capsys, monkeypatch):
    def measure(dry_run, device):
        os.kill(os.getpid(), signal.SIGTERM)
        return "fp32", "measured"

    monkeypatch.setattr("core.engine.loop.choose", measure)
    assert train(tmp_path / "run", "data.root=photos", "precision=auto") == 143
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in capsys.readouterr().err
