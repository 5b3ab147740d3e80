import json

import pytest
import torch

from core.engine.loop import Diverged
from core.engine.optim import AdamW
from core.errors import UserError
from tests.core.engine.toy import ToyMethod, same, train_toy


def lines(run_dir, kind):
    found = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line["kind"] == kind]


def test_loss_falls_and_is_logged(tmp_path):
    train_toy(tmp_path, steps=100, log_every=10)
    train_lines = lines(tmp_path, "train")
    assert [line["step"] for line in train_lines] == [1, *range(10, 101, 10)]
    assert train_lines[-1]["loss"] < 0.8 * train_lines[0]["loss"]
    assert train_lines[-1]["epoch"] == pytest.approx(10.0)
    assert set(train_lines[0]) == {
        "kind", "step", "epoch", "loss", "pixels", "lr", "grad_norm", "samples_per_s", "data_wait", "mfu", "memory_mb",
        "skipped", "time",
    }  # fmt: skip
    assert train_lines[-1]["mfu"] > 0
    assert any((tmp_path / "tensorboard").iterdir())


def test_skipped_samples_are_counted_and_listed(tmp_path):
    train_toy(tmp_path, steps=20)
    skips = [(skip["step"], skip["key"], skip["reason"]) for skip in lines(tmp_path, "skip")]
    assert skips == [(4, "bad3", "empty"), (14, "bad13", "empty")]
    assert lines(tmp_path, "train")[-1]["skipped"] == 2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_is_exact(tmp_path, accumulate):
    recipe = AdamW(lr=1e-2, accumulate=accumulate, ema=0.9, clip=1.0)
    whole = train_toy(tmp_path / "whole", recipe=recipe)

    calls = iter(range(13))
    with pytest.MonkeyPatch.context() as patch:  # dies in step 14; the newest checkpoint is of step 10
        patch.setattr(ToyMethod, "before_step", lambda self, progress: next(calls))
        with pytest.raises(StopIteration):
            train_toy(tmp_path / "cut", recipe=recipe)
    assert (tmp_path / "cut/checkpoints/step_00000010").is_dir()
    assert same(whole, train_toy(tmp_path / "cut", recipe=recipe))
    steps = [line["step"] for line in lines(tmp_path / "cut", "train")]
    assert steps == sorted(set(steps))
    assert lines(tmp_path / "cut", "skip") != []
    assert lines(tmp_path / "cut", "train")[-1]["skipped"] == lines(tmp_path / "whole", "train")[-1]["skipped"]


def test_engine_settings_change_nothing(tmp_path):
    plain = train_toy(tmp_path / "a")
    other = train_toy(tmp_path / "b", log_every=1, checkpoint_every=3, keep=1, deterministic=False)
    assert same(plain, other)


def test_random_state_before_the_run_does_not_matter(tmp_path):
    plain = train_toy(tmp_path / "a")
    torch.rand(7)
    assert same(plain, train_toy(tmp_path / "b"))


def test_nan_stops_the_run_and_names_it(tmp_path):
    with pytest.raises(Diverged) as caught:
        train_toy(tmp_path, steps=20, poison=12)
    message = str(caught.value)
    assert "step 13" in message
    assert "s12.0, s12.1" in message
    assert str(tmp_path / "checkpoints" / "step_00000010") in message
    (stop,) = lines(tmp_path, "stop")
    assert stop["step"] == 13 and len(stop["keys"]) == 8


def test_a_checkpoint_with_a_nan_weight_is_never_written(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyMethod, "after_step", lambda self, now: self.mean.fill_(torch.inf if now.step == 9 else 0))
        with pytest.raises(UserError, match="mean among them"):
            train_toy(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000005"]


def test_averaged_weights_are_the_ones_left(tmp_path):
    averaged = train_toy(tmp_path / "a", recipe=AdamW(lr=1e-2, ema=0.9))
    plain = train_toy(tmp_path / "b", recipe=AdamW(lr=1e-2))
    assert not same(averaged, plain)
    again = train_toy(tmp_path / "a", recipe=AdamW(lr=1e-2, ema=0.9))  # a finished run, loaded
    assert same(averaged, again)
