"""The precision a run computes in, fp32 or bf16, and dry runs of a step on a copy of the method."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch

from core.tokens import Batch, Progress

Precision = Literal["fp32", "bf16"]
MAX_TIMING_SECONDS = 20.0  # of one precision, roughly
MIN_BF16_SPEEDUP = 1.2  # between close calls the exact precision stays
PRODUCT_SECONDS = 0.02  # that a matrix product is timed for, at least once
EMULATION_SLOWDOWN = 4.0  # a matrix product this much slower in bf16 is emulated: no step of it is timed


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class DryRun:
    """Forward and backward on a copy: the method, its gradients and the global random state stay as they are."""

    def __init__(self, method: Any, batch: Batch, progress: Progress, device: torch.device):
        self._method = copy.deepcopy(method)
        self._batch, self._progress, self._device = batch, progress, device

    @property
    def device(self) -> torch.device:
        return self._device

    def check_masks(self) -> None:
        """Raises UserError where the masks of the batch leave nothing to see, or nothing to predict."""
        with self._own_random_state() as generator, torch.no_grad():
            self._method.check_masks(self._batch, self._progress, generator)

    def __call__(self, precision: Precision) -> float:
        """Runs once; seconds taken."""
        with self._own_random_state() as generator:
            start = time.perf_counter()
            with autocast(precision, self._device):
                out = self._method(self._batch, progress=self._progress, generator=generator)
            out.loss.backward()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            seconds = time.perf_counter() - start

        self._method.zero_grad()
        return seconds

    @contextmanager
    def _own_random_state(self) -> Iterator[torch.Generator]:
        """A seeded generator, while the global random state may change; it is restored."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            yield torch.Generator(self._device).manual_seed(0)


def choose(dry_run: DryRun, device: torch.device) -> tuple[Precision, str]:
    """The choice of `precision=auto` and its reason: bf16 on a GPU that has it; on a CPU the faster one in a trial."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the GPU computes it"
        return "fp32", "the GPU has no bf16"

    full = product_rate(device, torch.float32, PRODUCT_SECONDS)
    slower = full / product_rate(device, torch.bfloat16, PRODUCT_SECONDS)
    if slower > EMULATION_SLOWDOWN:
        return "fp32", f"bf16 is emulated on this CPU: a matrix product takes {slower:.0f} times as long"
    return compare(dry_run)


@cache
def product_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """FLOP/s of the fastest square matrix product in about `seconds`, measured once in a process.

    On a CPU that of one thread, times the threads: its own time leaves out what other processes took.
    """
    size, clock, threads = 8192, time.perf_counter, 1
    if device.type == "cpu":
        size, clock, threads = 512, time.thread_time, torch.get_num_threads()
        torch.set_num_threads(1)

    a = torch.ones(size, size, dtype=dtype, device=device)
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = clock()
        product = a @ a
        product[0, 0].item()  # waits for a GPU
        best = min(best, clock() - start)

    if device.type == "cpu":
        torch.set_num_threads(threads)
    return threads * 2 * size**3 / best


def compare(dry_run: DryRun) -> tuple[Precision, str]:
    """The precision whose step is faster, and by how much."""
    dry_run("fp32")  # first calls plan kernels
    full = best_of(dry_run, "fp32")

    try:
        half = dry_run("bf16")
        if half < 3 * full:  # else one step has shown enough
            half = min(half, best_of(dry_run, "bf16"))
    except RuntimeError as error:
        return "fp32", f"a part cannot compute in bf16: {str(error).splitlines()[0]}"

    reason = f"measured: fp32 {full:.3g} s, bf16 {half:.3g} s a step"
    if half * MIN_BF16_SPEEDUP < full:
        return "bf16", reason
    return "fp32", reason


def best_of(dry_run: DryRun, precision: Precision, runs: int = 3) -> float:
    """The fewest seconds of `runs` dry runs, fewer where they take long."""
    best, spent = float("inf"), 0.0
    for _ in range(runs):
        seconds = dry_run(precision)
        best, spent = min(best, seconds), spent + seconds
        if spent > MAX_TIMING_SECONDS:
            break
    return best
