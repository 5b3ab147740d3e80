"""Sums since the last log line, on the device: losses, waiting, skipped samples; and the check for NaN."""

import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from core.engine.distributed import Distributed
from core.tokens import Batch


@dataclass(frozen=True)
class Failure:
    """The first step (from 0) whose loss or gradient is not finite, and its samples on all ranks."""

    step: int
    keys: list[str]


class Meter:
    """Adds up losses without reading the device; `read` and `failure` are the only host synchronisations.

    Keys of the samples are kept from one check to the next, to name those of the step that went wrong.
    """

    def __init__(self, distributed: Distributed, flops_per_step: float, peak: float):
        self._distributed, self._flops, self._peak = distributed, flops_per_step, peak
        # The first step that was not finite; -1 for none.
        self._bad = torch.full((), -1.0, device=distributed.device, dtype=torch.float64)
        self._keys: deque[tuple[int, list[str]]] = deque()
        self.skips: list[tuple[int, str, str]] = []  # step, key, reason
        self._restart()

    def _restart(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._waited, self._steps, self._start = 0.0, 0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not the training's: it counts in no speed."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def add(self, step: int, batch: Batch, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """One part of a step."""
        self._keys.append((step, list(batch.keys)))
        self.skips += [(step, key, reason) for key, reason in batch.skipped]
        for name, value in {**terms, "loss": loss}.items():
            self._sum(name, value.detach())
        self._note(step, loss)

    def finish(self, step: int, norm: Tensor) -> None:
        """The step's gradient is known."""
        self._sum("grad_norm", norm)
        self._note(step, norm)
        self._steps += 1

    def _sum(self, name: str, value: Tensor) -> None:
        value = value.to(torch.float32)
        self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts[name] = self._counts.get(name, 0) + 1

    def _note(self, step: int, value: Tensor) -> None:
        is_first = ~torch.isfinite(value.detach()) & (self._bad < 0)
        self._bad.masked_fill_(is_first, step)

    def failure(self) -> Failure | None:
        """The failure since the last call, if any, the same on every rank. Collective."""
        bad = int(self._bad.item())
        if not self._distributed.any(bad >= 0):
            self._keys.clear()
            return None

        step = min(number for number in self._distributed.gather(bad) if number >= 0)
        keys_here = []
        for number, keys in self._keys:
            if number == step:
                keys_here += keys

        return Failure(step, list(chain.from_iterable(self._distributed.gather(keys_here))))

    def read(self, samples_per_step: int) -> dict[str, float]:
        """Means over the steps since the last call, and speed; starts anew. Collective."""
        names = list(self._sums)
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        values = dict(zip(names, self._distributed.mean(means).tolist(), strict=True))

        seconds = time.perf_counter() - self._start
        values["samples_per_s"] = self._steps * samples_per_step / seconds
        values["data_wait"] = self._waited / seconds
        values["mfu"] = self._steps * self._flops / seconds / self._peak
        values["memory_mb"] = memory_mb(self._distributed.device)

        self._restart()
        return values

    def take_skips(self) -> list[tuple[int, str, str]]:
        """Bad samples of all ranks since the last call. Collective."""
        skips = sorted(chain.from_iterable(self._distributed.gather(self.skips)))
        self.skips = []
        return skips


def memory_mb(device: torch.device) -> float:
    """Most memory used so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20

    status = Path("/proc/self/status")
    if status.exists():  # getrusage's maximum includes that of the process which started this one
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 2**10

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in kilobytes, on macOS in bytes
    if sys.platform == "darwin":
        return most / 2**20
    return most / 2**10
