"""When to measure held-out figures: about so many times a run, for a small share of its time."""

import time
from collections.abc import Callable, Mapping

from core.errors import UserError

LEAST = 100  # steps between two measurements
SHARE = 0.05  # of the time of training that measuring may take


class Watching:
    """Calls `measure` after every `steps` / `times` steps, as long as it takes a small share of the time.

    `note` gets the reason where it cannot measure, once. Nothing is measured without `measure`, or with
    `times` = 0.
    """

    def __init__(
        self,
        measure: Callable[[], Mapping[str, float | str]] | None,
        *,
        steps: int,
        times: int,
        note: Callable[[str], None],
    ):
        self._measure, self._note = measure, note
        if times == 0:
            self._measure = None
        self._every = max(LEAST, steps // max(times, 1))
        self._start, self._spent = time.monotonic(), 0.0

    def after(self, step: int) -> Mapping[str, float | str]:
        """The figures after `step` steps; empty where none are due."""
        if self._measure is None or step % self._every:
            return {}

        start = time.monotonic()
        if self._spent > SHARE * (start - self._start):
            return {}

        try:
            return self._measure()
        except UserError as error:
            self._note(f"held-out figures are not measured while training: {error}")
            self._measure = None
            return {}
        finally:
            self._spent += time.monotonic() - start
