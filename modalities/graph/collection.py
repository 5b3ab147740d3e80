"""What a place holds of graphs, and the steps that every file form shares."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from modalities.graph.graphs import Graphs, induced

MOST_DEGREES = 400  # longer one-hot codes are cut here (GraphMAE)
Scaling = Literal["none", "sum", "standard"]  # of features; see `scaled`


@dataclass(frozen=True)
class Collection:
    """Graphs, and what is known of them: of each as a whole, or of their nodes, side by side in the graphs' order.

    `labels` (S,) classes of graphs, or (S, T) answers to T questions: 1 yes, -1 no, 0 unknown.
    `nodes` (N,) classes of nodes, -1 unknown; or (N, T) of which several may hold, 0 or 1.
    `splits`: (N,) bool by "train", "validation", "test". `folds`: (train, test) graph numbers that came with the data.
    `scaffolds`: which molecules share a frame, one name a graph. `classes`: names of the nodes', where they have any.
    """

    graphs: Sequence[Graphs]
    labels: Tensor | None = None
    nodes: Tensor | None = None
    splits: Mapping[str, Tensor] = field(default_factory=dict)
    folds: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    scaffolds: Sequence[str] = ()
    classes: Sequence[str] = ()

    @cached_property
    def ends(self) -> list[int]:
        """Where each graph's nodes end."""
        return list(accumulate(len(graph.x) for graph in self.graphs))

    @cached_property
    def training(self) -> Graphs:
        """Of one graph the part that training sees where it is inductive."""
        return induced(self.graphs[0], self.splits["train"])

    def of_graph(self, number: int, values: Tensor) -> Tensor:
        """What is known of one graph's nodes."""
        return values[self.ends[number] - len(self.graphs[number].x) : self.ends[number]]

    def by_graph(self, values: Tensor) -> tuple[Tensor, ...]:
        """What is known of nodes, graph by graph."""
        return values.split([len(graph.x) for graph in self.graphs])

    def within(self, name: str) -> list[int]:
        """Numbers of the graphs whose nodes are all of this split."""
        return [i for i, flag in enumerate(self.by_graph(self.splits[name])) if bool(flag.all())]


def made(
    x: Tensor,
    edges: Tensor,
    where: Any,
    scaling: Scaling = "none",
    attr: Tensor | None = None,
    loop: Sequence[int] | None = None,
) -> Graphs:
    """One graph. Raises UserError naming `where`."""
    try:
        return Graphs.of(scaled(x, scaling), edges, edge_attr=attr, loop=loop).compact()
    except UserError as error:
        raise UserError(f"data.root: {where}: {error}") from None


def scaled(x: Tensor, scaling: Scaling) -> Tensor:
    """Features as published. "sum": rows divided by their sum, rows of zeros stay zero (citation graphs, by DGL).

    "standard": columns with mean 0 and deviation 1 over all nodes, constant ones 0 (ogbn-arxiv, Reddit).
    """
    if scaling == "sum":
        total = x.sum(1, keepdim=True)
        return x / torch.where(total == 0, 1, total)
    if scaling == "standard":
        deviation = x.std(0, correction=0)
        return (x - x.mean(0)) / torch.where(deviation == 0, 1, deviation)
    return x


def to_undirected(edges: Tensor, directed: bool) -> Tensor:
    return edges if directed else torch.cat([edges, edges.flip(0)], 1)


def degree_features(edges: Tensor, count: int, widest: int | None = None) -> Tensor:
    """One-hot in-degree (N, min(largest, 400) + 1), counted before self-loops are added. Source: THUDM/GraphMAE."""
    degree = torch.bincount(edges[1], minlength=count).clamp(max=MOST_DEGREES)
    widest = int(degree.max()) if widest is None else widest
    return F.one_hot(degree.clamp(max=widest), widest + 1).float()


def no_features(edges: Tensor, count: int, where: str) -> Tensor:
    """What nodes without features get, said aloud."""
    if edges.numel() and int(edges.min()) < 0:
        raise UserError(f"data.root: {where}: An edge names node {int(edges.min())}; edges count nodes from 0.")
    x = degree_features(edges, count)
    say(f"{where} has no node features: one-hot degrees are used ({x.shape[1]} of them), as published.")
    return x


def say(text: str) -> None:
    """What was made up for the user: for the eye, not for a pipe."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def split(whole: Graphs) -> list[Graphs]:
    """A batch as single graphs."""
    parts, start, edge = [], 0, 0
    ends = whole.sample[whole.edge_index[1]].bincount(minlength=len(whole.counts)).tolist()
    for count, links in zip(whole.counts, ends, strict=True):
        x, edges = whole.x[start : start + count], whole.edge_index[:, edge : edge + links] - start
        parts.append(Graphs(x, edges, (count,), whole.features).compact())
        start, edge = start + count, edge + links
    return parts
