"""Random numbers as pure functions of what they are for, so that nothing depends on what ran before."""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Streams of random numbers under a run's seed, apart from those of core.data.
METHOD, GLOBAL = 10, 11


def mix(*parts: int | str) -> int:
    """One 63-bit seed out of several integers or names; their order counts."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator that depends on these integers alone."""
    return torch.Generator().manual_seed(mix(*numbers))


class PlacedGenerator(torch.Generator):
    """The generator of masks on one rank: the `rank`-th of `size` parts of a batch, of which it draws its own rows.

    `apart`: a generator for draws whose number differs between ranks, such as orders of all nodes: another
    stream on every rank, on the first one the same as this.
    """

    rank: int = 0
    size: int = 1

    def __init__(self, device: torch.device | str = "cpu"):
        self.apart = torch.Generator(device)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Noise U[0, 1) for the rows of this part, (B, …): the same as when one process draws the whole batch."""
        rows = shape[0]
        noise = torch.rand((rows * self.size, *shape[1:]), generator=self, device=self.device)
        return noise[rows * self.rank : rows * (self.rank + 1)]


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Torch's global CPU generator depends on these integers alone inside, and is as before outside.

    Devices are left alone: `torch.manual_seed` would reseed them too, and with them the training's dropout.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(mix(*numbers))
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def seed_part(generator: PlacedGenerator, seed: int, step: int, rank: int, part: int) -> None:
    """Seeds the masks' generator, the same on every rank, and the global ones of its device (dropout, plug-ins)."""
    generator.manual_seed(mix(seed, METHOD, step, 0, part))
    generator.apart.manual_seed(mix(seed, METHOD, step, rank, part))
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
    settings: Any = torch.utils.deterministic  # a module whose attributes are properties
    fill = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = False  # costs time and guards only against reading garbage
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        settings.fill_uninitialized_memory = fill
