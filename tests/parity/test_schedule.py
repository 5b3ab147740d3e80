"""The learning rate against the official schedule's recorded values."""

import json

import pytest

from core.engine.clock import Clock
from core.engine.optim import AdamW, learning_rate


@pytest.fixture(scope="module")
def samples(golden_dir):
    found = []
    for folder in sorted(golden_dir.glob("mae*")):
        meta = json.loads((folder / "meta.json").read_text())
        found += meta.get("lr_schedule", {}).get("samples", [])
    if not found:
        pytest.skip(f"{golden_dir} holds no folder mae* with a learning-rate schedule")
    return found


def test_rate_at_recorded_epochs(samples):
    for sample in samples:
        rate = learning_rate(sample["epoch"], sample["warmup"], sample["epochs"], sample["lr"], sample["min_lr"])
        assert rate == pytest.approx(sample["value"], rel=1e-12, abs=1e-18), sample


def test_rate_as_training_sets_it(samples):
    """The same through recipe and clock: 1000 steps an epoch, batch 4096, base rate for the recorded peak."""
    for sample in samples:
        recipe = AdamW(base_lr=sample["lr"] / 16, min_lr=sample["min_lr"], warmup_epochs=sample["warmup"])
        clock = Clock(sample["epochs"] * 1000, 1000)
        rate = recipe.rate(clock.at(round(sample["epoch"] * 1000)), 4096)
        assert rate == pytest.approx(sample["value"], rel=1e-9, abs=1e-15), sample
