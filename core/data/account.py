"""Every file and sample of a source, accounted for: how many are read, from where, and why others are not."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

EXAMPLES = 3  # of each reason and kind
MOST_NAMES = 5  # of classes or kinds on a line


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """Files or samples that are not read, of one reason and kind."""

    reason: str  # "no file of this modality", "an empty graph", "listed twice"
    kind: str  # extension, or whatever tells them apart
    count: int
    examples: list[str]


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a source reads and what it leaves out; printed before training and saved with the run.

    `split_by`: how the split was decided. `labels`: where each label comes from ({"label": "class folders"}).
    `notes`: choices that were made for the user, one sentence each.
    """

    samples: dict[str, int]  # by split
    split_by: str
    labels: dict[str, str] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    passed_over: list[PassedOver] = field(default_factory=list)
    tables: dict[str, list[str]] = field(default_factory=dict)  # too long for the screen: ids of nodes by number
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The account in a few lines of text."""
        counts = ", ".join(f"{count} {split}" for split, count in self.samples.items())
        lines = [f"{counts or 'no samples'}; split by {self.split_by}"]
        for label, names in self.classes.items():
            line = f"label {label!r}: {len(names)} classes ({_shorten(names)})"
            if not names:
                line = f"label {label!r}: unknown for all samples,"
            if label in self.labels:
                line += f" from {self.labels[label]}"
            lines.append(line)
        for label in self.labels.keys() - self.classes.keys():
            lines.append(f"label {label!r} from {self.labels[label]}")
        if not self.classes and not self.labels:
            lines.append("no labels")

        by_reason: dict[str, list[PassedOver]] = {}
        for group in self.passed_over:
            by_reason.setdefault(group.reason, []).append(group)
        for reason, groups in by_reason.items():
            kinds = _shorten([f"{group.count} {group.kind}" for group in groups])
            lines.append(f"passed over: {kinds}, {reason}, such as {groups[0].examples[0]}")
        lines.extend(f"note: {note}" for note in self.notes)
        return lines


class Leftovers:
    """Counts files and samples that are not read, by reason and kind, with examples."""

    def __init__(self):
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], list[str]] = {}

    def add(self, reason: str, kind: str, example: str) -> None:
        self.counts[reason, kind] += 1
        examples = self.examples.setdefault((reason, kind), [])
        if len(examples) < EXAMPLES:
            examples.append(example)

    def extend(self, groups: Iterable[PassedOver]) -> None:
        for group in groups:
            self.counts[group.reason, group.kind] += group.count
            examples = self.examples.setdefault((group.reason, group.kind), [])
            examples.extend(group.examples[: EXAMPLES - len(examples)])

    @property
    def count(self) -> int:
        return self.counts.total()

    def by_kind(self) -> Counter[str]:
        """Counts by kind, whatever the reason."""
        kinds: Counter[str] = Counter()
        for (_, kind), count in self.counts.items():
            kinds[kind] += count
        return kinds

    def groups(self) -> list[PassedOver]:
        """The most frequent first."""
        groups = []
        for (reason, kind), count in self.counts.most_common():
            groups.append(PassedOver(reason=reason, kind=kind, count=count, examples=self.examples[reason, kind]))
        return groups


def _shorten(names: list[str]) -> str:
    """The first names, and how many more there are."""
    text = ", ".join(islice(names, MOST_NAMES))
    if len(names) > MOST_NAMES:
        text += f", and {len(names) - MOST_NAMES} more"
    return text
