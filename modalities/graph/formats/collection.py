"""`Collection`: the graphs of one place with labels and splits. Steps that every file form shares."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from modalities.graph.graphs import Graphs, induced_subgraph

LARGEST_DEGREE = 400  # higher degrees share a column of one-hot codes (GraphMAE)
Scaling = Literal["none", "sum", "standard"]  # of features; see `scale_features`


@dataclass(frozen=True)
class Collection:
    """The S graphs of one place, with labels of graphs or of their N nodes, which are concatenated in order.

    `labels` (S,) classes of graphs, or (S, T) answers to T questions: 1 yes, -1 no, 0 unknown.
    `nodes` (N,) classes of nodes, -1 unknown; or (N, T) of which several may hold, 0 or 1.
    `splits`: (N,) bool by "train", "validation", "test".
    `folds`: (train, test) graph numbers that came with the data.
    `scaffolds`: one name a graph; molecules with the same name share a frame.
    `classes`: names of the nodes' classes, where they have any.
    """

    graphs: Sequence[Graphs]
    labels: Tensor | None = None
    _: KW_ONLY
    nodes: Tensor | None = None
    splits: Mapping[str, Tensor] = field(default_factory=dict)
    folds: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    scaffolds: Sequence[str] = ()
    classes: Sequence[str] = ()

    @cached_property
    def ends(self) -> list[int]:
        """The row behind each graph's last node, (S,)."""
        return list(accumulate(len(graph.x) for graph in self.graphs))

    @cached_property
    def training(self) -> Graphs:
        """The part of a single graph between its training nodes, for inductive training."""
        return induced_subgraph(self.graphs[0], self.splits["train"])

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


def degree_features(edges: Tensor, count: int) -> Tensor:
    """One-hot in-degree (N, min(largest, 400) + 1), counted before self-loops are added.

    Source: THUDM/GraphMAE.
    """
    degree = torch.bincount(edges[1], minlength=count).clamp(max=LARGEST_DEGREE)
    return F.one_hot(degree, int(degree.max()) + 1).float()


def default_features(edges: Tensor, count: int, where: str) -> Tensor:
    """One-hot degrees for the `count` nodes of a file without features, with a note to the user."""
    if edges.numel() and int(edges.min()) < 0:
        raise UserError(f"data.root: {where}: An edge names node {int(edges.min())}; edges count nodes from 0.")

    x = degree_features(edges, count)
    print_note(f"{where} has no node features: one-hot degrees are used ({x.shape[1]} of them), as published.")
    return x


def print_note(text: str) -> None:
    """Prints to stderr what was filled in, so that stdout stays for pipes."""
    print(f"note: {text}", file=sys.stderr, flush=True)


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
