"""Random numbers of a step: a pure function of (seed, step, rank, part), so that nothing depends on what ran before."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from core.data.seeding import mix

METHOD, GLOBAL = 10, 11  # streams of random numbers under the run's seed, apart from those of core.data


def seed_part(generator: torch.Generator, seed: int, step: int, rank: int, part: int) -> None:
    """Seeds the masks' generator and, apart from it, the global ones of its device (dropout, plug-ins)."""
    generator.manual_seed(mix(seed, METHOD, step, rank, part))
    seed_global(mix(seed, GLOBAL, step, rank, part), generator.device)


def seed_global(seed: int, device: torch.device) -> None:
    # torch.manual_seed would seed CUDA too and, where that never starts, keep a traceback of every call for later.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Only kernels that add in a fixed order; operators that have none warn. Nothing changes when not `wanted`."""
    if not wanted:
        yield
        return
    before = torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and guards only against reading garbage
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill
