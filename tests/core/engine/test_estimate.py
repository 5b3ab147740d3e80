"""The estimate of time and memory: arithmetic on measured passes."""

import pytest
import torch
from torch import nn

from core.engine import estimate as module
from core.engine.estimate import estimate
from core.engine.optim import AdamW


class Trial:
    """Passes of a fixed length."""

    device = torch.device("cpu")

    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, precision):
        return self.seconds


@pytest.mark.parametrize(
    ("computing", "reading", "parts", "words"),
    [
        (0.3, 0.1, 300, "0:02:00 to the end (0.3 s computing and 0.1 s reading a batch)"),
        (2.0, 0.0, 36000, "20:00:00 to the end"),
        (0.5, 0.0, 0, "0:00:00 to the end"),
    ],
)
def test_time_is_passes_times_their_length(computing, reading, parts, words):
    assert words in estimate(Trial(computing), "fp32", reading, parts, nn.Linear(2, 2), AdamW())


@pytest.mark.parametrize(("ema", "megabytes"), [(None, 1004), (0.9, 1008)])
def test_memory_has_the_means_of_the_optimiser_for_the_trial_s_copy(monkeypatch, ema, megabytes):
    """4 MB of weights, 1000 MB at the most so far: minus the copy, plus two means (and one more)."""
    monkeypatch.setattr(module, "memory_mb", lambda device: 1000.0)
    weights = nn.Linear(1024, 1024, bias=False)
    assert f"{megabytes} MB of memory in this process" in estimate(Trial(1.0), "fp32", 0.0, 1, weights, AdamW(ema=ema))
