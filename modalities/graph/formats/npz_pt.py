"""Graphs in one .npz or .pt file: arrays or tensors by name, torch_geometric's Data. Nothing is unpickled freely."""

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
    """The graphs in a file of this content; `suffix`: ".npz" or ".pt". `where`: the file's name, for messages.

    The other arguments are those of `files.read`.
    Raises: UserError naming `where`.
    """
    try:
        if suffix == ".npz":
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
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
    labels = torch.from_numpy(arrays["labels"]) if "labels" in arrays else None
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

    values = content if isinstance(content, Mapping) else content.to_dict()
    if "edge_index" not in values:
        raise UserError(f"{where} holds no graph: there is no edge_index in it.")
    return _from_values(values, where, scaling, loop)


def _from_values(values: Mapping[str, Any], where: str, scaling: Scaling, loop: Sequence[int] | None) -> Collection:
    """One graph of x, edge_index, edge_attr, y, <split>_mask, scaffold."""
    x, edges, labels = values.get("x"), values["edge_index"].long(), values.get("y")
    edge_attr, scaffold = values.get("edge_attr"), values.get("scaffold")
    if x is None:
        largest = int(edges.max()) + 1 if edges.numel() else 1
        x = default_features(edges, max(largest, 0 if labels is None else len(labels)), where)

    # Molecules, whose edges are bonds, have class numbers for features.
    x = x.float() if edge_attr is None else x
    graph = make_graph(x, edges, where, scaling, edge_attr=edge_attr, loop=loop)

    splits = {name: values[key] for name, key in MASKS.items() if values.get(key) is not None}
    return _with_labels(graph, labels, where, splits, () if scaffold is None else (str(scaffold),))


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

    if labels.dim() == 2 and len(labels) == 1 and count > 1:
        return Collection([graph], labels.float(), scaffolds=scaffolds)
    if labels.numel() == 1 and count > 1:
        return Collection([graph], labels.reshape(1).long(), scaffolds=scaffolds)
    if labels.dim() in (1, 2) and len(labels) == count:
        labels = labels.long() if labels.dim() == 1 else labels.float()
        return Collection([graph], nodes=labels, splits=splits)
    raise UserError(f"{where}: {len(labels)} labels for a graph of {count} nodes; give one a node or one in all.")


def _concatenate(parts: Sequence[Collection], where: str) -> Collection:
    """Single graphs as one collection; labels and splits that only some of them have are left out."""
    graphs = [part.graphs[0] for part in parts]

    labels = []
    for part in parts:
        # The label of a graph of one node looks like a node's.
        is_node_label = part.labels is None and len(part.graphs[0].x) == 1
        labels.append(part.nodes if is_node_label else part.labels)
    if (graph_labels := _cat(labels, where)) is not None:
        scaffolds = [name for part in parts for name in part.scaffolds]
        return Collection(graphs, graph_labels, scaffolds=scaffolds if len(scaffolds) == len(graphs) else ())

    splits = {}
    for name in MASKS:
        flags = [part.splits[name] for part in parts if name in part.splits]
        if parts and len(flags) == len(parts):
            splits[name] = torch.cat(flags)
    return Collection(graphs, nodes=_cat([part.nodes for part in parts], where), splits=splits)


def _cat(parts: Sequence[Tensor | None], where: str) -> Tensor | None:
    tensors = [part for part in parts if part is not None]
    if not parts or len(tensors) < len(parts):
        return None
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        raise UserError(f"{where}: the graphs have labels of different widths.")
    return torch.cat(tensors)
