"""Graphs in the objects that .pt files hold: dicts, torch_geometric's Data, Batch and collated data sets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError
from modalities.graph.formats.pickled import Opaque, opaque_names

# Names of one graph's parts: torch_geometric's, and those of OGB, DGL and others.
ALIASES = {
    "x": ("x", "node_feat", "feat", "features", "node_features"),
    "edge_index": ("edge_index",),
    "edge_attr": ("edge_attr", "edge_feat"),
    "y": ("y", "label", "labels", "target", "targets"),
}
COUNTS = ("num_nodes", "_num_nodes", "__num_nodes__")
SINGLE = ("train_mask", "val_mask", "test_mask", "scaffold", "position")
LARGEST_DENSE = 2**30  # values of a sparse matrix that is made dense


def graph_values(content: Any, where: str) -> list[dict[str, Any]]:
    """The parts of each graph by name, as tensors: x, edge_index, edge_attr, y, num_nodes, masks and others.

    `content`: a dict, a Data, a Batch, a list of these, (data, slices, …) as data sets of torch_geometric are
    stored, or {"graphs": list, "labels": (S, …)} as OGB's.
    Raises: UserError naming the fault and the way out.
    """
    if _is_collated(content):
        values, slices = _attributes(content[0], where), content[1]
        if slices is None:
            return [_one_graph(values, where)]
        return _graphs(_cut(values, slices, {}, where), where)

    if isinstance(content, list | tuple):
        graphs = []
        for number, part in enumerate(content):
            graphs += graph_values(part, f"{where}, graph {number}")
        return graphs

    if isinstance(content, Mapping) and isinstance(content.get("graphs"), list):
        graphs = graph_values(content["graphs"], where)
        labels = content.get("labels")
        if labels is not None and len(labels) == len(graphs):
            for graph, label in zip(graphs, labels, strict=True):
                graph["y"] = _tensor(label)[None]
        return graphs

    values = _attributes(content, where)
    if values.get("batch") is None:
        return [_one_graph(values, where)]
    slices, offsets = values.get("_slice_dict"), values.get("_inc_dict", {})
    if slices is None:
        slices, offsets = _slices_by_batch(values, where)
    return _graphs(_cut(values, slices, offsets, where), where)


def unread(graphs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of parts that no graph of this platform has, sorted."""
    names = {name for graph in graphs for name, value in graph.items() if value is not None}
    return sorted(names - {*ALIASES, *COUNTS, *SINGLE, "batch", "ptr"})


def _is_collated(content: Any) -> bool:
    """Whether the content is (data, slices, …): a graph of all graphs, and the bounds of each one's parts."""
    if not isinstance(content, list | tuple) or not 2 <= len(content) <= 4:
        return False
    if isinstance(content[0], list | tuple):
        return False
    slices = content[1]
    if not isinstance(slices, Mapping):
        return slices is None
    edges = slices.get("edge_index")
    return not isinstance(edges, Tensor | np.ndarray) or edges.ndim == 1


def _attributes(content: Any, where: str) -> dict[str, Any]:
    """The attributes of a Data or Batch, or the entries of a dict."""
    if isinstance(content, Mapping):
        values = dict(content)
    elif isinstance(content, Opaque):
        _refuse_class(content, where)
        values = content.values
        if isinstance(values.get("_store"), Opaque):
            store = values["_store"].values
            values = store | dict(store.get("_mapping", {}))
    else:
        raise UserError(f"{where} holds no graph but {type(content).__name__}: {_remedy([])}")

    if "edge_index" not in values and not {"adj_t", "adj"} & values.keys():
        remedy = _remedy(opaque_names(content))
        raise UserError(f"{where} holds no graph: there is no edge_index in it. {remedy}")
    return values


def _refuse_class(record: Opaque, where: str) -> None:
    """Raises UserError for classes whose content is no single kind of nodes and edges."""
    name = record.path.rpartition(".")[2]
    if "Hetero" in name:
        raise UserError(
            f"{where} names {record.path}, which has several kinds of nodes and edges: save data.to_homogeneous()."
        )
    if name == "TemporalData":
        raise UserError(
            f"{where} names {record.path}, which lists events: save Data(x=…, edge_index=torch.stack([src, dst]))."
        )


def _remedy(names: Sequence[str]) -> str:
    text = "Save dicts of tensors (x, edge_index, y) or torch_geometric's Data, one or a list."
    if names:
        text = f"It names {', '.join(names[:5])}. {text}"
    return text


def _cut(values: Mapping[str, Any], slices: Mapping, offsets: Mapping, where: str) -> list[dict[str, Any]]:
    """One dict a graph, from the parts of all of them, the bounds of each graph's, and offsets of its indices."""
    if not slices or any(isinstance(bounds, Mapping) for bounds in slices.values()):
        remedy = "save data.to_homogeneous() of each graph"
        raise UserError(f"{where} holds several kinds of nodes and edges: {remedy}.")

    count = len(next(iter(slices.values()))) - 1
    counts = values.get("_num_nodes")
    if not isinstance(counts, list | tuple) or len(counts) != count:
        counts = [None] * count

    graphs = []
    for number in range(count):
        graph: dict[str, Any] = {"num_nodes": counts[number]}
        for name, bounds in slices.items():
            if values.get(name) is not None:
                part = _slice(values[name], name, int(bounds[number]), int(bounds[number + 1]), where)
                if "index" in name and name in offsets:
                    part = part - offsets[name][number]
                graph[name] = part
        graphs.append(graph)
    return graphs


def _slice(value: Any, name: str, start: int, end: int, where: str) -> Any:
    """Rows of a value; of index tensors (2, E) the columns."""
    if isinstance(value, Opaque):
        remedy = "save the list data.to_data_list() with edge_index instead"
        raise UserError(f"{where}: {name} is {value.path}: {remedy}.")
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        part = value[start:end]
        if len(part) == 1:
            return part[0]
        return part

    if value.layout != torch.strided:
        value = _dense(value, name, where)
    dim = 0
    if "index" in name or name == "face":
        dim = value.dim() - 1
    return value.narrow(dim, start, end - start)


def _slices_by_batch(values: Mapping[str, Any], where: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Bounds and offsets of the graphs of a Batch without bounds of its own, from the graph of each node."""
    batch, edges = _tensor(values["batch"]).long(), _tensor(values["edge_index"]).long()
    if bool((batch.diff() < 0).any()):
        raise UserError(f"{where}: `batch` must list nodes graph by graph.")
    nodes = torch.bincount(batch)
    links = torch.bincount(batch[edges[1]], minlength=len(nodes))

    # Parts are of nodes, of edges or of graphs by their number of rows.
    counts = {len(nodes): torch.ones_like(nodes), edges.shape[1]: links, len(batch): nodes}
    order = torch.argsort(batch[edges[1]], stable=True)
    if bool((order.diff() < 0).any()):
        raise UserError(f"{where}: edges of a batch must be listed graph by graph: save data.to_data_list().")

    slices = {}
    for name, value in values.items():
        if not isinstance(value, Tensor | np.ndarray) or not value.ndim or name == "ptr":
            continue

        rows = value.shape[0]
        if "index" in name:
            rows = value.shape[-1]
        per_graph = counts.get(rows)
        if name.startswith("edge_"):
            per_graph = links
        if per_graph is not None:
            slices[name] = torch.cat([torch.zeros(1, dtype=torch.long), per_graph.cumsum(0)])
    return slices, {"edge_index": nodes.cumsum(0) - nodes}


def _graphs(parts: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    graphs = []
    for number, part in enumerate(parts):
        graphs.append(_one_graph(part, f"{where}, graph {number}"))
    return graphs


def _one_graph(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The parts under this platform's names, as tensors."""
    graph = {}
    aliased = set().union(*ALIASES.values())
    for name, value in values.items():
        if name not in aliased and not name.startswith("_"):
            graph[name] = value

    for name, aliases in ALIASES.items():
        present = [values[alias] for alias in aliases if values.get(alias) is not None]
        if present:
            graph[name] = _tensor(present[0], name, where)

    if "edge_index" not in graph:
        adjacency = values.get("adj_t", values.get("adj"))
        graph["edge_index"] = _edges_of(adjacency, where, transposed="adj_t" in values)
        graph.pop("adj_t", None)
        graph.pop("adj", None)
    if not graph["edge_index"].numel():  # however the empty list was written
        graph["edge_index"] = torch.zeros(2, 0, dtype=torch.long)

    graph["num_nodes"] = None
    for name in COUNTS:
        if isinstance(values.get(name), int):
            graph["num_nodes"] = int(values[name])
            break
    for name in SINGLE[:3]:
        if graph.get(name) is not None:
            graph[name] = _tensor(graph[name], name, where)
    return graph


def _tensor(value: Any, name: str = "", where: str = "") -> Tensor:
    """A tensor from an array, number or list. Raises UserError where it holds other things."""
    try:
        tensor = value
        if not isinstance(value, Tensor):
            tensor = torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError):
        kind = type(value).__name__
        if isinstance(value, Opaque):
            kind = value.path
        raise UserError(f"{where}: {name} is {kind}, not numbers: save it as a tensor.") from None
    if tensor.layout != torch.strided:
        tensor = _dense(tensor, name, where)
    return tensor


def _dense(value: Tensor, name: str, where: str) -> Tensor:
    if value.numel() > LARGEST_DENSE:
        raise UserError(
            f"{where}: {name} is sparse, {tuple(value.shape)}, too large for {name}.to_dense(): save fewer columns."
        )
    return value.to_dense()


def _edges_of(adjacency: Any, where: str, *, transposed: bool) -> Tensor:
    """(2, E) from a sparse adjacency matrix, of torch or torch_sparse."""
    if isinstance(adjacency, Tensor):
        rows, columns = adjacency.to_sparse_coo().coalesce().indices()
    else:
        rows, columns = _rows_and_columns(adjacency, where)
    if transposed:
        rows, columns = columns, rows
    return torch.stack([rows, columns]).long()


def _rows_and_columns(adjacency: Any, where: str) -> tuple[Tensor, Tensor]:
    """Of torch_sparse's SparseTensor: its rows, or the bounds of each row, and its columns."""
    values: Mapping[str, Any] = {}
    if isinstance(adjacency, Opaque):
        values = adjacency.values
    storage = values.get("storage")
    if isinstance(storage, Opaque):
        values = storage.values
    rows, bounds, columns = values.get("_row"), values.get("_rowptr"), values.get("_col")

    if columns is None or (rows is None and bounds is None):
        fault = "holds no edge_index, and its adjacency cannot be read"
        raise UserError(f"{where} {fault}: save data with edge_index.")
    if rows is None:
        rows = torch.repeat_interleave(bounds.diff())
    return rows, columns
