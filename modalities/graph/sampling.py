"""Graphs that do not fit a step: neighbours sampled from an adjacency list on disk, in plain NumPy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.reader import Reader
from core.data.sources import Item, Source
from core.errors import BadSample, UserError
from modalities.graph.graphs import Graphs, join

FILES = ("indptr", "indices", "features")
LABEL_FILES = ("labels", "train", "test")


class SampledSource(Source):
    """One big graph as arrays in a folder.

    indptr.npy (N + 1,) and indices.npy (E,): the nodes with an edge to node i are indices[indptr[i] :
    indptr[i + 1]]; features.npy (N, C). Arrays are memory-mapped, never read whole. `write` makes such a
    folder.

    An item is a root node; `roots.npy` lists them, else every node is one. `labelled`, for evaluations with
    pool=first: the roots are the nodes that train.npy and test.npy list, with their classes in labels.npy
    (N,), -1 unknown.
    """

    held_out = "hidden nodes, under masks drawn by a fixed seed; pre-training read the same graph, as published"

    def __init__(self, root: str, labelled: bool = False):
        self.root, self.labelled, self.classes = root, labelled, {}

    def items(self, split: str) -> Sequence[Item]:
        """Every root, for training and testing: as published, pre-training reads the whole graph and no label."""
        folder, names = Path(self.root), FILES
        if self.labelled:
            names += LABEL_FILES
        if missing := [f"{name}.npy" for name in names if not (folder / f"{name}.npy").exists()]:
            raise UserError(f"data.root: {self.root} lacks {', '.join(missing)}.")

        if self.labelled:
            labels = np.load(folder / "labels.npy", mmap_mode="r")
            self.classes = {"label": [str(number) for number in range(int(labels.max(initial=-1)) + 1)]}
            return Roots(self.root, np.load(folder / f"{split}.npy"), labels)
        if (folder / "roots.npy").exists():
            return Roots(self.root, np.load(folder / "roots.npy"))
        return Roots(self.root, range(len(np.load(folder / "indptr.npy", mmap_mode="r")) - 1))


class Roots(Sequence[Item]):
    """An item per root node, made on access: a list of millions would outweigh the rest of a training run."""

    def __init__(self, root: str, nodes: Sequence[int], labels: Sequence[int] | None = None):
        self.root, self.nodes, self.labels = root, nodes, labels

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, index: int | slice) -> "Item | Roots":
        if isinstance(index, slice):
            return Roots(self.root, self.nodes[index], self.labels)

        node, labels = int(self.nodes[index]), {}
        if self.labels is not None and self.labels[node] >= 0:
            labels = {"label": int(self.labels[node])}
        return Item(f"{node:09d}", self.root, member=str(node), labels=labels)


class SampledReader(Reader):
    """The subgraph round a root: in step k at most `fanout[k]` random neighbours of each node reached before.

    All edges between the sampled nodes are in it, so that a node may have more neighbours than were drawn for
    it. The root is node 0 and `roots` of the result. Memory: the nodes sampled, not the graph.
    """

    view = "graph"
    extensions = (".npy",)

    def __init__(self, fanout: Sequence[int] = (10, 10)):
        self.fanout = tuple(fanout)

    def read(self, item: Item, train: bool) -> Graphs:
        folder = Path(item.path)
        try:
            indptr, indices, features = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in FILES)
        except (OSError, ValueError) as error:
            raise BadSample(f"cannot be read: {error}") from error

        # Training draws other neighbours each time, testing the same for the same root.
        root = seed = int(item.member)
        if train:
            seed = int(torch.randint(2**62, ()))
        nodes = sample_nodes(indptr, indices, root, self.fanout, np.random.default_rng(seed))
        x = torch.from_numpy(np.array(features[nodes], np.float32))
        edges = torch.from_numpy(edges_between(indptr, indices, nodes))
        return Graphs.of(x, edges).compact().rooted(torch.zeros(1, dtype=torch.long))

    def collate(self, samples: list[Any]) -> Graphs:
        return join(samples)


def sample_nodes(
    indptr: np.ndarray, indices: np.ndarray, root: int, fanout: Sequence[int], rng: np.random.Generator
) -> np.ndarray:
    """Nodes (n,) reached from `root`, which comes first, in as many steps as `fanout` has numbers."""
    nodes = front = np.array([root])
    for most in fanout:
        start, end = indptr[front], indptr[front + 1]
        is_large = end - start > most

        # Positions in `indices`: all neighbours of small nodes, a sample of those of large ones.
        positions = [spans(start[~is_large], end[~is_large])]
        for low, high in zip(start[is_large], end[is_large], strict=True):
            positions.append(low + rng.choice(high - low, most, replace=False))

        front = np.setdiff1d(indices[np.concatenate(positions)], nodes)
        nodes = np.concatenate([nodes, front])
    return nodes


def edges_between(indptr: np.ndarray, indices: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """(2, E): edges of the graph between these nodes, which are numbered in the order given."""
    start, end = indptr[nodes], indptr[nodes + 1]
    senders = indices[spans(start, end)]
    receivers = np.repeat(np.arange(len(nodes)), end - start)

    # Senders are looked up among the nodes in sorted order; those that are not there lead to another node.
    order = np.argsort(nodes)
    ordered = nodes[order]
    position = np.minimum(np.searchsorted(ordered, senders), len(nodes) - 1)
    is_sampled = ordered[position] == senders
    return np.stack([order[position[is_sampled]], receivers[is_sampled]])


def spans(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """All numbers from each start to before its end, one range after another."""
    count = end - start
    return np.repeat(start - (count.cumsum() - count), count) + np.arange(count.sum())


def write(folder: str | Path, edge_index: np.ndarray, features: np.ndarray) -> None:
    """Writes the arrays of a graph: edges (2, E) as (from, to), features (N, C)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    # Edges by receiver; `indptr` counts those of all receivers before.
    order = np.argsort(edge_index[1], kind="stable")
    indptr = np.zeros(len(features) + 1, np.int64)
    np.cumsum(np.bincount(edge_index[1], minlength=len(features)), out=indptr[1:])

    for name, array in zip(FILES, (indptr, edge_index[0][order], features), strict=True):
        np.save(folder / f"{name}.npy", array)
