"""Items read one by one: random numbers seeded per sample, bad samples replaced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.data import seeding
from core.data.reader import Reader
from core.data.sources import Item
from core.errors import BadSample, UserError

ORDER, SAMPLE, REPLACEMENT = range(3)  # streams of random numbers under one seed


@dataclass(frozen=True)
class Sample:
    """One sample as read. `data` is None where an evaluation could not read it; `skipped` says what failed and why."""

    key: str
    data: Any
    labels: Mapping[str, int]
    skipped: list[tuple[str, str]]


class Samples(torch.utils.data.Dataset):
    """Reads sample `index` of `epoch`; what comes out is a pure function of (seed, epoch, index).

    For training, a bad sample is replaced by another one drawn from (seed, epoch, index, attempt). In evaluation
    nothing is replaced: its `data` are None.
    """

    def __init__(self, items: Sequence[Item], reader: Reader, seed: int, train: bool = True, attempts: int = 10):
        self.items, self.reader, self.seed, self.train = items, reader, seed, train
        self.attempts = attempts if train else 1
        # Answers to several questions are no class number; who needs them reads them from the items.
        self.label_names = sorted({n for item in items for n, value in item.labels.items() if isinstance(value, int)})

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, at: tuple[int, int]) -> Sample:
        """Raises UserError when `attempts` samples in a row could not be read."""
        epoch, index = at
        skipped: list[tuple[str, str]] = []
        for attempt in range(self.attempts):
            item = self.items[self._index(epoch, index, attempt)]
            try:
                with seeding.seeded(self.seed, SAMPLE, epoch, index, attempt):
                    return Sample(item.key, self.reader.read(item, self.train), item.labels, skipped)
            except BadSample as error:
                skipped.append((item.key, str(error)))
        if not self.train:
            return Sample(item.key, None, item.labels, skipped)
        raise UserError(unreadable(skipped))

    def batch(self, places: Sequence[tuple[int, int]]) -> tuple[Any, list[str], dict[str, Tensor], list]:
        """Data, keys, labels (B,) with -1 for unknown, and what was skipped, of the samples at these (epoch, index)."""
        samples = [self[place] for place in places]
        read = [sample for sample in samples if sample.data is not None]
        data = self.reader.collate([sample.data for sample in read]) if read else None
        labels = {
            name: torch.tensor([each.labels.get(name, -1) for each in read], dtype=torch.long)
            for name in self.label_names
        }
        return data, [sample.key for sample in read], labels, [entry for sample in samples for entry in sample.skipped]

    def _index(self, epoch: int, index: int, attempt: int) -> int:
        if attempt == 0:
            return index
        generator = seeding.generator(self.seed, REPLACEMENT, epoch, index, attempt)
        return int(torch.randint(len(self.items), (), generator=generator))


def unreadable(skipped: Sequence[tuple[str, str]]) -> str:
    """The message for data of which nothing could be read."""
    lines = "\n".join(f"  {key}: {reason}" for key, reason in skipped[:10])
    return (
        f"data.root: {len(skipped)} samples in a row could not be used:\n{lines}\n"
        "Check that the files are whole and are what this modality and its reader's settings expect."
    )
