"""How a run is carried out (config group `engine`, which must not change results) and how long it is (`Plan`)."""

import os
from dataclasses import dataclass
from typing import Literal

from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Settings that change no result: loading, logging, checkpoints."""

    workers: int | None = None  # loader processes per rank; None: one core fewer than there are, at most 8
    log_every: int = 20  # steps between two log lines; the device is read only then
    checkpoint_every: int | None = 500  # steps
    checkpoint_minutes: float | None = 10.0  # whichever comes first; the end is always saved
    keep: int = 2  # newest checkpoints kept
    deterministic: bool = True  # False: faster on some GPUs, resumes are then no longer bit-equal

    def __post_init__(self):
        for name, least in (("workers", 0), ("log_every", 1), ("checkpoint_every", 1), ("keep", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"engine.{name} is {value}; it must be at least {least}.")
        if self.checkpoint_minutes is not None and self.checkpoint_minutes <= 0:
            raise UserError(f"engine.checkpoint_minutes is {self.checkpoint_minutes}; give minutes above 0, or null.")

    def is_due(self, step: int) -> bool:
        """A checkpoint belongs after this step."""
        return self.checkpoint_every is not None and step % self.checkpoint_every == 0

    def is_late(self, seconds: float) -> bool:
        """The newest checkpoint is older than it may be."""
        return self.checkpoint_minutes is not None and seconds > 60 * self.checkpoint_minutes

    def loader_workers(self, ranks_here: int = 1) -> int:
        if self.workers is not None:
            return self.workers
        return max(0, min(8, len(os.sched_getaffinity(0)) // ranks_here - 1))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the command line says about a whole run."""

    batch_size: int  # samples per optimiser step, over all ranks and parts; repeated views don't count
    seed: int = 0
    steps: int | None = None  # wins over epochs
    epochs: float | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False

    def __post_init__(self):
        for name in ("batch_size", "seed", "precision", "compile"):
            if getattr(self, name) is None:
                raise UserError(f"{name}=null: give it a value.")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise UserError(f"precision={self.precision} is unknown; choose auto, fp32 or bf16.")
        for name in ("batch_size", "steps", "epochs"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name}={value} must be above 0.")
        if self.steps is None and self.epochs is None:
            raise UserError("Give the length of the run: steps= or epochs=.")

    def part_size(self, accumulate: int, world_size: int) -> int:
        """Samples of one forward pass over all ranks. Raises UserError where `batch_size` cannot be divided."""
        if self.batch_size % (accumulate * world_size):
            raise UserError(
                f"batch_size={self.batch_size} cannot be divided into optim.accumulate={accumulate} parts "
                f"on {world_size} process(es); choose a multiple of {accumulate * world_size}."
            )
        return self.batch_size // accumulate
