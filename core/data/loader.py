"""Batches of samples: endless and resumable for training, once and in order for evaluation."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from core import seeding
from core.data.dataset import ORDER, Samples, unreadable
from core.data.reader import Reader
from core.data.sources import Item
from core.errors import UserError
from core.tokens import Batch

PREFETCH = 4  # batches each worker prepares ahead


class Loader:
    """Endless batches for training; batch k is a pure function of (seed, k), whatever the number of workers.

    Every epoch is a new order of all samples, cut into batches of `batch_size` over all ranks. The samples
    left over are dropped, or with `keep_last` make a smaller batch (one process only: ranks could get
    nothing). Rank r reads the r-th part of each batch, so that a run may go on with another number of
    ranks. `start`: the first batch to come, which is the number of steps done.
    Raises: UserError where the batch size fits neither the samples nor the ranks.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        seed: int,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        keep_last: bool = False,
    ):
        if keep_last and world_size > 1:
            raise UserError(
                "data.source.keep_last=true gives ranks unlike batches: train in one process, or set it false."
            )
        if not 0 < batch_size <= len(samples):
            raise UserError(
                f"batch_size={batch_size} does not fit the training set of {len(samples)} samples: "
                "choose a batch_size from 1 to that, or give more data by data.root."
            )
        if batch_size % world_size:
            raise UserError(
                f"batch_size={batch_size} counts samples over all processes, and cannot be divided by "
                f"{world_size} of them. Choose a multiple of {world_size}."
            )

        self.samples, self.workers = samples, workers
        self.order = BatchOrder(len(samples), batch_size, seed, rank, world_size, start, keep_last)
        self.steps_per_epoch = self.order.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return _batches(self.samples, self.order, self.workers)


class BatchOrder(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) of every sample of this rank's part of batch `start`, `start` + 1, … without end."""

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        start: int,
        keep_last: bool = False,
    ):
        self.count, self.batch_size, self.seed, self.start = count, batch_size, seed, start
        share = batch_size // world_size
        self.part = slice(rank * share, (rank + 1) * share)
        self.steps_per_epoch = -(-count // batch_size) if keep_last else count // batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, step = divmod(self.start, self.steps_per_epoch)
        while True:
            order = torch.randperm(self.count, generator=seeding.generator(self.seed, ORDER, epoch))
            batches = order.split(self.batch_size)[: self.steps_per_epoch]
            for batch in batches[step:]:
                yield [(epoch, index) for index in batch[self.part].tolist()]

            epoch, step = epoch + 1, 0


def evaluation_batches(
    items: Sequence[Item],
    reader: Reader,
    batch_size: int,
    workers: int,
) -> Iterator[Batch]:
    """Every item once, in order, as for evaluation. Bad samples are left out and listed in `skipped`.

    No batch is empty. Raises: UserError where nothing can be read.
    """
    if not items:
        raise UserError("there is no sample to evaluate: check data.root.")

    samples = Samples(items, reader, seed=0, train=False)
    order = []
    for indices in torch.arange(len(items)).split(batch_size):
        order.append([(0, index) for index in indices.tolist()])

    # A batch waits for the next one: an empty batch passes its skipped samples on to its neighbour.
    pending: Batch | None = None
    for batch in _batches(samples, order, workers):
        if pending is None:
            pending = batch
        elif pending.keys and batch.keys:
            yield pending
            pending = batch
        else:
            skipped = [*pending.skipped, *batch.skipped]
            pending = replace(pending if pending.keys else batch, skipped=skipped)

    assert pending is not None, "there is at least one item"
    if not pending.keys:
        raise UserError(unreadable(pending.skipped))
    yield pending


class _Batches(Dataset):
    """Whole batches, as workers hand them over."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __getitem__(self, positions: list[tuple[int, int]]) -> tuple | UserError:
        """A user's error comes as a value: one raised in a worker comes wrapped in its traceback."""
        try:
            return self.samples.batch(positions)
        except UserError as error:
            return error


def _batches(samples: Samples, order: Iterable[list[tuple[int, int]]], workers: int) -> Iterator[Batch]:
    """Batches in the given order. Workers live until it ends, each with one thread (DataLoader's rule)."""
    loader = DataLoader(
        _Batches(samples),
        batch_size=None,  # the sampler's elements are whole batches
        sampler=order,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=PREFETCH if workers else None,
        generator=torch.Generator(),  # otherwise its start would draw from the global one
    )
    for parts in loader:
        if isinstance(parts, UserError):
            raise parts

        views, keys, labels, skipped = parts
        yield Batch(views, keys, labels=labels, skipped=skipped)


def _unchanged(parts: Any) -> Any:
    return parts
