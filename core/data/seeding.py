"""Random numbers as pure functions of what they are for."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def mix(*numbers: int) -> int:
    """One 63-bit seed out of several integers; their order counts."""
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator that depends on these integers alone."""
    return torch.Generator().manual_seed(mix(*numbers))


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
