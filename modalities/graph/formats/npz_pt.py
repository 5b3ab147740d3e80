"""Graphs in one .npz or .pt file: tensors by name, torch_geometric's Data. Nothing is unpickled freely."""

import io
from collections.abc import Mapping, Sequence
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError
from modalities.graph.formats.collection import Collection, Scaling, default_features, make_graph, to_undirected
from modalities.graph.formats.geometric import safe_classes
from modalities.graph.graphs import Graphs

SUFFIXES = (".pt", ".npz")
MASKS = {"train": "train_mask", "validation": "val_mask", "test": "test_mask"}


def parse(
    content: bytes,
    suffix: str,
    *,
    where: str,
    directed: bool = False,
    scaling: Scaling = "none",
    loop: Sequence[int] | None = None,
) -> Collection:
    """The graphs in a file of this content.

    `suffix`: ".npz" or ".pt". `where`: the file's name, for messages. The other arguments are those of
    `files.read`.
    Raises: UserError naming `where`.
    """
    try:
        if suffix == ".npz":
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = dict(file)
            return _from_arrays(arrays, where, directed, scaling, loop)
        return _from_objects(_load_pt(content), where, scaling, loop)
    except UserError:
        raise
    except Exception as error:  # numpy, zip and torch raise many kinds
        raise UserError(f"{where} cannot be read: {str(error).splitlines()[0]}") from error


def _from_arrays(
    arrays: Mapping[str, np.ndarray], where: str, directed: bool, scaling: Scaling, loop: Sequence[int] | None
) -> Collection:
    """An npz: CSR parts adj_*, attr_* and labels (as Amazon's), or x, edge_index, y, <split>_mask."""
    if "adj_indptr" in arrays:
        return _from_csr(arrays, where, directed, scaling)
    if "edge_index" not in arrays:
        raise UserError(f"{where} holds {', '.join(arrays)}; needed are edge_index and x, or adj_* and attr_*.")

    # In this form, which is torch_geometric's, both directions are listed.
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return _from_values(tensors, where, scaling, loop)


def _from_csr(arrays: Mapping[str, np.ndarray], where: str, directed: bool, scaling: Scaling) -> Collection:
    pointer = arrays["adj_indptr"]
    source = np.repeat(np.arange(len(pointer) - 1), np.diff(pointer))
    edges = torch.from_numpy(np.stack([source, arrays["adj_indices"].astype(np.int64)]))
    if not directed:
        edges = to_undirected(edges)

    x = np.zeros(tuple(arrays["attr_shape"]), np.float32)
    rows = np.repeat(np.arange(len(x)), np.diff(arrays["attr_indptr"]))
    x[rows, arrays["attr_indices"]] = arrays["attr_data"]

    graph = make_graph(torch.from_numpy(x), edges, where, scaling)
    labels = arrays.get("labels")
    if labels is not None:
        labels = torch.from_numpy(labels)
    return _with_labels(graph, labels, where)


def _load_pt(content: bytes) -> Any:
    """A .pt file, read without running anything in it: tensors, lists, dicts, torch_geometric's Data."""
    try:
        return torch.load(io.BytesIO(content), weights_only=True)
    except UnpicklingError as error:
        if "torch_geometric" not in str(error):
            raise
    with safe_classes():
        return torch.load(io.BytesIO(content), weights_only=True)


def _from_objects(content: Any, where: str, scaling: Scaling, loop: Sequence[int] | None) -> Collection:
    """A Data object, a dict of tensors, or a list of either."""
    if isinstance(content, list | tuple):
        parts = [_from_objects(part, f"{where}, graph {i}", scaling, loop) for i, part in enumerate(content)]
        return _concatenate(parts, where)

    values = content
    if not isinstance(content, Mapping):
        values = content.to_dict()
    if "edge_index" not in values:
        raise UserError(f"{where} holds no graph: there is no edge_index in it.")
    return _from_values(values, where, scaling, loop)


def _from_values(values: Mapping[str, Any], where: str, scaling: Scaling, loop: Sequence[int] | None) -> Collection:
    """One graph of x, edge_index, edge_attr, y, <split>_mask, scaffold."""
    x, edges, labels = values.get("x"), values["edge_index"].long(), values.get("y")
    edge_attr, scaffold = values.get("edge_attr"), values.get("scaffold")
    if x is None:
        # Nodes without edges are known by their labels alone.
        count = max(1, 0 if labels is None else len(labels))
        if edges.numel():
            count = max(count, int(edges.max()) + 1)
        x = default_features(edges, count, where)

    # Molecules, whose edges are bonds, have class numbers for features.
    if edge_attr is None:
        x = x.float()
    graph = make_graph(x, edges, where, scaling, edge_attr=edge_attr, loop=loop)

    splits = {name: values[key] for name, key in MASKS.items() if values.get(key) is not None}
    scaffolds = []
    if scaffold is not None:
        scaffolds.append(str(scaffold))
    return _with_labels(graph, labels, where, splits, scaffolds)


def _with_labels(
    graph: Graphs,
    labels: Tensor | None,
    where: str,
    splits: Mapping[str, Tensor] | None = None,
    scaffolds: Sequence[str] = (),
) -> Collection:
    """Labels are the nodes' where there are as many rows; else the graph's: one class, or (1, T) answers."""
    count, splits = len(graph.x), dict(splits or {})
    for name, flags in splits.items():
        if flags.shape != (count,):
            raise UserError(f"{where}: the {name} mask is of shape {tuple(flags.shape)}, not ({count},).")
        splits[name] = flags.bool()

    if labels is None:
        return Collection([graph], splits=splits, scaffolds=scaffolds)
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)

    # Of a graph: answers to several questions, or one class.
    if labels.dim() == 2 and len(labels) == 1 and count > 1:
        return Collection([graph], labels.float(), scaffolds=scaffolds)
    if labels.numel() == 1 and count > 1:
        return Collection([graph], labels.reshape(1).long(), scaffolds=scaffolds)

    # Of nodes: a class each, or several that may hold.
    if labels.dim() == 1 and len(labels) == count:
        return Collection([graph], nodes=labels.long(), splits=splits)
    if labels.dim() == 2 and len(labels) == count:
        return Collection([graph], nodes=labels.float(), splits=splits)
    raise UserError(f"{where}: {len(labels)} labels for a graph of {count} nodes; give one a node or one in all.")


def _concatenate(parts: Sequence[Collection], where: str) -> Collection:
    """Single graphs as one collection; labels and splits that only some of them have are left out."""
    graphs, labels, nodes, scaffolds = [], [], [], []
    for part in parts:
        graph, label = part.graphs[0], part.labels
        if label is None and len(graph.x) == 1:  # a label of one node may be the graph's
            label = part.nodes
        graphs.append(graph)
        labels.append(label)
        nodes.append(part.nodes)
        scaffolds += part.scaffolds

    graph_labels = _cat(labels, where)
    if graph_labels is not None:
        if len(scaffolds) < len(graphs):
            scaffolds = []
        return Collection(graphs, graph_labels, scaffolds=scaffolds)

    splits = {}
    for name in MASKS:
        flags = [part.splits[name] for part in parts if name in part.splits]
        if parts and len(flags) == len(parts):
            splits[name] = torch.cat(flags)
    return Collection(graphs, nodes=_cat(nodes, where), splits=splits)


def _cat(parts: Sequence[Tensor | None], where: str) -> Tensor | None:
    """The parts one after another; None where one is missing."""
    if not parts or any(part is None for part in parts):
        return None
    if len({part.shape[1:] for part in parts}) > 1:
        raise UserError(f"{where}: the graphs have labels of different widths.")
    return torch.cat(list(parts))
