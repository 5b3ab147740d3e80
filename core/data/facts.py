"""Facts of a data set, from a look at some of its samples before anything is built for them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.data.sources import Item
from core.errors import BadSample

LOOKED_AT = 64  # samples


@dataclass(frozen=True, kw_only=True)
class SampleFacts:
    """One sample as its file holds it.

    `channels`: the fewest that keep its content, 1 for grey that a file repeats as red, green and blue.
    `size`: along the axes of `modality.size`. `notes`: changes and omissions by the reader, in the same
    words for all such samples.
    """

    channels: int
    size: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Facts of `samples` of a data set, spread evenly over it.

    `channels`: the fewest that keep the content of all, 3 where some are grey and some in colour; None where
    no number of channels suits all, or none could be read. `sizes`: of each sample. `notes`: samples by note.
    `bad`: (key, reason) of those that cannot be read.
    """

    samples: int
    channels: int | None
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    bad: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, samples: Sequence[SampleFacts], bad: Sequence[tuple[str, str]] = ()) -> "DataFacts":
        """The facts of all samples together."""
        notes: Counter[str] = Counter()
        for sample in samples:
            notes.update(sample.notes)

        return cls(
            samples=len(samples),
            channels=_common_channels({sample.channels for sample in samples}),
            sizes=[sample.size for sample in samples],
            notes=dict(notes),
            bad=list(bad),
        )

    def sentences(self) -> list[str]:
        """The notes in words, for the account of the data."""
        return [f"{count} of {self.samples} samples looked at: {note}." for note, count in self.notes.items()]


def spread(items: Sequence[Item], count: int = LOOKED_AT) -> list[Item]:
    """At most `count` of the items, at equal distances."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


Measure = Callable[[Item], SampleFacts | None]


def look_at(measure: Measure, items: Sequence[Item], count: int = LOOKED_AT) -> DataFacts:
    """The facts of at most `count` items; `measure` gives those of one, or None."""
    samples, bad = [], []
    for item in spread(items, count):
        try:
            facts = measure(item)
        except BadSample as error:
            bad.append((item.key, str(error)))
            continue
        if facts is not None:
            samples.append(facts)
    return DataFacts.of(samples, bad)


def _common_channels(channels: set[int]) -> int | None:
    if channels == {1, 3}:
        return 3
    if len(channels) > 1:
        return None
    return min(channels, default=None)
