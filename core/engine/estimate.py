"""Time and memory that a run is going to take, before its first step."""

from datetime import timedelta

from torch import nn

from core.engine.meter import memory_mb
from core.engine.optim import Recipe
from core.engine.precision import DryRun, Precision, best_of

RUNS = 2  # timed forward and backward passes


def estimate(trial: DryRun, precision: Precision, reading: float, parts: int, method: nn.Module, recipe: Recipe) -> str:
    """One line: the time of `parts` forward and backward passes to come, and the memory of one with the optimiser.

    `reading`: seconds that each waits for its data. Left out: the update itself, and data that are slower to
    read than to compute where workers read them.
    """
    computing = best_of(trial, precision, RUNS)
    seconds = parts * (computing + reading)

    # The trial held a second copy of the weights; the optimiser will hold two means, `ema` one more.
    weights = sum(p.numel() * p.element_size() for p in method.parameters()) / 2**20
    trained = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad) / 2**20
    memory = memory_mb(trial.device) - weights + (2 + (recipe.ema is not None)) * trained

    place = "of the GPU" if trial.device.type == "cuda" else "in this process"
    return (
        f"estimate: {timedelta(seconds=round(seconds))} to the end ({computing:.2g} s computing and "
        f"{reading:.2g} s reading a batch), {memory:.0f} MB of memory {place}"
    )
