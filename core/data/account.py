"""Every file and sample of a source, accounted for: how many are read, from where, and why others are not."""

from dataclasses import dataclass, field


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
