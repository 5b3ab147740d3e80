"""Graphs as tables: edges by the ids of their nodes; features, labels and a split in further tables, joined by id."""

import csv
import gzip
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.account import PassedOver
from core.data.labels import numbers
from core.data.splits import parse as parse_split
from core.errors import UserError
from modalities.graph.formats.collection import (
    MOST_EXAMPLES,
    Collection,
    Provenance,
    Scaling,
    default_features,
    degree_note,
    edge_faults,
    make_graph,
    to_undirected,
)
from modalities.graph.formats.node_ids import NodeIds, is_number, number_nodes

SPLITS = ("train", "validation", "test")
SUFFIXES = (".csv", ".tsv", ".txt")
EDGE_SUFFIXES = (".edgelist", ".edges", ".el")
CITATIONS = (".cites", ".content")  # LINQS: edges; id, words, class
EDGE_STEMS = ("edges", "edge", "edge_list", "edgelist", "links", "relationships")
NODE_STEMS = ("nodes", "features", "node_features", "vertices")
LABEL_STEMS = ("labels", "node_labels", "classes", "target", "targets")
SPLIT_STEMS = ("split", "splits")

# Columns of edges, in pairs, and of nodes.
ENDS = (
    ("source", "target"), ("src", "dst"), ("from", "to"), ("source_id", "target_id"), ("src_id", "dst_id"),
    ("from_id", "to_id"), ("from_node", "to_node"), ("source_node", "target_node"), ("fromnodeid", "tonodeid"),
    ("u", "v"), ("head", "tail"), ("start", "end"), (":start_id", ":end_id"), ("node1", "node2"),
    ("node_1", "node_2"), ("id1", "id2"), ("id_1", "id_2"), ("sender", "receiver"), ("citing", "cited"),
)  # fmt: skip
IDS = ("id", "node_id", "nodeid", "node", "node_name", "name", "vertex", "vertex_id", ":id")
LABELS = ("label", "class", "category", "target", "y")
SPLIT_COLUMNS = ("split", "subset", "partition")
EDGE_ROW = ("", "id", "edge_id", "index")  # a table's own number of a row
MOST_PROBES = 20  # lines of a file by which its kind is told


@dataclass(frozen=True)
class Table:
    """Rows of text cells with the number of each one's line, and names of their columns, "" without a header."""

    path: Path
    rows: Sequence[tuple[int, Sequence[Any]]]
    header: Sequence[str] = ()

    @property
    def columns(self) -> int:
        return len(self.header) or max((len(cells) for _, cells in self.rows), default=0)

    def position(self, names: Sequence[str]) -> int | None:
        """The column with the first of these names."""
        for name in names:
            if name in self.header:
                return self.header.index(name)
        return None

    def cells(self, column: int) -> list[Any]:
        return [cells[column] for _, cells in self.rows]


@dataclass(frozen=True, kw_only=True)
class NodeTable:
    """Features (N, C) of nodes, and of each node its id, label and split, where the table has them."""

    x: Tensor | None = None
    ids: Sequence[str] = ()
    labels: Sequence[str] = ()
    splits: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class EdgeTable:
    """Ids of the two ends of every edge."""

    sources: Sequence[str]
    targets: Sequence[str]
    notes: Sequence[str] = field(kw_only=True, default=())


@dataclass(frozen=True)
class NodeValues:
    """Labels or splits of nodes by their ids. `source`: the file that they are from, "" where there are none."""

    by_id: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    def or_column(self, ids: Sequence[str], column: Sequence[str]) -> "NodeValues":
        """These, or where there are none the values of a column of the table of nodes."""
        if self.source or not column:
            return self
        return NodeValues(dict(zip(ids, column, strict=True)), "the table of nodes")


NO_VALUES = NodeValues()


def edge_file(place: Path) -> Path | None:
    """The table of edges: `place` itself, or a file in this folder; None where there is none.

    Raises: UserError where a folder holds several.
    """
    if place.is_file():
        return place if is_edge_list(place) else None
    if not place.is_dir():
        return None

    paths = [path for path in sorted(place.iterdir()) if path.is_file()]
    by_name = _named(paths, EDGE_STEMS)
    if not by_name:
        suffixes = (*EDGE_SUFFIXES, CITATIONS[0])
        by_name = [path for path in paths if path.suffix in suffixes]
    if not by_name:
        by_name = [path for path in paths if path.suffix in SUFFIXES and _names_ends(path)]
    exact = [path for path in by_name if _stem(path) in EDGE_STEMS]
    if len(exact or by_name) > 1:
        names = ", ".join(path.name for path in exact or by_name)
        raise UserError(f"data.root: {place} holds several tables of edges ({names}); give each graph a folder.")
    return (exact or by_name or [None])[0]


def is_edge_list(path: Path) -> bool:
    """Whether a file is a table of edges: by its ending, the names of its columns, or two ids in every line."""
    if path.suffix in (*EDGE_SUFFIXES, CITATIONS[0]) or _stem(path) in EDGE_STEMS:
        return True
    if path.suffix not in SUFFIXES:
        return False
    if _names_ends(path):
        return True

    # A list of files has paths in its first column.
    lines = list(islice(_lines(path), MOST_PROBES))
    rows = [_split_line(line, _delimiter(lines)) for line in lines]
    if not rows or any(len(cells) < 2 for cells in rows):
        return False
    return not any(re.search(r"\.\w+$|/", cells[0]) or (path.parent / cells[0]).exists() for cells in rows)


def read(place: Path, directed: bool, scaling: Scaling) -> Collection:
    """The graph of a table of edges, in a file or in a folder with other tables, all but edges optional.

    Edges: the columns source and target (src, dst; from, to; …), else the first two. Nodes: nodes.csv or features.csv
    (features, and columns id, label, split), features.npy; labels.csv (id, class or number), split.csv (id, split).
    Tables without a column of ids list nodes in the order of their numbers. Ids are words or whole numbers, of any
    size. Classes are numbers, -1 unknown, or names. `directed`: False adds the reverse of every edge.
    Raises: UserError naming the file and its fault.
    """
    path = edge_file(place)
    assert path is not None, "find_form saw a table of edges here"
    folder = path.parent if place.is_dir() else None
    edges = _edges(path)

    nodes = NodeTable()
    labels = splits = NO_VALUES
    if folder is not None:
        nodes = _nodes(folder, {*edges.sources, *edges.targets})
        labels = values_by_node(table_named(folder, LABEL_STEMS), LABELS, "node and class")
        splits = values_by_node(table_named(folder, SPLIT_STEMS), SPLIT_COLUMNS, "node and split")

    return assemble(
        edges,
        nodes,
        where=str(place),
        labels=labels,
        splits=splits,
        directed=directed,
        scaling=scaling,
    )


def assemble(
    edges: EdgeTable,
    nodes: NodeTable,
    *,
    where: str,
    labels: NodeValues = NO_VALUES,
    splits: NodeValues = NO_VALUES,
    directed: bool = False,
    scaling: Scaling = "none",
    degrees: int | None = None,
) -> Collection:
    """One graph from the ids of its edges' ends and of its nodes; labels and splits by id.

    Those of a table of their own go before those in a column of the table of nodes.
    Raises: UserError for ids that no node has.
    """
    count = None if nodes.x is None else len(nodes.x)
    others = [*labels.by_id, *splits.by_id]
    ids = number_nodes([*edges.sources, *edges.targets], nodes.ids, count=count, others=others, where=where)
    links = torch.tensor([ids.numbers_of(edges.sources), ids.numbers_of(edges.targets)], dtype=torch.long)
    links, faults = _without_missing(links.reshape(2, -1), edges, bool(nodes.ids), where)

    x, notes = nodes.x, [*edges.notes, *nodes.notes, *ids.notes]
    if x is None:
        x = default_features(links, ids.count, where, degrees)
        notes.append(degree_note(where, x.shape[1]))
    both_ways = links if directed else to_undirected(links)
    graph = make_graph(x, both_ways, where, scaling)

    row_ids = nodes.ids or list(map(str, range(ids.count)))
    labels = labels.or_column(row_ids, nodes.labels)
    splits = splits.or_column(row_ids, nodes.splits)
    node_labels, classes = _labels(labels, ids, where)
    provenance = Provenance(
        split=splits.source,
        labels=labels.source,
        notes=notes,
        passed_over=[*faults, *edge_faults(links)],
        node_ids=ids.names,
        degrees=x.shape[1] if nodes.x is None else 0,
    )
    return Collection(
        [graph], nodes=node_labels, splits=_splits(splits, ids, where), classes=classes, provenance=provenance
    )


def node_table(columns: Mapping[str, Sequence[Any]], ids: Sequence[str], where: str) -> NodeTable:
    """Columns of nodes as features, labels and splits: numbers and lists of numbers are features.

    Other columns are left out, with a note.
    """
    names = {name.lower(): name for name in columns}
    label = next((names[name] for name in LABELS if name in names), None)
    split = next((names[name] for name in SPLIT_COLUMNS if name in names), None)

    parts, text = [], []
    for name, values in columns.items():
        if name in (label, split):
            continue
        part = _numbers(values)
        if part is None:
            text.append(name)
        else:
            parts.append(part)

    notes = []
    if text:
        notes.append(f"Columns of {where} that are no numbers are not read: {', '.join(text)}.")
    if label is not None:
        notes.append(f"The column {label} of {where} is the label, and no feature.")
    return NodeTable(
        x=torch.cat(parts, 1) if parts else None,
        ids=ids,
        labels=[str(value) for value in columns.get(label, ())],
        splits=[str(value) for value in columns.get(split, ())],
        notes=notes,
    )


def _edges(path: Path) -> EdgeTable:
    """Ids of the ends of all edges. Raises UserError naming the line."""
    table = _table(path)
    columns, notes = _end_columns(table)
    sources, targets = [], []
    for number, cells in table.rows:
        if len(cells) <= max(columns):
            raise UserError(f"data.root: {path}, line {number}: there must be two columns: from and to.")
        ends = [cells[column] for column in columns]
        for end in ends:
            if not end:
                raise UserError(f"data.root: {path}, line {number}: an edge needs the ids of two nodes.")
            if is_number(end) and not float(end).is_integer():
                raise UserError(
                    f"data.root: {path}, line {number}: node ids must be whole numbers or words, not {end}."
                )
        sources.append(ends[0])
        targets.append(ends[1])
    return EdgeTable(sources, targets, notes=notes)


def _end_columns(table: Table) -> tuple[tuple[int, int], list[str]]:
    """Columns of the two ends of an edge, and notes of the choice."""
    for source, target in ENDS:
        if source in table.header and target in table.header:
            pair = table.header.index(source), table.header.index(target)
            rest = [name for number, name in enumerate(table.header) if number not in pair and name not in EDGE_ROW]
            notes = [f"Columns of {table.path.name} that are not read: {', '.join(rest)}."] if rest else []
            return pair, notes

    first = 0
    if table.header and table.columns > 2 and table.header[0] in EDGE_ROW:
        first = 1
    notes = []
    if table.header:
        names = " and ".join(table.header[first : first + 2])
        notes.append(f"The ends of an edge are the columns {names} of {table.path.name}.")
    elif table.columns > 2:
        notes.append(f"Of {table.path.name} the first two columns are read, the ends of each edge.")
    return (first, first + 1), notes


def _nodes(folder: Path, edge_ids: set[str]) -> NodeTable:
    """The table of nodes in a folder, if any."""
    array = table_named(folder, NODE_STEMS, (".npy",))
    if array is not None:
        try:
            x = torch.from_numpy(np.load(array, allow_pickle=False)).float()
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"data.root: {array} is no array of numbers: {error}") from None
        return NodeTable(x=x)

    contents = sorted(folder.glob(f"*{CITATIONS[1]}"))
    path = table_named(folder, NODE_STEMS) or (contents[0] if contents else None)
    if path is None:
        return NodeTable()
    table = _table(path)
    if not table.rows:
        return NodeTable()
    if path.suffix == CITATIONS[1]:
        header = ["id", *map(str, range(table.columns - 2)), "label"]
        table = Table(path, table.rows, header)
    for number, cells in table.rows:
        if len(cells) != table.columns:
            raise UserError(
                f"data.root: {path} is not a table of numbers: line {number} has {len(cells)} cells of {table.columns}."
            )

    id_column = table.position(IDS)
    if id_column is None and not table.header:
        id_column = _ids_by_content(table, edge_ids)
    ids = [] if id_column is None else table.cells(id_column)
    if len(set(ids)) < len(ids):
        raise UserError(f"data.root: {path} lists an id twice: {_repeated(ids)}. Each node has one row.")

    columns = {}
    for number in range(table.columns):
        if number != id_column:
            columns[table.header[number] if table.header else str(number)] = table.cells(number)
    nodes = node_table(columns, ids, path.name)
    if not table.header and any("no numbers" in note for note in nodes.notes):
        raise UserError(f"data.root: {path} is not a table of numbers: name its columns in the first line.")
    return nodes


def _ids_by_content(table: Table, edge_ids: set[str]) -> int | None:
    """The first column where it holds the ids of all edges, each once, and these are no numbers of rows."""
    cells = table.cells(0)
    is_row_number = all(end.isdecimal() and int(end) < len(cells) for end in edge_ids)
    if table.columns > 1 and not is_row_number and edge_ids <= set(cells) and len(set(cells)) == len(cells):
        return 0
    return None


def _without_missing(links: Tensor, edges: EdgeTable, has_table: bool, where: str) -> tuple[Tensor, list[PassedOver]]:
    """Edges (2, E) without those that name a node that the table of nodes does not have, and an entry for these.

    Raises: UserError where most are such edges: the ids of the two tables are not the same.
    """
    is_missing = (links < 0).any(0)
    if not has_table or not bool(is_missing.any()):
        return links, []

    rows = is_missing.nonzero()[:, 0].tolist()
    examples = [f"{edges.sources[row]}-{edges.targets[row]}" for row in rows[:MOST_EXAMPLES]]
    if len(rows) > links.shape[1] / 2:
        raise UserError(
            f"data.root: {where}: {len(rows)} of {links.shape[1]} edges name a node that the table of nodes does not "
            f"have ({', '.join(examples)}): its ids and those of the edges must be the same."
        )
    reason = "an edge to a node that the table of nodes does not have"
    return links[:, ~is_missing], [PassedOver(reason=reason, kind="edge", count=len(rows), examples=examples)]


def _labels(values: NodeValues, ids: NodeIds, where: str) -> tuple[Tensor | None, Sequence[str]]:
    """Labels (N,) of nodes: classes, -1 unknown, and their names; or real numbers, NaN unknown. None: no labels."""
    if not values.source:
        return None, ()
    place = str(Path(where) / values.source)
    numbers_of_rows = [ids.number_of(node, place) for node in values.by_id]

    rows, classes = label_values(list(values.by_id.values()))
    labels = torch.full((ids.count,), torch.nan if rows.is_floating_point() else -1, dtype=rows.dtype)
    labels[numbers_of_rows] = rows
    return labels, classes


def label_values(texts: Sequence[str]) -> tuple[Tensor, Sequence[str]]:
    """Labels as classes (n,), -1 unknown, and their names; or as real numbers, NaN unknown. "" is unknown.

    Whole numbers are classes that keep their values, however they are written.
    """
    present = [text for text in texts if text]
    numeric = list(map(float, present)) if all(map(is_number, present)) else []
    if any(number == number and not number.is_integer() for number in numeric):
        return torch.tensor([float(text or "nan") for text in texts], dtype=torch.float64), ()

    names = []
    for text in texts:
        if numeric and text and float(text).is_integer():
            text = str(int(float(text)))
        names.append({"class": text} if text else {})
    classes, class_names = numbers(names)
    return torch.tensor([row.get("class", -1) for row in classes]), class_names.get("class", [])


def _splits(values: NodeValues, ids: NodeIds, where: str) -> dict[str, Tensor]:
    """(N,) bool by the split's name; empty where no node has one."""
    if not values.source:
        return {}
    place = str(Path(where) / values.source)
    masks = {name: torch.zeros(ids.count, dtype=torch.bool) for name in SPLITS}
    for node, name in values.by_id.items():
        masks[parse_split(name, place)][ids.number_of(node, place)] = True
    return masks


def values_by_node(path: Path | None, names: Sequence[str], text: str) -> NodeValues:
    """The labels or splits in a table. Raises UserError naming the line."""
    if path is None:
        return NO_VALUES
    table = _table(path)
    id_column, column = table.position(IDS), table.position(names)
    if id_column is None or column is None or id_column == column:
        id_column, column = 0, 1

    by_id = {}
    for number, cells in table.rows:
        if len(cells) <= max(id_column, column):
            raise UserError(f"data.root: {path}, line {number}: there must be two columns, {text}.")
        by_id[cells[id_column]] = cells[column]
    return NodeValues(by_id, path.name)


def _table(path: Path) -> Table:
    """A table of any delimiter, `#` and `%` before remarks; with a header where its first line names columns."""
    lines = [(number, line) for number, line in enumerate(_all_lines(path), 1) if _has_cells(line)]
    if not lines:
        return Table(path, [])
    delimiter = _delimiter([line for _, line in lines[:MOST_PROBES]])
    rows = [(number, _split_line(line, delimiter)) for number, line in lines]

    header = [cell.lower() for cell in rows[0][1]]
    if _is_header(header, [cells for _, cells in rows[1 : MOST_PROBES + 1]]):
        return Table(path, rows[1:], header)
    return Table(path, rows)


def _is_header(cells: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a line names columns: usual names, or words over numbers."""
    if any(source in cells and target in cells for source, target in ENDS):
        return True
    if any(map(is_number, cells)):
        return False
    usual = {*IDS, *LABELS, *SPLIT_COLUMNS}
    if usual & set(cells):
        return True

    # Words over a column that holds nothing but numbers name it.
    for column in range(len(cells)):
        values = [row[column] for row in rows if len(row) > column]
        if values and all(map(is_number, values)):
            return True
    return False


def _names_ends(path: Path) -> bool:
    lines = list(islice(_lines(path), 1))
    if not lines:
        return False
    header = [cell.lower() for cell in _split_line(lines[0], _delimiter(lines))]
    return any(source in header and target in header for source, target in ENDS)


def _lines(path: Path) -> list[str]:
    return [line for line in _all_lines(path) if _has_cells(line)]


def _all_lines(path: Path) -> list[str]:
    """Lines of a text file, plain or by gzip. Raises UserError where it is no text."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"data.root: {path} cannot be read as UTF-8 text: {error}.") from None


def _has_cells(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith(("#", "%"))


def _delimiter(lines: Sequence[str]) -> str:
    """The mark between cells: a comma, tab or semicolon where the lines have one, else blanks."""
    text = "\n".join(lines)
    mark = max(",\t;", key=text.count)
    return mark if mark in text else " "


def _split_line(line: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]


def _numbers(values: Sequence[Any]) -> Tensor | None:
    """Values (N, C) of a column of numbers or of equally long lists of them; None for other columns."""
    try:
        array = np.array([value if isinstance(value, list) else float(value) for value in values], dtype=np.float32)
    except (TypeError, ValueError):
        return None
    return torch.from_numpy(array.reshape(len(values), -1))


def table_named(folder: Path, stems: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> Path | None:
    """The table in a folder with one of these names. Raises UserError where there are several."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and _suffix(path) in suffixes]
    matches = _named(paths, stems)
    exact = [path for path in matches if _stem(path) in stems]
    matches = exact or matches
    if len(matches) > 1:
        names = ", ".join(path.name for path in matches)
        raise UserError(f"data.root: {folder} holds several tables of one kind ({names}); keep one.")
    return matches[0] if matches else None


def _named(paths: Sequence[Path], stems: Sequence[str]) -> list[Path]:
    """Tables whose name is one of the stems, or ends in one behind an underscore or hyphen."""
    pattern = re.compile(rf"(.*[_-])?({'|'.join(stems)})")
    return [path for path in paths if _suffix(path) in (*SUFFIXES, ".npy") and pattern.fullmatch(_stem(path))]


def _stem(path: Path) -> str:
    return path.name.split(".")[0].lower()


def _suffix(path: Path) -> str:
    """The ending without that of gzip."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _repeated(ids: Sequence[str]) -> str:
    return next((name for name, count in Counter(ids).items() if count > 1), "")
