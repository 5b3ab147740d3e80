"""Steps of the optimiser as progress of a run."""

from dataclasses import dataclass

from core.errors import UserError
from core.settings import Plan
from core.tokens import Progress


@dataclass(frozen=True)
class Clock:
    """Turns steps into progress: schedules count either."""

    steps: int
    steps_per_epoch: float  # optimiser steps

    @classmethod
    def of(cls, plan: Plan, batches_per_epoch: int, accumulate: int) -> "Clock":
        """Raises UserError when the run would be shorter than one step."""
        steps = plan.steps
        if steps is None:
            assert plan.epochs is not None, "a plan has steps or epochs"
            steps = int(plan.epochs * batches_per_epoch) // accumulate

        if steps < 1:
            raise UserError(f"epochs={plan.epochs} is less than one step of batch_size={plan.batch_size}: raise it.")
        return cls(steps, batches_per_epoch / accumulate)

    def at(self, step: int) -> Progress:
        return Progress(step, self.steps, step / self.steps_per_epoch, self.steps / self.steps_per_epoch)
