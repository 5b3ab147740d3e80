"""The display of a run in progress: a live line in a terminal, plain lines elsewhere."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

RECENT = 50  # steps whose speed tells the time to the end

# Fields of a log line that every run has; the others are the terms of its loss.
STANDARD_FIELDS = {
    "kind", "step", "epoch", "loss", "lr", "grad_norm", "samples_per_s", "data_wait", "mfu", "memory_mb", "skipped",
    "time",
}  # fmt: skip


class Display(ABC):
    """Shows the steps of one run, from `start` to `steps`."""

    def __init__(self, start: int, steps: int):
        self._start, self._steps = start, steps
        self._ends: deque[tuple[int, float]] = deque(maxlen=RECENT)  # of steps: number and time

    def remaining(self) -> str:
        """Time to the end at the speed of recent steps; unknown before the second, as the first also prepares."""
        if len(self._ends) < 2:
            return "..."

        (before, start), (step, end) = self._ends[0], self._ends[-1]
        seconds = (end - start) / (step - before) * (self._steps - step)
        return str(timedelta(seconds=round(seconds)))

    @abstractmethod
    def note(self, text: str) -> None:
        """A line that stays."""

    def step(self, step: int) -> None:
        """`step` steps are done; called at every one, so it must be cheap."""
        self._ends.append((step, time.monotonic()))

    @abstractmethod
    def metrics(self, line: dict) -> None:
        """The figures of a log line."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class PlainDisplay(Display):
    """One line of text per log line, for files and pipes."""

    def note(self, text: str) -> None:
        print(text, flush=True)

    def step(self, step: int) -> None:
        super().step(step)
        if step == self._start + 2 < self._steps:  # long before the next log line, where steps are slow
            self.note(f"step {step}/{self._steps}  eta {self.remaining()}")

    def metrics(self, line: dict) -> None:
        self.note(f"step {line['step']}/{self._steps}  {spell(line)}  eta {self.remaining()}")

    def close(self) -> None:
        pass


class TerminalDisplay(Display):
    """A bar with the newest figures below it, redrawn in place."""

    def __init__(self, start: int, steps: int, console: Console):
        super().__init__(start, steps)
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(30), TaskProgressColumn())
        self._bar = Progress(*columns, TextColumn("eta {task.fields[eta]}"), console=console)
        self._task = self._bar.add_task("", total=steps, completed=start, eta="...")
        self._figures = Text()
        self._live = Live(Group(self._bar, self._figures), console=console)
        self._live.start()

    def note(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def step(self, step: int) -> None:
        super().step(step)
        self._bar.update(self._task, completed=step, eta=self.remaining())

    def metrics(self, line: dict) -> None:
        self._figures.plain = spell(line)

    def close(self) -> None:
        self._live.stop()


class NoDisplay(Display):
    """For every rank but the main one."""

    def note(self, text: str) -> None:
        pass

    def step(self, step: int) -> None:
        pass

    def metrics(self, line: dict) -> None:
        pass

    def close(self) -> None:
        pass


def open_display(start: int, steps: int, main: bool) -> Display:
    if not main:
        return NoDisplay(start, steps)

    console = Console()
    if console.is_terminal:
        return TerminalDisplay(start, steps, console)
    return PlainDisplay(start, steps)


def spell_held_out(values: Mapping[str, float | str]) -> str:
    """Held-out figures in words: "skill 0.123, knn of 'species' 0.520 (chance 0.250)"."""
    words = []
    for name, value in values.items():
        if name == "knn" and "chance" in values:
            words.append(f"knn of {values['label']!r} {value:.3f} (chance {values['chance']:.3f})")
        elif name not in ("label", "chance"):
            words.append(f"{name} {value:.3f}")
    return ", ".join(words)


def spell(line: dict) -> str:
    """A log line in words: "epoch 1.20  loss 0.5123  lr 1.5e-04  812 samples/s  wait 3%  mfu 41%  512 MB"."""
    words = [f"epoch {line['epoch']:.2f}", f"loss {line['loss']:.4f}"]

    terms = [f"{name} {value:.4g}" for name, value in line.items() if name not in STANDARD_FIELDS]
    if len(terms) > 1:  # a single term is the loss
        words += terms

    words += [
        f"lr {line['lr']:.2e}",
        f"{line['samples_per_s']:.4g} samples/s",
        f"wait {line['data_wait']:.0%}",
        f"mfu {line['mfu']:.1%}",
        f"{line['memory_mb']:.0f} MB",
    ]
    if line["skipped"]:
        words.append(f"skipped {line['skipped']}")
    return "  ".join(words)
