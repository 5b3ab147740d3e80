"""Graphs as tables: edges by the ids of their nodes; features, labels and a split in further tables, joined by id."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from modalities.graph.formats.text_tables import (
    ENDS,
    IDS,
    LABELS,
    MOST_PROBES,
    SPLIT_COLUMNS,
    Table,
    names_ends,
    read_table,
)

SPLITS = ("train", "validation", "test")
SUFFIXES = (".csv", ".tsv", ".txt")
EDGE_SUFFIXES = (".edgelist", ".edges", ".el")
CITATIONS = (".cites", ".content")  # LINQS: edges; id, words, class
EDGE_STEMS = ("edges", "edge", "edge_list", "edgelist", "links", "relationships")
NODE_STEMS = ("nodes", "features", "node_features", "vertices")
LABEL_STEMS = ("labels", "node_labels", "classes", "target", "targets")
SPLIT_STEMS = ("split", "splits")

EDGE_ROW = ("", "id", "edge_id", "index")  # a table's own number of a row


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
    """Labels or splits of nodes by their ids.

    `source`: the file that they are from, "" where there are none.
    """

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
    if place.is_file() and is_edge_list(place):
        return place
    if not place.is_dir():
        return None

    by_stem = table_named(place, EDGE_STEMS)
    if by_stem is not None:
        return by_stem
    by_content = list(filter(_holds_edges, sorted(place.iterdir())))
    if len(by_content) > 1:
        raise UserError(
            f"data.root: {place} holds several tables of edges ({_names(by_content)}); give each graph a folder."
        )
    return next(iter(by_content), None)


def is_edge_list(path: Path) -> bool:
    """Whether a file is a table of edges.

    Its ending tells it, the names of its columns, or two ids in every line.
    """
    if _holds_edges(path) or _stem(path) in EDGE_STEMS:
        return True
    if _suffix(path) not in SUFFIXES:
        return False

    # A list of files has paths in its first column.
    rows = read_table(path, MOST_PROBES, of_edges=True).rows
    for _, cells in rows:
        if len(cells) < 2 or re.search(r"\.\w+$|/", cells[0]) or (path.parent / cells[0]).exists():
            return False
    return bool(rows)


def read(place: Path, directed: bool, scaling: Scaling) -> Collection:
    """The graph of a table of edges, in a file or in a folder with other tables, all but edges optional.

    Edges: the columns source and target (src, dst; from, to; …), else the first two. Nodes: nodes.csv or
    features.csv (features, and columns id, label, split), features.npy; labels.csv (id, class or number),
    split.csv (id, split). Tables without a column of ids list nodes in the order of their numbers. Ids are
    words or whole numbers, of any size. Classes are numbers, -1 unknown, or names. `directed`: False adds the
    reverse of every edge.
    Raises: UserError naming the file and its fault.
    """
    path = edge_file(place)
    assert path is not None, "find_form saw a table of edges here"
    folder = path.parent if place.is_dir() else None
    edges = _edges(path)

    nodes = NodeTable()
    labels = splits = NO_VALUES
    paths: list[Path | None] = [path]
    if folder is not None:
        paths += [_node_file(folder), table_named(folder, LABEL_STEMS), table_named(folder, SPLIT_STEMS)]
        nodes = _nodes(paths[1], {*edges.sources, *edges.targets})
        labels = values_by_node(paths[2], LABELS, "node and class")
        splits = values_by_node(paths[3], SPLIT_COLUMNS, "node and split")

    data = assemble(
        edges,
        nodes,
        where=str(place),
        labels=labels,
        splits=splits,
        directed=directed,
        scaling=scaling,
    )
    names = [table.name for table in paths if table is not None]
    return replace(data, provenance=replace(data.provenance, files=names))


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
    count = None
    if nodes.x is not None:
        count = len(nodes.x)
    others = [*labels.by_id, *splits.by_id]
    ids = number_nodes([*edges.sources, *edges.targets], nodes.ids, count=count, others=others, where=where)
    links = torch.tensor([ids.numbers_of(edges.sources), ids.numbers_of(edges.targets)], dtype=torch.long)
    links, faults = _without_missing(links.reshape(2, -1), edges, bool(nodes.ids), where)

    x, notes = nodes.x, [*edges.notes, *nodes.notes, *ids.notes]
    degree_columns = 0
    if x is None:
        x = default_features(links, ids.count, where, degrees)
        degree_columns = x.shape[1]
        notes.append(degree_note(where, degree_columns))
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
        degrees=degree_columns,
    )
    return Collection(
        [graph], nodes=node_labels, splits=_splits(splits, ids, where), classes=classes, provenance=provenance
    )


def node_table(columns: Mapping[str, Sequence[Any]], ids: Sequence[str], where: str) -> NodeTable:
    """Columns of nodes as features, labels and splits: numbers and lists of numbers are features.

    Other columns are left out, with a note.
    """
    label, split = _column_named(columns, LABELS), _column_named(columns, SPLIT_COLUMNS)

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

    x = None
    if parts:
        x = torch.cat(parts, 1)
    return NodeTable(
        x=x,
        ids=ids,
        labels=list(map(_text, columns.get(label, ()))),
        splits=list(map(_text, columns.get(split, ()))),
        notes=notes,
    )


def _column_named(columns: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The column with the first of these names, in letters of any case."""
    by_name = dict(zip(map(str.lower, columns), columns, strict=True))
    for name in names:
        if name in by_name:
            return by_name[name]
    return None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value)


def _edges(path: Path) -> EdgeTable:
    """Ids of the ends of all edges. Raises UserError naming the line."""
    table = read_table(path, of_edges=True)
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
    if not sources:
        notes.append(f"{path.name} lists no edge.")
    return EdgeTable(sources, targets, notes=notes)


def _end_columns(table: Table) -> tuple[tuple[int, int], list[str]]:
    """Columns of the two ends of an edge, and notes of the choice."""
    for source, target in ENDS:
        if source in table.header and target in table.header:
            pair = table.header.index(source), table.header.index(target)
            rest = sorted(set(table.header) - {source, target, *EDGE_ROW})
            if not rest:
                return pair, []
            return pair, [f"Columns of {table.path.name} that are not read: {', '.join(rest)}."]

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


def _node_file(folder: Path) -> Path | None:
    """The table or array of nodes in a folder, if any."""
    contents = sorted(folder.glob(f"*{CITATIONS[1]}"))
    array = table_named(folder, NODE_STEMS, (".npy",))
    return array or table_named(folder, NODE_STEMS) or next(iter(contents), None)


def _nodes(path: Path | None, edge_ids: set[str]) -> NodeTable:
    """The nodes in a table, or the features in an array."""
    if path is None:
        return NodeTable()
    if path.suffix == ".npy":
        try:
            x = torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise UserError(f"data.root: {path} is no array of numbers: {error}") from None
        return NodeTable(x=x)

    table = read_table(path)
    if not table.rows:
        raise UserError(f"data.root: {path} lists no node: fetch it again, or take it away.")
    if path.suffix == CITATIONS[1]:
        header = ["id", *map(str, range(table.columns - 2)), "label"]
        table = Table(path, table.rows, header)
    for number, cells in table.rows:
        if len(cells) != table.columns:
            fault = f"line {number} has {len(cells)} cells of {table.columns}"
            raise UserError(f"data.root: {path} is not a table of numbers: {fault}.")

    id_column = table.position(IDS)
    if id_column is None and not table.header:
        id_column = _ids_by_content(table, edge_ids)
    ids = []
    if id_column is not None:
        ids = table.cells(id_column)
    for name, count in Counter(ids).items():
        if count > 1:
            raise UserError(f"data.root: {path} lists the id {name} {count} times. Each node has one row.")

    columns = {}
    for number in range(table.columns):
        if number != id_column:
            columns[table.name(number)] = table.cells(number)
    nodes = node_table(columns, ids, path.name)
    if not table.header and nodes.notes:
        raise UserError(f"data.root: {path} is not a table of numbers: name its columns in the first line.")
    return nodes


def _ids_by_content(table: Table, edge_ids: set[str]) -> int | None:
    """The first column where it holds the ids of all edges, each once, and these are no numbers of rows."""
    cells = table.cells(0)
    distinct = set(cells)
    rows = set(map(str, range(len(cells))))
    if table.columns == 1 or edge_ids <= rows:
        return None
    if edge_ids <= distinct and len(distinct) == len(cells):
        return 0
    return None


def _without_missing(
    links: Tensor,
    edges: EdgeTable,
    has_table: bool,
    where: str,
) -> tuple[Tensor, list[PassedOver]]:
    """Edges (2, E) without those that name a node that the table of nodes does not have,
    and an entry for these.

    Raises: UserError where most are such edges: the ids of the two tables are not the same.
    """
    is_missing = (links < 0).any(0)
    if not has_table or not bool(is_missing.any()):
        return links, []

    rows = is_missing.nonzero()[:, 0].tolist()
    examples = [f"{edges.sources[row]}-{edges.targets[row]}" for row in rows[:MOST_EXAMPLES]]
    if len(rows) > links.shape[1] / 2:
        raise UserError(
            f"data.root: {where}: {len(rows)} of {links.shape[1]} edges name a node that the table of nodes "
            f"does not have ({', '.join(examples)}): its ids and those of the edges must be the same."
        )
    reason = "an edge to a node that the table of nodes does not have"
    return links[:, ~is_missing], [PassedOver(reason=reason, kind="edge", count=len(rows), examples=examples)]


def _labels(values: NodeValues, ids: NodeIds, where: str) -> tuple[Tensor | None, Sequence[str]]:
    """Labels (N,) of nodes: classes, -1 unknown, and their names; or real numbers, NaN unknown.

    None: no labels.
    """
    if not values.source:
        return None, ()
    place = str(Path(where) / values.source)
    rows, classes = label_values(list(values.by_id.values()))

    labels = torch.full((ids.count,), -1, dtype=rows.dtype)
    if rows.is_floating_point():
        labels.fill_(torch.nan)
    for node, label in zip(values.by_id, rows, strict=True):
        labels[ids.number_of(node, place)] = label
    return labels, classes


def label_values(texts: Sequence[str]) -> tuple[Tensor, Sequence[str]]:
    """Labels as classes (n,), -1 unknown, and their names; or as real numbers, NaN unknown. "" is unknown.

    Whole numbers are classes that keep their values, however they are written.
    """
    present = list(filter(None, texts))
    numeric = []
    if all(map(is_number, present)):
        numeric = list(map(float, present))
    if any(number == number and not number.is_integer() for number in numeric):
        return torch.tensor([float(text or "nan") for text in texts], dtype=torch.float64), ()

    names = []
    for text in texts:
        if numeric and text and float(text).is_integer():
            text = str(int(float(text)))
        name = {}
        if text:
            name = {"class": text}
        names.append(name)
    numbering = numbers(names)
    classes = [row.get("class", -1) for row in numbering.numbers]
    return torch.tensor(classes), numbering.classes.get("class", [])


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
    table = read_table(path)
    id_column, column = table.position(IDS), table.position(names)
    if id_column is None or column is None or id_column == column:
        id_column, column = 0, 1

    by_id = {}
    for number, cells in table.rows:
        if len(cells) <= max(id_column, column):
            raise UserError(f"data.root: {path}, line {number}: there must be two columns, {text}.")
        by_id[cells[id_column]] = cells[column]
    return NodeValues(by_id, path.name)


def _numbers(values: Sequence[Any]) -> Tensor | None:
    """Values (N, C) of a column of numbers or of equally long lists of them; None for other columns."""
    if None in values:
        return None
    try:
        array = np.array(values, dtype=np.float32)
    except (TypeError, ValueError):
        return None
    return torch.from_numpy(array.reshape(len(values), -1))


def table_named(folder: Path, stems: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> Path | None:
    """The table in a folder whose name is one of the stems, or ends in one behind an underscore or hyphen.

    Raises: UserError where there are several.
    """
    pattern = re.compile(rf"(.*[_-])?({'|'.join(stems)})")
    exact, similar = [], []
    for path in sorted(folder.iterdir()):
        if _suffix(path) not in suffixes or not path.is_file():
            continue
        if _stem(path) in stems:
            exact.append(path)
        elif pattern.fullmatch(_stem(path)):
            similar.append(path)

    paths = exact or similar
    if len(paths) > 1:
        raise UserError(f"data.root: {folder} holds several tables of one kind ({_names(paths)}); keep one.")
    return next(iter(paths), None)


def _holds_edges(path: Path) -> bool:
    """Whether a file is a table of edges by its ending or the names of its columns."""
    if not path.is_file():
        return False
    if _suffix(path) in (*EDGE_SUFFIXES, CITATIONS[0]):
        return True
    return _suffix(path) in SUFFIXES and names_ends(read_table(path, 2).header)


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _stem(path: Path) -> str:
    return path.name.split(".")[0].lower()


def _suffix(path: Path) -> str:
    """The ending without that of gzip."""
    return Path(path.name.lower().removesuffix(".gz")).suffix
