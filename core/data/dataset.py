"""Samples read by index: random numbers seeded per sample, bad samples replaced."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from core import seeding
from core.data.reader import Reader
from core.data.sources import Item
from core.errors import BadSample, UserError

ORDER, SAMPLE, REPLACEMENT = range(3)  # streams of random numbers under one seed
MOST_REASONS = 10  # bad samples that a message lists


@dataclass(frozen=True)
class Sample:
    """One sample after reading. `views` is None where an evaluation could not read it."""

    key: str
    views: Mapping[str, Any] | None
    _: KW_ONLY
    labels: Mapping[str, int | tuple[float, ...]]
    skipped: list[tuple[str, str]]  # key and reason of each bad sample at this index


class Samples(torch.utils.data.Dataset):
    """Reads sample `index` of `epoch`, a pure function of (seed, epoch, index).

    For training, a bad sample is replaced by another one drawn from (seed, epoch, index, attempt). In
    evaluation nothing is replaced: its `views` are None.
    """

    def __init__(
        self,
        items: Sequence[Item],
        reader: Reader,
        seed: int,
        train: bool = True,
        attempts: int = 10,
    ):
        self.items, self.reader, self.seed, self.train = items, reader, seed, train
        self.attempts = attempts if train else 1

        # Several answers to one label are no class number; who needs them reads them from the items.
        names: set[str] = set()
        for item in items:
            names.update(name for name, value in item.labels.items() if isinstance(value, int))
        self.label_names = sorted(names)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: tuple[int, int]) -> Sample:
        """The sample at (epoch, index). Raises: UserError where `attempts` samples in a row are bad."""
        epoch, index = position
        skipped: list[tuple[str, str]] = []
        for attempt in range(self.attempts):
            item = self.items[self._item_index(epoch, index, attempt)]
            try:
                with seeding.seeded(self.seed, SAMPLE, epoch, index, attempt):
                    views = self.reader.read_views(item, self.train)
                return Sample(item.key, views, labels=item.labels, skipped=skipped)
            except BadSample as error:
                skipped.append((item.key, str(error)))

        if self.train:
            raise UserError(unreadable(skipped))
        return Sample(item.key, None, labels=item.labels, skipped=skipped)

    def batch(
        self, positions: Sequence[tuple[int, int]]
    ) -> tuple[dict[str, Any], list[str], dict[str, Tensor], list[tuple[str, str]]]:
        """Data by view, keys, labels (B,) with -1 for unknown, and skipped samples, at these (epoch, index).

        Samples without data are left out; there are no views where no sample has any.
        """
        samples: list[Sample] = []
        read: list[Mapping[str, Any]] = []
        skipped: list[tuple[str, str]] = []
        for position in positions:
            sample = self[position]
            skipped.extend(sample.skipped)
            if sample.views is not None:
                samples.append(sample)
                read.append(sample.views)

        # A batch of nothing keeps the names of what it skipped.
        views = {}
        if samples:
            views = self.reader.collate_views(read)

        keys = [sample.key for sample in samples]
        labels = {}
        for name in self.label_names:
            numbers = [sample.labels.get(name, -1) for sample in samples]
            labels[name] = torch.tensor(numbers, dtype=torch.long)
        return views, keys, labels, skipped

    def _item_index(self, epoch: int, index: int, attempt: int) -> int:
        if attempt == 0:
            return index
        generator = seeding.generator(self.seed, REPLACEMENT, epoch, index, attempt)
        return int(torch.randint(len(self.items), (), generator=generator))


def unreadable(skipped: Sequence[tuple[str, str]]) -> str:
    """The message for data of which nothing could be read."""
    lines = "\n".join(f"  {key}: {reason}" for key, reason in skipped[:MOST_REASONS])
    subject = "the only sample"
    if len(skipped) > 1:
        subject = f"{len(skipped)} samples in a row"
    return (
        f"data.root: {subject} could not be used:\n{lines}\n"
        "Check that the files are whole and are what this modality and its reader's settings expect."
    )
