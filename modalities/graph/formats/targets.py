"""Labels of nodes or graphs: classes, answers to questions, or real numbers. Nothing is cut to whole numbers."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from core.data.labels import MOST_CLASSES
from core.errors import UserError


@dataclass(frozen=True)
class Labels:
    """The labels of a collection's S graphs or N nodes.

    Fields as in `Collection`, empty where there are none.
    """

    graphs: Tensor | None = None
    nodes: Tensor | None = None
    _: KW_ONLY
    raw: Tensor | None = None  # (S, T) of graphs, as the file has them
    targets: dict[str, Tensor] = field(default_factory=dict)
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()


def read_labels(
    values: Sequence[Tensor | None], counts: Sequence[int], where: str, *, as_answers: bool = False
) -> Labels:
    """Labels from `values`, one tensor a graph (None: unlabelled), and the number of nodes of each graph.

    Of nodes where every graph has as many rows as nodes, else of graphs: one or several a graph.
    `as_answers`: a single one of -1, 0 and 1 is an answer to a question too (molecules).
    Raises: UserError naming the first graph that fits neither.
    """
    pairs = [(value, count) for value, count in zip(values, counts, strict=True) if value is not None]
    if not pairs:
        return Labels()

    is_single = all(value.numel() == 1 for value, _ in pairs) and all(count == 1 for _, count in pairs)
    if all(value.dim() and len(value) == count for value, count in pairs) and not (is_single and len(values) > 1):
        return _of_nodes(values, counts, where)

    width = pairs[0][0].numel()
    for number, (value, count) in enumerate(zip(values, counts, strict=True)):
        is_row = value is None or value.dim() < 2 or len(value) == 1
        if value is not None and (value.numel() != width or not is_row):
            place = where
            if len(values) > 1:
                place = f"{where}, graph {number}"
            raise UserError(
                f"{place}: {len(value)} labels for a graph of {count} nodes; give one a node or one in all."
            )
    if len(values) == 1 and pairs[0][0].dim() == 1 and width > 1:
        raise UserError(
            f"{where}: {width} labels for a graph of {counts[0]} nodes; give one a node or one in all, or (1, {width})."
        )

    rows = torch.full((len(values), width), torch.nan, dtype=torch.float64)
    for number, value in enumerate(values):
        if value is not None:
            rows[number] = value.reshape(width)
    return graph_labels(rows, as_answers=as_answers)


def graph_labels(values: Tensor, *, as_answers: bool = False) -> Labels:
    """Labels (S, T) of graphs, NaN unknown: classes (T = 1), answers (of -1, 0 and 1), else real numbers.

    `as_answers`: as in `read_labels`.
    """
    raw = values
    if values.shape[1] == 1 and not as_answers:
        if not is_whole(values):
            return Labels(raw=raw, targets={"label": values[:, 0].double()})
        labels, classes, notes = as_classes(values[:, 0])
        return Labels(labels, raw=raw, classes=classes, notes=notes)

    # Answers: 1 yes, -1 no, 0 unknown; or 1 yes, 0 no, NaN unknown.
    known = values[~values.isnan()]
    if bool(torch.isin(known, torch.tensor([-1.0, 0.0, 1.0], dtype=known.dtype)).all()):
        if not bool((known == -1).any()):
            values = 2 * values - 1
        return Labels(values.nan_to_num(0).float(), raw=raw)

    if values.shape[1] == 1:
        return Labels(raw=raw, targets={"label": values[:, 0].double()})
    targets = {}
    for number, column in enumerate(values.unbind(1)):
        targets[f"label {number}"] = column.double()
    return Labels(raw=raw, targets=targets)


def node_labels(values: Tensor) -> Labels:
    """Labels (N,) or (N, 1) of nodes: classes or real numbers.

    (N, T) of zeros and ones: several classes that may hold.
    """
    if values.dim() == 2 and values.shape[1] == 1:
        values = values.squeeze(1)
    if values.dim() == 1 and not is_whole(values):
        return Labels(nodes=values.double())
    if values.dim() == 1:
        labels, classes, notes = as_classes(values)
        return Labels(nodes=labels, classes=classes, notes=notes)

    if values.dim() == 2 and bool(((values == 0) | (values == 1)).all()):
        return Labels(nodes=values.float())
    fault = f"Labels of nodes of shape {tuple(values.shape)} that are not 0 or 1 are left out"
    return Labels(notes=[f"{fault}: give one a node."])


def as_classes(values: Tensor) -> tuple[Tensor, Sequence[str], list[str]]:
    """Whole numbers (S,) as classes, -1 unknown, their names where they are numbered anew, and a note of it.

    Numbers from 0 on are class numbers, -1 and NaN are unknown; others are numbered in their order.
    """
    if values.is_floating_point():
        values = values.nan_to_num(-1)
    values = values.long()
    if not len(values):
        return values, (), []

    smallest, largest = int(values.min()), int(values.max())
    is_sign = {smallest, largest} == {-1, 1} and not bool((values == 0).any())
    if smallest >= -1 and largest < MOST_CLASSES and not is_sign:
        return values, (), []
    distinct, numbers = values.unique(return_inverse=True)
    names = list(map(str, distinct.tolist()))
    change = f"are numbered 0 to {len(names) - 1} in their order"
    return numbers, names, [f"Labels from {smallest} to {largest} {change}."]


def is_whole(values: Tensor) -> bool:
    """Whether all values that are not NaN are whole numbers."""
    if not values.is_floating_point():
        return True
    known = values[~values.isnan()]
    return bool((known.isfinite() & (known == known.round())).all())


def _of_nodes(values: Sequence[Tensor | None], counts: Sequence[int], where: str) -> Labels:
    """Labels of the nodes of all graphs; those of graphs without are unknown."""
    shapes = {value.shape[1:] for value in values if value is not None}
    if len(shapes) > 1:
        raise UserError(f"{where}: the graphs have labels of different widths.")

    shape, rows = shapes.pop(), []
    for value, count in zip(values, counts, strict=True):
        if value is None:
            value = torch.full((count, *shape), -1)
        rows.append(value)
    return node_labels(torch.cat(rows))
