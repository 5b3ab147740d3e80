"""Graphs in one .npz or .pt file: tensors by name, torch_geometric's objects. Nothing is unpickled freely."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError, one_line
from modalities.graph.formats import objects, pickled
from modalities.graph.formats.collection import (
    Collection,
    Provenance,
    Scaling,
    default_features,
    degree_columns,
    degree_note,
    edge_faults,
    join_faults,
    make_graph,
    to_undirected,
)
from modalities.graph.formats.targets import Labels, is_whole, read_labels
from modalities.graph.graphs import Graphs

SUFFIXES = (".pt", ".pth", ".npz")
MOST_LETTERS = 300  # of another library's error
MASKS = {"train": "train_mask", "validation": "val_mask", "test": "test_mask"}


def parse(
    content: bytes,
    suffix: str,
    *,
    where: str,
    directed: bool = False,
    scaling: Scaling = "none",
    loop: Sequence[int] | None = None,
    degrees: int | None = None,
) -> Collection:
    """The graphs in a file of this content.

    `suffix`: ".npz", ".pt" or ".pth". `where`: the file's name, for messages. The other arguments are
    those of `files.read`.
    Raises: UserError naming `where`.
    """
    try:
        if suffix == ".npz":
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = dict(file)
            if "adj_indptr" in arrays:
                return _from_csr(arrays, where, directed, scaling)
            if "edge_index" not in arrays:
                names = ", ".join(arrays)
                raise UserError(f"{where} holds {names}; needed are edge_index and x, or adj_* and attr_*.")
            graphs = objects.graph_values(arrays, where)  # as torch_geometric's, both directions are listed
        else:
            graphs = objects.graph_values(pickled.load(content), where)
        return _from_values(graphs, where, scaling, loop, degrees)
    except UserError:
        raise
    except Exception as error:  # numpy, zip and torch raise many kinds
        raise UserError(f"{where} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Another library's error without the advice that follows."""
    text = one_line(error)
    _, _, cause = text.partition("WeightsUnpickler error: ")
    cause = cause or text
    for advice in ("Please ", "Check the documentation"):
        cause = cause.partition(advice)[0]
    return cause.strip()[:MOST_LETTERS]


def _from_csr(arrays: Mapping[str, np.ndarray], where: str, directed: bool, scaling: Scaling) -> Collection:
    pointer = arrays["adj_indptr"]
    source = np.repeat(np.arange(len(pointer) - 1), np.diff(pointer))
    edges = torch.from_numpy(np.stack([source, arrays["adj_indices"].astype(np.int64)]))
    faults = edge_faults(edges)
    if not directed:
        edges = to_undirected(edges)

    x = np.zeros(tuple(arrays["attr_shape"]), np.float32)
    rows = np.repeat(np.arange(len(x)), np.diff(arrays["attr_indptr"]))
    x[rows, arrays["attr_indices"]] = arrays["attr_data"]

    graph = make_graph(torch.from_numpy(x), edges, where, scaling)
    labels, label_source = Labels(), ""
    if "labels" in arrays:
        labels = read_labels([torch.from_numpy(arrays["labels"])], [len(x)], where)
        label_source = "`labels` of the file"
    provenance = Provenance(labels=label_source, notes=labels.notes, passed_over=faults)
    return Collection([graph], nodes=labels.nodes, classes=labels.classes, provenance=provenance)


def _from_values(
    graphs: Sequence[Mapping[str, Any]],
    where: str,
    scaling: Scaling,
    loop: Sequence[int] | None,
    degrees: int | None,
) -> Collection:
    """Graphs of x, edge_index, edge_attr, y, <split>_mask, scaffold, num_nodes."""
    notes = []
    if names := objects.unread(graphs):
        notes.append(f"Parts of graphs that are not read: {', '.join(names)}.")

    # Graphs without features share the columns of their degrees.
    bare = [graph["edge_index"].long() for graph in graphs if graph.get("x") is None]
    if bare:
        degrees = degrees or max(map(degree_columns, bare))
        notes.append(degree_note(where, degrees))

    made, labels, faults = [], [], []
    for number, values in enumerate(graphs):
        place = where
        if len(graphs) > 1:
            place = f"{where}, graph {number}"
        made.append(_make(values, place, scaling, loop, degrees))
        labels.append(values.get("y"))
        if made[-1].edge_index.shape[1] - len(made[-1].x) < values["edge_index"].shape[1]:
            faults += edge_faults(values["edge_index"].long())

    counts = [len(graph.x) for graph in made]
    splits = _splits(graphs, counts, where)
    scaffolds = [str(values["scaffold"]) for values in graphs if values.get("scaffold") is not None]
    if len(scaffolds) < len(graphs):
        scaffolds = []
    read = read_labels(labels, counts, where, as_answers=bool(scaffolds))

    provenance = Provenance(notes=[*notes, *read.notes], passed_over=join_faults(faults))
    if splits:
        masks = ", ".join(MASKS[name] for name in splits)
        provenance = replace(provenance, split=f"masks in the file ({masks})")
    if any(label is not None for label in labels):
        provenance = replace(provenance, labels="`y` of the file")
    if bare and degrees:
        provenance = replace(provenance, degrees=degrees)
    return Collection(
        made,
        read.graphs,
        nodes=read.nodes,
        splits=splits,
        scaffolds=scaffolds,
        classes=read.classes,
        targets=read.targets,
        raw_labels=read.raw,
        provenance=provenance,
    )


def _make(
    values: Mapping[str, Any], where: str, scaling: Scaling, loop: Sequence[int] | None, degrees: int | None
) -> Graphs:
    """One graph; without features it has one-hot degrees."""
    x, edges, edge_attr = values.get("x"), values["edge_index"], values.get("edge_attr")
    if not is_whole(edges):
        raise UserError(f"{where}: edge_index must hold whole numbers: node numbers from 0.")

    edges = edges.long()
    if x is None:
        x = default_features(edges, _node_count(values, edges), where, degrees)
    elif values["num_nodes"] is not None and len(x) != values["num_nodes"]:
        count = values["num_nodes"]
        raise UserError(f"{where}: num_nodes is {count}, but there are features of {len(x)} nodes.")

    if x.dim() == 1:  # one number per node
        x = x[:, None]

    # Molecules, whose edges are bonds, have class numbers for features.
    if edge_attr is None or edge_attr.is_floating_point():
        x = x.float()
    return make_graph(x, edges, where, scaling, edge_attr=edge_attr, loop=loop)


def _node_count(values: Mapping[str, Any], edges: Tensor) -> int:
    """Nodes of a graph without features: num_nodes, else as many as edges, masks, positions or labels name."""
    if values["num_nodes"] is not None:
        return values["num_nodes"]

    count = 1
    if edges.numel():
        count = int(edges.max()) + 1
    for name in ("pos", "y", *MASKS.values()):
        value = values.get(name)
        if isinstance(value, Tensor) and value.dim():
            count = max(count, len(value))
    return count


def _splits(graphs: Sequence[Mapping[str, Any]], counts: Sequence[int], where: str) -> dict[str, Tensor]:
    """(N,) bool by split, of the masks that every graph has. Raises UserError for masks of another shape."""
    splits = {}
    for name, key in MASKS.items():
        flags = []
        for values, count in zip(graphs, counts, strict=True):
            mask = values.get(key)
            if mask is None:
                continue
            if mask.shape != (count,):
                raise UserError(f"{where}: the {name} mask is of shape {tuple(mask.shape)}, not ({count},).")
            flags.append(mask.bool())
        if graphs and len(flags) == len(graphs):
            splits[name] = torch.cat(flags)
    return splits
