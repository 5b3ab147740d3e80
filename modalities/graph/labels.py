"""Labels of graphs as items carry them: class numbers, answers, or numbers of distinct real values."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

ItemLabels = dict[str, int | tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class GraphLabels:
    """The labels of each graph's item, and the names of their classes or questions.

    Real numbers are numbered: the names are the distinct values as text. `is_real`: names of such labels.
    """

    rows: Sequence[ItemLabels]
    classes: dict[str, list[str]] = field(default_factory=dict)
    questions: dict[str, list[str]] = field(default_factory=dict)
    is_real: frozenset[str] = frozenset()


def label_graphs(
    labels: Tensor | None,
    targets: dict[str, Tensor],
    count: int,
    *,
    classes: Sequence[str] = (),
    as_answers: bool = False,
) -> GraphLabels:
    """Labels for `count` graphs, from fields of a `Collection`.

    `as_answers`: one class number a graph is an answer to one question (molecules).
    """
    if targets:
        return _real(targets, count)
    if labels is None or not len(labels):
        return GraphLabels(rows=[{}] * count)
    if as_answers and labels.dim() == 1:
        labels = labels[:, None]

    if labels.dim() == 1:
        names = list(classes) or list(map(str, range(int(labels.max()) + 1)))
        rows: list[ItemLabels] = [{"label": number} if number >= 0 else {} for number in labels.tolist()]
        return GraphLabels(rows=rows, classes={"label": names})

    # Of 1 yes, -1 no, 0 unknown: 1, 0 and -1.
    answers = torch.where(labels == 0, -1, (labels > 0).long())
    names = list(map(str, range(labels.shape[1])))
    return GraphLabels(rows=[{"label": tuple(row)} for row in answers.tolist()], questions={"label": names})


def number_values(values: Tensor) -> tuple[Tensor, list[str]]:
    """Real values (n,) as numbers of their distinct values, -1 where NaN, and these as text."""
    is_known = ~values.isnan()
    distinct, numbers = values[is_known].unique(return_inverse=True)
    rows = torch.full((len(values),), -1)
    rows[is_known] = numbers
    return rows, list(map(repr, distinct.tolist()))


def _real(targets: dict[str, Tensor], count: int) -> GraphLabels:
    rows: list[ItemLabels] = [{} for _ in range(count)]
    classes = {}
    for name, values in targets.items():
        numbers, classes[name] = number_values(values)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            if number >= 0:
                row[name] = number
    return GraphLabels(rows=rows, classes=classes, is_real=frozenset(targets))
