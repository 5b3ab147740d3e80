"""`Graphs`: what a batch of graphs is in memory. Everything else in this folder reads and writes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError

SPARSE = 4  # features are kept as bags where that takes a quarter of the room or less


@dataclass(frozen=True)
class Graphs:
    """Graphs packed one after another. Made by `Graphs.of`, which puts the edges in order, and `join`.

    x: node features, dense (N, C) float or long, or bags (N, 2, K): values that are not zero, and their columns.
    edge_index (2, E): (from, to), sorted by `to`; one self-loop per node, the last of its edges. edge_attr (E, …)
    beside it. position (N, A): encodings of where a node is. roots (R,): nodes that sampled subgraphs grew from.
    """

    x: Tensor
    edge_index: Tensor
    counts: tuple[int, ...]  # nodes of each graph
    features: int  # C
    edge_attr: Tensor | None = None
    position: Tensor | None = None
    roots: Tensor | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        edge_index: Tensor,
        counts: Sequence[int] | None = None,
        edge_attr: Tensor | None = None,
        loop: Sequence[int] | None = None,
        position: Tensor | None = None,
    ) -> "Graphs":
        """Sorts edges, drops repeated ones and puts one self-loop on every node in place of those that are there.

        `counts`: nodes of each graph, one graph by default. `loop`: what a self-loop's edge_attr says (0).
        Raises: UserError for features that are not finite, edges out of range or between graphs.
        """
        counts = (len(x),) if counts is None else tuple(counts)
        check(x, edge_index, counts)
        edges, attr = in_order(edge_index, len(x), edge_attr, loop)
        return cls(x, edges, counts, x.shape[1], attr, position)

    @cached_property
    def sample(self) -> Tensor:
        """(N,) which graph a node belongs to."""
        counts = torch.tensor(self.counts, device=self.x.device)
        return torch.repeat_interleave(counts, output_size=len(self.x))

    @property
    def is_sparse(self) -> bool:
        return self.x.dim() == 3

    def to(self, device: Any, non_blocking: bool = False) -> "Graphs":
        device = torch.device(device)
        if self.x.device == device:
            return self
        names = ("x", "edge_index", "edge_attr", "position", "roots")
        here = {name: getattr(self, name) for name in names}
        return replace(self, **{n: t.to(device, non_blocking=non_blocking) for n, t in here.items() if t is not None})

    def rooted(self, roots: Tensor) -> "Graphs":
        """The same with other roots (R,)."""
        return replace(self, roots=roots)

    def pin_memory(self) -> "Graphs":
        return self

    def compact(self) -> "Graphs":
        """The same with features as bags, where they are mostly zeros."""
        if self.is_sparse or not self.x.is_floating_point() or not len(self.x):
            return self
        most = int((self.x != 0).sum(1).max())
        return replace(self, x=to_sparse(self.x, most)) if most * SPARSE <= self.features else self


def join(parts: Sequence[Graphs]) -> Graphs:
    """Several batches as one. Raises UserError where their features differ in number."""
    if len(parts) == 1:
        return parts[0]
    widths = {part.features for part in parts}
    if len(widths) > 1:
        raise UserError(f"Graphs of one batch have {sorted(widths)} features per node; all must have as many.")
    offsets = torch.tensor([0, *(len(part.x) for part in parts)]).cumsum(0).tolist()
    edges = torch.cat([part.edge_index + offset for part, offset in zip(parts, offsets, strict=False)], 1)
    xs = [part.x for part in parts]
    if any(part.is_sparse for part in parts):
        xs = [part.x if part.is_sparse else to_sparse(part.x, int((part.x != 0).sum(1).max())) for part in parts]
        most = max(x.shape[2] for x in xs)
        xs = [F.pad(x, (0, most - x.shape[2])) for x in xs]
    counts = tuple(count for part in parts for count in part.counts)
    roots = [part.roots + offset for part, offset in zip(parts, offsets, strict=False) if part.roots is not None]
    return Graphs(
        torch.cat(xs),
        edges,
        counts,
        parts[0].features,
        _cat([part.edge_attr for part in parts]),
        _cat([part.position for part in parts]),
        torch.cat(roots) if roots else None,
    )


def induced(graph: Graphs, kept: Tensor) -> Graphs:
    """The nodes `kept` (N,) bool of one graph and the links between them."""
    number = kept.cumsum(0) - 1
    inside = kept[graph.edge_index].all(0)
    rows = {name: getattr(graph, name)[kept] for name in ("x", "position") if getattr(graph, name) is not None}
    attr = None if graph.edge_attr is None else graph.edge_attr[inside]
    edges = number[graph.edge_index[:, inside]]
    return replace(graph, edge_index=edges, edge_attr=attr, counts=(int(kept.sum()),), roots=None, **rows)


def of_pyg(data: Any, loop: Sequence[int] | None = None) -> Graphs:
    """A torch_geometric Data or Batch. Raises UserError where it has no features."""
    if data.x is None:
        raise UserError("The graph has no node features `x`. Give it some: degree features, by modalities.graph.files.")
    batch = data.batch
    counts = None if batch is None else torch.bincount(batch, minlength=data.num_graphs).tolist()
    if batch is not None and bool((batch.diff() < 0).any()):
        raise UserError("The nodes of a batch of graphs must be sorted by graph (`batch` must not decrease).")
    x = data.x.unsqueeze(1) if data.x.dim() == 1 else data.x
    position = data.get("position") if "position" in data else None
    return Graphs.of(x, data.edge_index, counts, data.edge_attr, loop, position)


def to_sparse(x: Tensor, most: int | None = None) -> Tensor:
    """Dense rows (N, C) -> (N, 2, K): up to K values that are not zero, and the columns they are from (as floats)."""
    if most is None:
        most = int((x != 0).sum(1).max())
    most = max(most, 1)
    column = (x != 0).to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return torch.stack([x.gather(1, column), column.to(x.dtype)], 1)


def to_dense(content: Tensor, features: int) -> Tensor:
    """AggregationPlan (…, 2, K) -> (…, C)."""
    value, column = content.unbind(-2)
    return value.new_zeros(*value.shape[:-1], features).scatter_add(-1, column.long(), value)


def in_order(
    edge_index: Tensor, count: int, edge_attr: Tensor | None = None, loop: Sequence[int] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Edges without repeats, one self-loop per node, sorted by destination, then source; the loop comes last."""
    kept = edge_index[0] != edge_index[1]
    source, destination = edge_index[:, kept]
    # A node's loop sorts behind all its edges.
    key = destination * (count + 1) + source
    key, first = _unique(torch.cat([key, torch.arange(count, device=key.device) * (count + 1) + count]))
    destination = key.div(count + 1, rounding_mode="floor")
    source = key - destination * (count + 1)
    edges = torch.stack([torch.where(source == count, destination, source), destination])
    if edge_attr is None:
        return edges, None
    loops = edge_attr.new_zeros(count, *edge_attr.shape[1:])
    if loop is not None:
        loops = loops + torch.tensor(loop, device=loops.device, dtype=loops.dtype)
    return edges, torch.cat([edge_attr[kept], loops])[first]


def check(x: Tensor, edge_index: Tensor, counts: Sequence[int]) -> None:
    """Raises UserError with the first thing that is wrong with a graph."""
    if x.dim() != 2:
        raise UserError(f"Node features must be a table (nodes, features), not of shape {tuple(x.shape)}.")
    if sum(counts) != len(x):
        raise UserError(f"The graphs are said to have {sum(counts)} nodes, but there are features of {len(x)}.")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.is_floating_point():
        raise UserError(
            f"Edges must be whole numbers of shape (2, E), not {edge_index.dtype} {tuple(edge_index.shape)}."
        )
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        row = int((~torch.isfinite(x)).any(1).nonzero()[0])
        raise UserError(f"Node {row} has a feature that is NaN or infinite. Fill in or remove such values.")
    if edge_index.numel() and (int(edge_index.min()) < 0 or int(edge_index.max()) >= len(x)):
        worst = int(edge_index.min()) if int(edge_index.min()) < 0 else int(edge_index.max())
        raise UserError(f"An edge names node {worst}, but nodes are 0 to {len(x) - 1}. Edges count nodes from 0.")
    if len(counts) > 1 and edge_index.numel():
        graph = torch.repeat_interleave(torch.tensor(counts, device=x.device), output_size=len(x))
        if bool((graph[edge_index[0]] != graph[edge_index[1]]).any()):
            raise UserError("An edge joins nodes of two different graphs of the batch.")


def _unique(key: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted distinct values and the place of the first of each."""
    key, order = key.sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return key[first], order[first]


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    return None if any(part is None for part in parts) else torch.cat(parts)
