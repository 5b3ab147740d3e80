import errno
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file

from core.engine import checkpoint
from core.engine.average import WeightEMA
from core.engine.checkpoint import Checkpoints, Position
from core.engine.optim import AdamW
from core.errors import UserError
from tests.core.engine.toy import ToyMethod, same, train_toy


class Run:
    """A method, its optimiser and average after two steps, and the checkpoints."""

    def __init__(self, folder, width=16, keep=2, steps=2):
        torch.manual_seed(0)
        self.method = ToyMethod(width)
        self.optimizer = AdamW(lr=0.1).optimizer(self.method)
        self.average = WeightEMA(self.method, 0.9)
        self.checkpoints = Checkpoints(folder, keep)
        for _ in range(steps):
            for p in self.method.parameters():
                p.grad = torch.randn_like(p)
            self.optimizer.step()
            self.average.update()

    def parts(self):
        return self.method, self.optimizer, self.average

    def save(self, step):
        return self.checkpoints.save(*self.parts(), Position(step, step, 3))


def test_everything_comes_back(tmp_path):
    saved, fresh = Run(tmp_path), Run(tmp_path, steps=0)
    saved.save(7)
    state = torch.get_rng_state()
    torch.rand(3)
    assert fresh.checkpoints.resume(*fresh.parts()) == Position(7, 7, 3)
    assert same(saved.method, fresh.method)
    assert torch.equal(torch.get_rng_state(), state)
    for mine, theirs in zip(saved.average.weights.values(), fresh.average.weights.values(), strict=True):
        assert torch.equal(mine, theirs)
    for a, b in zip(saved.method.parameters(), fresh.method.parameters(), strict=True):
        mine, theirs = saved.optimizer.state[a], fresh.optimizer.state[b]
        assert mine.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_the_newest_are_kept(tmp_path):
    run = Run(tmp_path, keep=2)
    for step in (1, 2, 3):
        run.save(step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]


def test_tied_weights_are_saved(tmp_path):
    run = Run(tmp_path)
    run.method.blocks.append(run.method.blocks[0])
    assert "blocks.2.weight" in load_file(run.save(1) / "model.safetensors")


@pytest.mark.parametrize("damage", ["truncated", "garbled", "missing", "no meta", "half meta"])
def test_a_torn_checkpoint_is_set_aside_with_a_warning(tmp_path, damage):
    run = Run(tmp_path)
    run.save(1)
    torn = run.save(2)
    model, meta = torn / "model.safetensors", torn / "meta.json"
    content = model.read_bytes()
    if damage == "truncated":
        model.write_bytes(content[:-5])
    elif damage == "garbled":
        model.write_bytes(content[:-5] + b"wrong")
    elif damage == "missing":
        model.unlink()
    elif damage == "no meta":
        meta.unlink()
    else:
        meta.write_text(meta.read_text()[:20])
    (note,) = run.checkpoints.clean()
    assert "warning" in note and str(torn) in note
    assert run.checkpoints.resume(*run.parts()).step == 1
    assert (tmp_path / "damaged_step_00000002").is_dir()


def test_leftovers_of_a_kill_are_removed(tmp_path):
    run = Run(tmp_path)
    run.save(1)
    (tmp_path / ".new_step_00000002").mkdir()
    (tmp_path / ".old_step_00000000").mkdir()
    assert run.checkpoints.clean() == []
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.pt"])
@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_pickled_code_is_refused(tmp_path, monkeypatch, name, how):
    monkeypatch.chdir(tmp_path)
    train_toy(tmp_path / "run", steps=5)
    file = tmp_path / "run/checkpoints/step_00000005" / name
    if how == "torch.save":
        torch.save({"state": Evil()}, file)
    else:
        file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="pickled code"):
        train_toy(tmp_path / "run", steps=5)
    assert not (tmp_path / "evil").exists()


def test_a_pickle_in_disguise_is_never_read(tmp_path):
    run = Run(tmp_path)
    folder = run.save(1)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil(), protocol=0))
    meta = json.loads((folder / "meta.json").read_text())
    meta["files"]["model.safetensors"] = checkpoint.describe(folder / "model.safetensors")
    (folder / "meta.json").write_text(json.dumps(meta))
    (note,) = run.checkpoints.clean()
    assert "SafetensorError" in note
    assert run.checkpoints.resume(*run.parts()).step == 0


def test_another_architecture_is_named_by_its_tensors(tmp_path):
    Run(tmp_path, width=16).save(1)
    other = Run(tmp_path, width=24)
    with pytest.raises(UserError) as caught:
        other.checkpoints.resume(*other.parts())
    assert "blocks.0.weight: (16, 8) in the checkpoint, (24, 8) in the method" in str(caught.value)
    assert "another run_dir=" in str(caught.value)


@pytest.mark.parametrize("at", ["save_file", "flush", "rename"])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, at):
    run = Run(tmp_path)
    good = run.save(1)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os if at == "rename" else checkpoint, at, full)
    with pytest.raises(UserError) as caught:
        run.save(2)
    assert str(tmp_path / "step_00000002") in str(caught.value)
    assert "No space left" in str(caught.value) and "free some space" in str(caught.value)
    assert str(good) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]
    assert run.checkpoints.clean() == []
