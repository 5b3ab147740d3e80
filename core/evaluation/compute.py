"""How much a training computes: what "equal compute" is measured in."""

from pathlib import Path

import torch

from core.config import load
from core.config.build import build_method
from core.data.dataset import Samples
from core.data.loader import Loader
from core.data.sources import Item
from core.engine import flops
from core.engine.precision import DryRun
from core.engine.run_dir import load_note
from core.errors import UserError
from core.evaluation.features import Reading
from core.tokens import Progress

MEASURED = 8  # samples of the batch that is counted; their number changes nothing beyond rounding
END = Progress(1, 1, 1.0, 1.0)  # for masks and targets that follow a schedule


def pretraining_flops(run: Path, items: list[Item], reading: Reading) -> float:
    """FLOPs of a finished run: its steps times the samples of one, times forward and backward of the method.

    Counted on training samples of the evaluation, read as in training; what `init=` brought along is not counted.
    Raises UserError where the run is not finished.
    """
    done = load_note(run / "finished.json")
    if done is None:
        raise UserError(f"run={run} is not finished, so that its compute is not known: finish it by the same command.")
    config = load(run / "config.yaml")
    method = build_method(config).to(reading.device)
    return done["steps"] * config["batch_size"] * flops_per_sample(method, items, reading)


def flops_per_sample(module: torch.nn.Module, items: list[Item], reading: Reading) -> float:
    """Of one forward and backward of anything that takes a batch as methods do, per sample (not per view of it)."""
    size = min(MEASURED, len(items))
    batch = next(iter(Loader(Samples(items, reading.reader, seed=0), size, seed=0, workers=0)))
    rehearse = DryRun(module, batch.to(reading.device), END, torch.device(reading.device))
    return flops.count(rehearse, "fp32") / size
