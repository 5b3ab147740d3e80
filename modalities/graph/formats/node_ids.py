"""Ids of nodes, whole numbers of any size or words, and their numbers from 0 on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from core.errors import UserError

SPARSE = 10  # ids whose largest is above this many times their number, and `FEW`, are numbered anew
FEW = 1000
RENUMBERED = "they are numbered from 0 in their order, and account.json of the run has the table."
LARGEST = 2**62  # numbers beyond it are no rows of any table


@dataclass(frozen=True, kw_only=True)
class NodeIds:
    """Numbers of nodes by their ids. `names`: the ids by number; empty where the numbers are the ids."""

    count: int
    names: Sequence[str] = ()
    notes: Sequence[str] = ()
    numbers: dict[str, int] = field(default_factory=dict)

    def numbers_of(self, ids: Iterable[str]) -> list[int]:
        """-1 for ids that no node has."""
        if self.names:
            return [self.numbers.get(canonical(name), -1) for name in ids]
        return [min(int(canonical(name)), LARGEST) for name in ids]

    def number_of(self, name: str, where: str) -> int:
        """Raises UserError for an id that no node has."""
        number = -1
        if self.names:
            number = self.numbers.get(canonical(name), -1)
        elif _is_integer(canonical(name)):
            number = int(canonical(name))
        if not 0 <= number < self.count:
            nodes = "those of the table" if self.names else f"0 to {self.count - 1}"
            raise UserError(f"data.root: {where} names node {name}, but nodes are {nodes}.")
        return number


def number_nodes(
    ids: Sequence[str], rows: Sequence[str], *, count: int | None, others: Iterable[str], where: str
) -> NodeIds:
    """Numbers for the nodes that `ids` (of edges), `rows` (of a table of nodes) and
    `others` (of labels) name.

    With a table of ids a node's number is its row. Else ids are the numbers themselves, where they are whole
    numbers; without features (`count` None), where they are words, from 1 to N, or few against their largest,
    they are numbered anew in their order.
    Raises: UserError where features have no ids to join them by.
    """
    if rows:
        return _table_of(list(map(canonical, rows)), [])

    distinct = set(map(canonical, ids))
    if count is None:
        distinct |= set(map(canonical, others))
    words = sorted(name for name in distinct if not _is_integer(name))
    if count is not None:
        if words:
            raise UserError(
                f"data.root: {where}: edges name nodes by words ({words[0]}), and the table of features has no "
                "column of ids to join them by: add one called id."
            )
        return NodeIds(count=count)

    if words:
        order = sorted(distinct)
        text = f"The {len(order)} node ids are words ({words[0]}, …): {RENUMBERED}"
        return _table_of(order, [text])
    values = sorted(map(int, distinct))
    if not values:
        return NodeIds(count=1)
    if values[0] < 0:
        return NodeIds(count=values[-1] + 1)

    largest = values[-1]
    is_sparse = largest > SPARSE * len(values) + FEW
    if is_sparse or values == list(range(1, len(values) + 1)):
        text = f"The {len(values)} node ids are from {values[0]} to {largest}: {RENUMBERED}"
        return _table_of(list(map(str, values)), [text])
    return NodeIds(count=largest + 1)


def canonical(name: str) -> str:
    """An id as it is compared: whole numbers without zeros around them, words as they are."""
    text = name.strip()
    if text.removesuffix(".0").lstrip("+-").isdecimal():
        return str(int(text.removesuffix(".0")))
    return text


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_integer(text: str) -> bool:
    return text.lstrip("-").isdecimal()


def _table_of(names: Sequence[str], notes: Sequence[str]) -> NodeIds:
    numbers = {name: number for number, name in enumerate(names)}
    return NodeIds(count=len(names), names=names, notes=notes, numbers=numbers)
