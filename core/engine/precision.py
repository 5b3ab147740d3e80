"""fp32 or bf16: what a run computes in, and rehearsals of a step on a copy of the method."""

import copy
import time
from typing import Literal

import torch
from torch import nn

from core.tokens import Batch, Progress

Precision = Literal["fp32", "bf16"]
PATIENCE = 20.0  # seconds that one precision is timed for, at most about
GAIN = 1.2  # bf16 must be this much faster: between close calls the exact one is kept
BRIEF = 0.02  # seconds that a matrix product is timed for, at least once
EMULATED = 4.0  # times as long for a matrix product in bf16: a whole step of it is not worth waiting for


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class DryRun:
    """Forward and backward on a copy: the method, its gradients and the global random state stay as they are."""

    def __init__(self, method: nn.Module, batch: Batch, progress: Progress, device: torch.device):
        self._method, self._batch, self._progress, self._device = copy.deepcopy(method), batch, progress, device

    def __call__(self, precision: Precision) -> float:
        """Runs once; seconds taken (on a GPU: to launch)."""
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            generator = torch.Generator(self._device).manual_seed(0)
            start = time.perf_counter()
            with autocast(precision, self._device):
                out = self._method(self._batch, progress=self._progress, generator=generator)
            out.loss.backward()
            seconds = time.perf_counter() - start
        self._method.zero_grad()
        return seconds


def choose(rehearse: DryRun, device: torch.device) -> tuple[Precision, str]:
    """What `precision=auto` means, and why: bf16 on a GPU that has it; on a CPU what a short measurement favours."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU computes it") if native else ("fp32", "the GPU has no bf16")
    slower = product_rate(device, torch.float32, BRIEF) / product_rate(device, torch.bfloat16, BRIEF)
    if slower > EMULATED:
        return "fp32", f"bf16 is emulated on this CPU: a matrix product takes {slower:.0f} times as long"
    return compare(rehearse)


def product_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """FLOP/s of the fastest square matrix product in about `seconds`.

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


def compare(rehearse: DryRun) -> tuple[Precision, str]:
    """The precision whose step is faster, and by how much."""
    rehearse("fp32")  # first calls plan kernels
    full = best_of(rehearse, "fp32")
    try:
        trial = rehearse("bf16")
        half = min(trial, best_of(rehearse, "bf16")) if trial < 3 * full else trial
    except RuntimeError as error:
        return "fp32", f"a part cannot compute in bf16: {str(error).splitlines()[0]}"
    measured = f"measured: fp32 {full:.3g} s, bf16 {half:.3g} s a step"
    return ("bf16" if half * GAIN < full else "fp32"), measured


def best_of(rehearse: DryRun, precision: Precision, runs: int = 3) -> float:
    best, spent = float("inf"), 0.0
    for _ in range(runs):
        seconds = rehearse(precision)
        best, spent = min(best, seconds), spent + seconds
        if spent > PATIENCE:
            break
    return best
