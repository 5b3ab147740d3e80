"""Tables in text files: any delimiter, remarks, by gzip or plain, with names of their columns or without."""

import csv
import gzip
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from core.errors import UserError
from modalities.graph.formats.node_ids import is_number

# Columns of edges, in pairs, and of nodes.
ENDS = (
    ("source", "target"), ("src", "dst"), ("from", "to"), ("source_id", "target_id"), ("src_id", "dst_id"),
    ("from_id", "to_id"), ("from_node", "to_node"), ("source_node", "target_node"),
    ("fromnodeid", "tonodeid"), ("u", "v"), ("head", "tail"), ("start", "end"), (":start_id", ":end_id"),
    ("node1", "node2"), ("node_1", "node_2"), ("id1", "id2"), ("id_1", "id_2"), ("sender", "receiver"),
    ("citing", "cited"),
)  # fmt: skip
IDS = ("id", "node_id", "nodeid", "node", "node_name", "name", "vertex", "vertex_id", ":id")
LABELS = ("label", "class", "category", "target", "y")
SPLIT_COLUMNS = ("split", "subset", "partition")
MOST_PROBES = 20  # lines of a file by which its kind is told
DELIMITERS = ",\t;"  # else blanks


@dataclass(frozen=True)
class Table:
    """Rows of text cells with the number of each one's line, and names of their columns, none without a header."""

    path: Path
    rows: Sequence[tuple[int, Sequence[str]]]
    header: Sequence[str] = ()

    @property
    def columns(self) -> int:
        if not self.rows:
            return len(self.header)
        return len(self.header or self.rows[0][1])

    def position(self, names: Sequence[str]) -> int | None:
        """The column with the first of these names."""
        for name in names:
            if name in self.header:
                return self.header.index(name)
        return None

    def name(self, column: int) -> str:
        """A column's name, or its number."""
        if self.header:
            return self.header[column]
        return str(column)

    def cells(self, column: int) -> list[str]:
        return [cells[column] for _, cells in self.rows]


def read_table(path: Path, most: int | None = None, *, of_edges: bool = False) -> Table:
    """A table; lines that begin with `#` or `%` are remarks.

    `most`: lines that are read, None: all. `of_edges`: words in a first line may be ids, as in "label,y",
    unless they are names of both ends of an edge or stand over two columns of numbers.
    Raises: UserError where the file is no text.
    """
    rows, delimiter = [], None
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.lstrip().startswith(("#", "%")):
            continue
        if delimiter is None:
            delimiter = _delimiter(line)
        rows.append((number, _cells(line, delimiter)))
        if most is not None and len(rows) == most:
            break
    if not rows:
        return Table(path, [])

    header = list(map(str.lower, rows[0][1]))
    is_header = names_ends(header)
    if not is_header and not any(map(is_number, header)):
        numeric = _numeric_columns(len(header), rows[1 : MOST_PROBES + 1])
        if of_edges:
            is_header = {0, 1} <= numeric
        else:
            is_header = bool(numeric) or not {*IDS, *LABELS, *SPLIT_COLUMNS}.isdisjoint(header)
    if is_header:
        return Table(path, rows[1:], header)
    return Table(path, rows)


def names_ends(header: Sequence[str]) -> bool:
    """Whether the names of columns are those of the two ends of an edge."""
    return any(set(pair) <= set(header) for pair in ENDS)


def load_numbers(source: Path | TextIO, converters: Callable[[str], float] | None = None) -> np.ndarray:
    """A table (rows, columns) of numbers apart by commas, (0, 1) where it is empty. Raises: ValueError, OSError."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        return np.loadtxt(source, delimiter=",", ndmin=2, converters=converters)


def _numeric_columns(count: int, rows: Sequence[tuple[int, Sequence[str]]]) -> set[int]:
    """The columns that hold nothing but numbers."""
    columns = set()
    for column in range(count):
        values = [row[column] for _, row in rows if len(row) > column]
        if values and all(map(is_number, values)):
            columns.add(column)
    return columns


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds zero bytes")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"data.root: {path} cannot be read as UTF-8 text: {error}.") from None
    if text.lstrip().startswith("<"):
        raise UserError(f"data.root: {path} is a web page or XML, not a table: fetch the file itself.")
    return text.splitlines()


def _delimiter(line: str) -> str:
    """The mark between cells: the most frequent comma, tab or semicolon of the first line, else blanks."""
    mark = max(DELIMITERS, key=line.count)
    if mark in line:
        return mark
    return " "


def _cells(line: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        return line.split()
    row = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    return list(map(str.strip, row))
