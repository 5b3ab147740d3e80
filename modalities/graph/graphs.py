"""`Graphs`: a batch of graphs in memory. Everything else in this folder reads and writes it."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError

SPARSE_GAIN = 4  # features are kept sparse where that takes a quarter of the memory or less


@dataclass(frozen=True)
class Graphs:
    """Graphs packed one after another. Made by `Graphs.of`, which sorts the edges, and by `join`.

    x: node features, dense (N, C) float or long, or sparse (N, 2, K): up to K values that are not zero, and
    their columns. edge_index (2, E): (from, to), sorted by `to`; one self-loop per node, the last of its
    edges. counts: nodes of each graph. features: C. edge_attr (E, …) of the edges. position (N, A): encodings
    of a node's place in its graph. roots (R,): nodes that sampled subgraphs grew from.
    """

    x: Tensor
    edge_index: Tensor
    _: KW_ONLY
    counts: tuple[int, ...]
    features: int
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
        """Sorts edges, drops repeated ones, and replaces the self-loops by one on every node.

        `counts`: nodes of each graph, one graph by default. `loop`: a self-loop's edge_attr, 0 by default.
        Raises: UserError for features that are not finite, edges out of range or between graphs.
        """
        if counts is None:
            counts = (len(x),)
        counts = tuple(counts)
        check(x, edge_index, counts)
        edges, edge_attr = sort_edges(edge_index, len(x), edge_attr, loop)
        return cls(x, edges, counts=counts, features=x.shape[1], edge_attr=edge_attr, position=position)

    @cached_property
    def sample(self) -> Tensor:
        """(N,) number of the graph that a node belongs to."""
        counts = torch.tensor(self.counts, device=self.x.device)
        return torch.repeat_interleave(counts, output_size=len(self.x))

    @property
    def is_sparse(self) -> bool:
        return self.x.dim() == 3

    def to(self, device: Any, non_blocking: bool = False) -> "Graphs":
        device = torch.device(device)
        if self.x.device == device:
            return self

        moved = {}
        for name in ("x", "edge_index", "edge_attr", "position", "roots"):
            tensor = getattr(self, name)
            if tensor is not None:
                moved[name] = tensor.to(device, non_blocking=non_blocking)
        return replace(self, **moved)

    def rooted(self, roots: Tensor) -> "Graphs":
        """The same with other roots (R,)."""
        return replace(self, roots=roots)

    def pin_memory(self) -> "Graphs":
        return self

    def compact(self) -> "Graphs":
        """The same with sparse features, where most are zero."""
        if self.is_sparse or not self.x.is_floating_point() or not len(self.x):
            return self

        # A sparse row holds a column's number beside each of its values.
        width = _most_nonzero(self.x)
        if width * SPARSE_GAIN > self.features:
            return self
        return replace(self, x=to_sparse(self.x, width))


def join(parts: Sequence[Graphs]) -> Graphs:
    """Several batches as one. Raises UserError where their features differ in number."""
    if len(parts) == 1:
        return parts[0]
    widths = {part.features for part in parts}
    if len(widths) > 1:
        fault = f"Graphs of one batch have {sorted(widths)} features per node"
        raise UserError(f"{fault}; all must have as many.")

    # Nodes are numbered anew: those of a part begin behind the parts before it.
    edges, roots, start = [], [], 0
    counts, edge_attrs, positions = [], [], []
    for part in parts:
        edges.append(part.edge_index + start)
        if part.roots is not None:
            roots.append(part.roots + start)
        start += len(part.x)
        counts += part.counts
        edge_attrs.append(part.edge_attr)
        positions.append(part.position)

    return Graphs(
        _join_features(parts),
        torch.cat(edges, 1),
        counts=tuple(counts),
        features=parts[0].features,
        edge_attr=_cat(edge_attrs),
        position=_cat(positions),
        roots=_cat(roots),
    )


def induced_subgraph(graph: Graphs, nodes: Tensor) -> Graphs:
    """The flagged nodes (N,) bool of one graph and the edges between them."""
    number = nodes.cumsum(0) - 1
    flags = nodes[graph.edge_index].all(0)

    return replace(
        graph,
        x=graph.x[nodes],
        edge_index=number[graph.edge_index[:, flags]],
        counts=(int(nodes.sum()),),
        edge_attr=_rows(graph.edge_attr, flags),
        position=_rows(graph.position, nodes),
        roots=None,
    )


def _rows(values: Tensor | None, flags: Tensor) -> Tensor | None:
    if values is None:
        return None
    return values[flags]


def from_pyg(data: Any, loop: Sequence[int] | None = None) -> Graphs:
    """A torch_geometric Data or Batch as `Graphs`. `loop`: a self-loop's edge_attr.

    Raises: UserError where it has no features, or its nodes are not sorted by graph.
    """
    if data.x is None:
        raise UserError(
            "The graph has no node features `x`. Give it some: degree features, by "
            "modalities.graph.formats.collection.degree_features."
        )

    counts = None
    if data.batch is not None:
        if bool((data.batch.diff() < 0).any()):
            rule = "The nodes of a batch of graphs must be sorted by graph"
            raise UserError(f"{rule} (`batch` must not decrease).")
        counts = torch.bincount(data.batch, minlength=data.num_graphs).tolist()

    x = data.x
    if x.dim() == 1:  # one number per node
        x = x.unsqueeze(1)
    position = getattr(data, "position", None)
    return Graphs.of(x, data.edge_index, counts, edge_attr=data.edge_attr, loop=loop, position=position)


def to_sparse(x: Tensor, width: int | None = None) -> Tensor:
    """Dense (N, C) -> sparse (N, 2, K), as floats.

    Up to K = `width` values other than zero, and their columns.
    """
    if width is None:
        width = _most_nonzero(x)
    width = max(width, 1)

    # A stable sort of flags brings the columns of a row's values to the front, in their order.
    column = (x != 0).to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    return torch.stack([x.gather(1, column), column.to(x.dtype)], 1)


def to_dense(content: Tensor, features: int) -> Tensor:
    """Sparse (…, 2, K) -> dense (…, C)."""
    value, column = content.unbind(-2)
    return value.new_zeros(*value.shape[:-1], features).scatter_add(-1, column.long(), value)


def sort_edges(
    edge_index: Tensor, count: int, edge_attr: Tensor | None = None, loop: Sequence[int] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Edges without repeats, one self-loop per node, sorted by destination, then source; the loop comes last.

    `edge_attr` (E, …) follows its edges; of repeated edges the first one's stays. `loop`: that of self-loops.
    """
    is_link = edge_index[0] != edge_index[1]
    source, destination = edge_index[:, is_link]

    # A node's loop sorts behind all its edges: it counts as an edge from node `count`.
    loops = torch.arange(count, device=source.device) * (count + 1) + count
    key, row = _unique(torch.cat([destination * (count + 1) + source, loops]))
    destination = key.div(count + 1, rounding_mode="floor")
    source = key - destination * (count + 1)
    edges = torch.stack([torch.where(source == count, destination, source), destination])
    if edge_attr is None:
        return edges, None

    loop_attr = edge_attr.new_zeros(count, *edge_attr.shape[1:])
    if loop is not None:
        loop_attr = loop_attr + torch.tensor(loop, device=loop_attr.device, dtype=loop_attr.dtype)
    return edges, torch.cat([edge_attr[is_link], loop_attr])[row]


def check(x: Tensor, edge_index: Tensor, counts: Sequence[int]) -> None:
    """Raises UserError with the first fault of a graph."""
    if x.dim() != 2:
        raise UserError(f"Node features must be a table (nodes, features), not of shape {tuple(x.shape)}.")
    if sum(counts) != len(x):
        fault = f"The graphs are said to have {sum(counts)} nodes"
        raise UserError(f"{fault}, but there are features of {len(x)}.")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.is_floating_point():
        raise UserError(
            f"Edges must be whole numbers of shape (2, E), not {edge_index.dtype} {tuple(edge_index.shape)}."
        )

    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        row = int((~torch.isfinite(x)).any(1).nonzero()[0])
        raise UserError(f"Node {row} has a feature that is NaN or infinite. Fill in or remove such values.")
    if not edge_index.numel():
        return

    smallest, largest = int(edge_index.min()), int(edge_index.max())
    if smallest < 0 or largest >= len(x):
        node = largest
        if smallest < 0:
            node = smallest
        raise UserError(f"An edge names node {node}, but nodes are 0 to {len(x) - 1}. Edges count nodes from 0.")
    if len(counts) > 1:
        graph = torch.repeat_interleave(torch.tensor(counts, device=x.device), output_size=len(x))
        if bool((graph[edge_index[0]] != graph[edge_index[1]]).any()):
            raise UserError("An edge joins nodes of two different graphs of the batch.")


def _unique(key: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted distinct values, and the index of the first of each."""
    key, order = key.sort(stable=True)
    is_new = torch.ones_like(key, dtype=torch.bool)
    is_new[1:] = key[1:] != key[:-1]
    return key[is_new], order[is_new]


def _join_features(parts: Sequence[Graphs]) -> Tensor:
    """Features of all parts, sparse where some are."""
    features, is_sparse = [], any(part.is_sparse for part in parts)
    for part in parts:
        if is_sparse and not part.is_sparse:
            features.append(to_sparse(part.x))
        else:
            features.append(part.x)

    # Sparse rows are padded with zeros of column 0, which add nothing.
    if is_sparse:
        width = max(x.shape[2] for x in features)
        features = [F.pad(x, (0, width - x.shape[2])) for x in features]
    return torch.cat(features)


def _most_nonzero(x: Tensor) -> int:
    """The largest number of values in a row (N, C) that are not zero."""
    return int((x != 0).sum(1).max())


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    """The parts one after another; None where there is none or one is missing."""
    if not parts or any(part is None for part in parts):
        return None
    return torch.cat(parts)
