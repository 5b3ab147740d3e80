"""Ranks: one process without torchrun, DDP under it."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Distributed:
    """The rank of this process among those that train together; a single process exchanges nothing."""

    rank: int = 0
    size: int = 1
    local_size: int = 1  # ranks on this host
    device: torch.device = CPU

    @property
    def main(self) -> bool:
        return self.rank == 0

    def wrap(self, method: nn.Module) -> nn.Module:
        """The method with gradients averaged over ranks."""
        if self.size == 1:
            return method

        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(method, devices)

    def exchange(self, model: nn.Module, now: bool) -> AbstractContextManager:
        """Gradients cross ranks only with the last part of a step."""
        if now or not isinstance(model, DistributedDataParallel):
            return nullcontext()
        return model.no_sync()

    def mean(self, values: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def any(self, flag: bool) -> bool:
        """True on every rank when it is on one."""
        if self.size == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def gather(self, value: Any) -> list:
        """Every rank's value, by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """The main rank's value."""
        return self.gather(value)[0]


@contextmanager
def connect() -> Iterator[Distributed]:
    """The processes that torchrun's environment describes, on the GPU where there is one; else this process alone."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device, backend = CPU, "gloo"
    if torch.cuda.is_available():
        device, backend = torch.device("cuda", local_rank), "nccl"
        torch.cuda.set_device(device)

    if size == 1:
        yield Distributed(device=device)
        return

    dist.init_process_group(backend)
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    try:
        yield Distributed(rank=dist.get_rank(), size=size, local_size=local_size, device=device)
    finally:
        dist.destroy_process_group()
