"""`Collection`: the graphs of one place with labels and splits. Steps that every file form shares."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.account import PassedOver
from core.errors import UserError
from modalities.graph.graphs import Graphs, induced_subgraph

LARGEST_DEGREE = 400  # higher degrees share a column of one-hot codes (GraphMAE)
MOST_EXAMPLES = 5  # of what is left out
EMPTY = "holds no node"
Scaling = Literal["none", "sum", "standard"]  # of features; see `scale_features`


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the parts of a collection come from, and which are left out; for the account of its source.

    `split`, `labels`: where the split and the labels come from; "" where there are none.
    `notes`: choices that were made for the user, a sentence each.
    `node_ids`: the ids of the file's nodes in the order of their numbers; empty where these are the ids.
    `degrees`: columns of one-hot degrees, where nodes have no features of their own; else 0.
    `files`: names of the files that were read, with as many of their folders as tell them apart.
    """

    split: str = ""
    labels: str = ""
    notes: Sequence[str] = ()
    passed_over: Sequence[PassedOver] = ()
    node_ids: Sequence[str] = ()
    degrees: int = 0
    files: Sequence[str] = ()


@dataclass(frozen=True)
class Collection:
    """The S graphs of one place, with labels of graphs or of their N nodes, which are concatenated in order.

    `labels` (S,) classes of graphs, -1 unknown; or (S, T) answers to T questions: 1 yes, -1 no, 0 unknown.
    `targets`: real numbers of graphs (S,) by name, NaN unknown.
    `nodes` (N,) whole numbers: classes of nodes, -1 unknown; (N,) real numbers, NaN unknown; or (N, T)
    classes of which several may hold, 0 or 1.
    `splits`: (N,) bool by "train", "validation", "test".
    `folds`: (train, test) graph numbers that came with the data.
    `scaffolds`: one name a graph; molecules with the same name share a frame.
    `classes`: names of the classes of nodes or graphs, where they have any.
    `raw_labels` (S, T): labels of graphs as the file has them, NaN unknown; for sources of many files.
    `names`: of the graphs; empty: their numbers.
    """

    graphs: Sequence[Graphs]
    labels: Tensor | None = None
    _: KW_ONLY
    nodes: Tensor | None = None
    splits: Mapping[str, Tensor] = field(default_factory=dict)
    folds: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    scaffolds: Sequence[str] = ()
    classes: Sequence[str] = ()
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    raw_labels: Tensor | None = None
    names: Sequence[str] = ()
    provenance: Provenance = Provenance()

    @cached_property
    def ends(self) -> list[int]:
        """The row behind each graph's last node, (S,)."""
        return list(accumulate(len(graph.x) for graph in self.graphs))

    @cached_property
    def training(self) -> Graphs:
        """The part of a single graph between its training nodes, for inductive training."""
        return induced_subgraph(self.graphs[0], self.splits["train"])

    def name_of(self, number: int) -> str:
        """The name of a graph, else its number in six digits."""
        if self.names:
            return self.names[number]
        return f"{number:06d}"

    def of_graph(self, number: int, values: Tensor) -> Tensor:
        """The rows of `values` (N, …) that are of one graph's nodes."""
        end = self.ends[number]
        return values[end - len(self.graphs[number].x) : end]

    def by_graph(self, values: Tensor) -> tuple[Tensor, ...]:
        """`values` (N, …), cut graph by graph."""
        return values.split([len(graph.x) for graph in self.graphs])

    def within(self, name: str) -> list[int]:
        """Numbers of the graphs whose nodes are all of this split."""
        flags = self.by_graph(self.splits[name])
        return [number for number, flag in enumerate(flags) if bool(flag.all())]


def make_graph(
    x: Tensor,
    edges: Tensor,
    where: Any,
    scaling: Scaling = "none",
    *,
    edge_attr: Tensor | None = None,
    loop: Sequence[int] | None = None,
) -> Graphs:
    """One graph of features (N, C) and edges (2, E). Raises UserError naming `where`, the file."""
    try:
        return Graphs.of(scale_features(x, scaling), edges, edge_attr=edge_attr, loop=loop).compact()
    except UserError as error:
        raise UserError(f"data.root: {where}: {error}") from None


def edge_faults(edges: Tensor) -> list[PassedOver]:
    """Edges (2, E) that are listed again, and edges from a node to itself.

    A graph has every edge once, and a loop at every node.
    """
    is_loop = edges[0] == edges[1]
    loops, (source, target) = edges[:, is_loop], edges[:, ~is_loop]

    size = 1
    if edges.numel():
        size = int(edges.max()) + 1
    keys, counts = (source * size + target).unique(return_counts=True)
    repeated = keys[counts > 1]

    faults = []
    if len(repeated):
        pairs = torch.stack([repeated // size, repeated % size])
        count = len(source) - len(keys)
        reason = "an edge that is listed again"
        faults.append(PassedOver(reason=reason, kind="edge", count=count, examples=_pairs(pairs)))
    if loops.shape[1]:
        reason = "an edge from a node to itself, which every node has"
        faults.append(PassedOver(reason=reason, kind="edge", count=loops.shape[1], examples=_pairs(loops)))
    return faults


def join_faults(parts: Sequence[PassedOver]) -> list[PassedOver]:
    """One entry for each reason, with the sum of the counts."""
    joined: dict[tuple[str, str], PassedOver] = {}
    for part in parts:
        key = part.reason, part.kind
        if key in joined:
            examples = [*joined[key].examples, *part.examples][:MOST_EXAMPLES]
            part = replace(part, count=joined[key].count + part.count, examples=examples)
        joined[key] = part
    return list(joined.values())


def drop_empty(data: Collection) -> Collection:
    """The same without graphs that have no node; they are named. Raises UserError where no graph is left."""
    numbers = [number for number, graph in enumerate(data.graphs) if len(graph.x)]
    if len(numbers) == len(data.graphs):
        return data
    if not numbers:
        raise UserError("none of the graphs has a node.")

    empty = sorted(set(range(len(data.graphs))) - set(numbers))
    examples = list(map(data.name_of, empty[:MOST_EXAMPLES]))
    fault = PassedOver(reason=EMPTY, kind="graph", count=len(empty), examples=examples)

    # Published folds list graphs by number.
    position = {number: place for place, number in enumerate(numbers)}
    folds = []
    for train, test in data.folds:
        folds.append((_renumber(train, position), _renumber(test, position)))
    scaffolds: Sequence[str] = ()
    if data.scaffolds:
        scaffolds = [data.scaffolds[number] for number in numbers]

    return replace(
        data,
        graphs=[data.graphs[number] for number in numbers],
        labels=_rows(data.labels, numbers),
        raw_labels=_rows(data.raw_labels, numbers),
        targets={name: values[numbers] for name, values in data.targets.items()},
        folds=folds,
        scaffolds=scaffolds,
        names=list(map(data.name_of, numbers)),
        provenance=replace(data.provenance, passed_over=[*data.provenance.passed_over, fault]),
    )


def _rows(values: Tensor | None, numbers: list[int]) -> Tensor | None:
    if values is None:
        return None
    return values[numbers]


def scale_features(x: Tensor, scaling: Scaling) -> Tensor:
    """Features (N, C) as published. "sum": x_i / Σ_c x_ic, rows of zeros stay zero (citation graphs, by DGL).

    "standard": columns with mean 0 and deviation 1 over all nodes, constant ones 0 (ogbn-arxiv, Reddit).
    """
    if scaling == "sum":
        total = x.sum(1, keepdim=True)
        return x / torch.where(total == 0, 1, total)
    if scaling == "standard":
        deviation = x.std(0, correction=0)
        return (x - x.mean(0)) / torch.where(deviation == 0, 1, deviation)
    return x


def to_undirected(edges: Tensor) -> Tensor:
    """Edges (2, E) with the reverse of every one behind them, (2, 2E)."""
    return torch.cat([edges, edges.flip(0)], 1)


def degree_columns(edges: Tensor) -> int:
    """Columns of one-hot in-degrees: min(largest, 400) + 1."""
    if not edges.numel():
        return 1
    return min(int(torch.bincount(edges[1]).max()), LARGEST_DEGREE) + 1


def degree_features(edges: Tensor, count: int, columns: int | None = None) -> Tensor:
    """One-hot in-degree (N, `columns`), by default min(largest, 400) + 1; counted
    before self-loops are added.

    Source: THUDM/GraphMAE.
    """
    columns = columns or degree_columns(edges)
    degree = torch.bincount(edges[1], minlength=count)[:count].clamp(max=columns - 1)
    return F.one_hot(degree, columns).float()


def default_features(edges: Tensor, count: int, where: str, columns: int | None = None) -> Tensor:
    """`degree_features` of the `count` nodes of a file without features; `degree_note` says so."""
    if edges.numel() and int(edges.min()) < 0:
        node = int(edges.min())
        raise UserError(f"data.root: {where}: An edge names node {node}; edges count nodes from 0.")
    return degree_features(edges, count, columns)


def degree_note(where: str, columns: int) -> str:
    return f"{where} has no node features: one-hot degrees are used ({columns} of them), as published."


def unbatch(batch: Graphs) -> list[Graphs]:
    """The single graphs of a batch."""
    graph_of_edge = batch.sample[batch.edge_index[1]]
    edge_counts = graph_of_edge.bincount(minlength=len(batch.counts)).tolist()

    graphs, node, edge = [], 0, 0
    for nodes, edges in zip(batch.counts, edge_counts, strict=True):
        x = batch.x[node : node + nodes]
        edge_index = batch.edge_index[:, edge : edge + edges] - node
        graphs.append(Graphs(x, edge_index, counts=(nodes,), features=batch.features).compact())
        node, edge = node + nodes, edge + edges
    return graphs


def _pairs(edges: Tensor) -> list[str]:
    """The first edges (2, E) as text."""
    return [f"{source}-{target}" for source, target in edges[:, :MOST_EXAMPLES].T.tolist()]


def _renumber(numbers: np.ndarray, position: Mapping[int, int]) -> np.ndarray:
    """Numbers of graphs by their new position; those that are gone are left out."""
    return np.array([position[number] for number in numbers.tolist() if number in position], dtype=np.int64)
