"""Graph files as they are found: raw Planetoid, TU and PPI folders, npz, .pt, tables. Nothing is unpickled freely."""

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError
from modalities.graph import planetoid, ppi, tables, tu
from modalities.graph.collection import Collection, Scaling, made, no_features, to_undirected
from modalities.graph.geometric import harmless_classes

SUFFIXES = (".pt", ".npz")
MASKS = (("train", "train"), ("validation", "val"), ("test", "test"))


@lru_cache(maxsize=8)
def read(
    root: str,
    directed: bool = False,
    rows: Literal["auto", "sum", "standard", "none"] = "auto",
    loop: tuple[int, ...] | None = None,
) -> Collection:
    """The graphs at `root`. `directed`: False adds the reverse of every edge of npz files and edge lists.

    `rows`: how features are scaled, see `collection.scaled`; "auto": "sum" for Planetoid alone. `loop`: what edge
    attributes say of a self-loop.
    Raises: UserError naming the file and what is wrong with it.
    """
    path = Path(root)
    scaling: Scaling = "none" if rows == "auto" else rows
    if not path.exists():
        raise UserError(f"data.root: {root} does not exist.")
    if path.is_dir() and (found := planetoid.names(path)):
        if len(found) > 1:
            raise UserError(f"data.root: {root} holds several graphs ({', '.join(found)}); give each a folder.")
        x, edges, labels, splits = planetoid.read(path, found[0])
        return Collection([made(x, edges, path, "sum" if rows == "auto" else rows)], None, labels, splits)
    if tu.is_here(path):
        return tu.read(path)
    if ppi.is_here(path):
        return ppi.read(path, scaling)
    if path.suffix in SUFFIXES:
        return parse(path.read_bytes(), path.suffix, directed, str(path), scaling, loop)
    if path.is_dir() and (path / "edges.csv").exists():
        return tables.read(path, directed, scaling)
    files = sorted(path.glob("raw/*.npz")) or sorted(path.glob("*.npz"))
    if len(files) == 1:
        return read(str(files[0]), directed, rows, loop)
    raise UserError(
        f"data.root: {root} holds no graphs of a known form: ind.<name>.graph and so on (Planetoid), <name>_A.txt (TU, "
        "also in a zip), train_graph.json and so on (PPI), one .npz, a .pt, or edges.csv with features.csv. Folders of "
        "many .pt or .npz: data=folder."
    )


def parse(
    content: bytes,
    suffix: str,
    directed: bool,
    where: str,
    scaling: Scaling = "none",
    loop: tuple[int, ...] | None = None,
) -> Collection:
    """The content of a .pt or .npz file. Raises UserError naming `where`."""
    try:
        if suffix == ".npz":
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                return _of_arrays({name: file[name] for name in file.files}, directed, where, scaling, loop)
        return _of_objects(_load_pt(content), where, scaling, loop)
    except UserError:
        raise
    except Exception as error:  # numpy, zip and torch raise many kinds
        raise UserError(f"{where} cannot be read: {str(error).splitlines()[0]}") from error


def _of_arrays(
    arrays: Mapping[str, np.ndarray], directed: bool, where: str, scaling: Scaling, loop: tuple[int, ...] | None
) -> Collection:
    """An npz: CSR parts adj_*, attr_* and labels (as Amazon's), or x, edge_index, y, <split>_mask."""
    if "adj_indptr" in arrays:
        pointer = arrays["adj_indptr"]
        source = np.repeat(np.arange(len(pointer) - 1), np.diff(pointer))
        edges = torch.from_numpy(np.stack([source, arrays["adj_indices"].astype(np.int64)]))
        labels = arrays.get("labels")
        graph = made(_csr(arrays), to_undirected(edges, directed), where, scaling)
        return _labelled(graph, None if labels is None else torch.from_numpy(labels), {}, where)
    if "edge_index" not in arrays:
        raise UserError(f"{where} holds {', '.join(arrays)}; needed are edge_index and x, or adj_* and attr_*.")
    # In this form, which is torch_geometric's, both directions are listed.
    return _of_values({name: torch.from_numpy(array) for name, array in arrays.items()}, where, scaling, loop)


def _csr(arrays: Mapping[str, np.ndarray]) -> Tensor:
    x = np.zeros(tuple(arrays["attr_shape"]), np.float32)
    rows = np.repeat(np.arange(len(x)), np.diff(arrays["attr_indptr"]))
    x[rows, arrays["attr_indices"]] = arrays["attr_data"]
    return torch.from_numpy(x)


def _load_pt(content: bytes) -> Any:
    """A .pt file, read without running anything in it: tensors, lists, dicts, torch_geometric's Data."""
    try:
        return torch.load(io.BytesIO(content), weights_only=True)
    except UnpicklingError as error:
        if "torch_geometric" not in str(error):
            raise
    with harmless_classes():
        return torch.load(io.BytesIO(content), weights_only=True)


def _of_objects(found: Any, where: str, scaling: Scaling, loop: tuple[int, ...] | None) -> Collection:
    """A Data object, a dict of tensors, or a list of either."""
    if isinstance(found, list | tuple):
        return _joined([_of_objects(each, f"{where}, graph {i}", scaling, loop) for i, each in enumerate(found)], where)
    values = found if isinstance(found, Mapping) else found.to_dict()
    if "edge_index" not in values:
        raise UserError(f"{where} holds no graph: there is no edge_index in it.")
    return _of_values(values, where, scaling, loop)


def _of_values(values: Mapping[str, Any], where: str, scaling: Scaling, loop: tuple[int, ...] | None) -> Collection:
    """One graph of x, edge_index, edge_attr, y, <split>_mask, scaffold."""
    x, edges, labels, attr = (values.get(name) for name in ("x", "edge_index", "y", "edge_attr"))
    edges = edges.long()
    if x is None:
        most = int(edges.max()) + 1 if edges.numel() else 1
        x = no_features(edges, max(most, 0 if labels is None else len(labels)), where)
    # Molecules have class numbers for features, and bonds to tell.
    graph = made(x.float() if attr is None else x, edges, where, scaling, attr, loop)
    splits = {name: values[f"{key}_mask"] for name, key in MASKS if values.get(f"{key}_mask") is not None}
    scaffold = values.get("scaffold")
    return _labelled(graph, labels, splits, where, () if scaffold is None else (str(scaffold),))


def _labelled(
    graph: Any, labels: Tensor | None, splits: Mapping[str, Tensor], where: str, scaffolds: Sequence[str] = ()
) -> Collection:
    """Labels are of nodes where there are as many rows of them, else of the graph: one class, or (1, T) answers."""
    count = len(graph.x)
    if wrong := [name for name, flag in splits.items() if flag.shape != (count,)]:
        raise UserError(f"{where}: the {wrong[0]} mask is of shape {tuple(splits[wrong[0]].shape)}, not ({count},).")
    splits = {name: flag.bool() for name, flag in splits.items()}
    if labels is None:
        return Collection([graph], None, None, splits, scaffolds=scaffolds)
    labels = labels.squeeze(1) if labels.dim() == 2 and labels.shape[1] == 1 else labels
    if labels.dim() == 2 and len(labels) == 1 and count > 1:
        return Collection([graph], labels.float(), scaffolds=scaffolds)
    if len(labels.reshape(-1)) == 1 and count > 1:
        return Collection([graph], labels.reshape(1).long(), scaffolds=scaffolds)
    if labels.dim() in (1, 2) and len(labels) == count:
        return Collection([graph], None, labels.long() if labels.dim() == 1 else labels.float(), splits)
    raise UserError(f"{where}: {len(labels)} labels for a graph of {count} nodes; give one a node or one in all.")


def _joined(parts: Sequence[Collection], where: str) -> Collection:
    """Single graphs as one collection; what only some of them say is left out."""
    graphs = [part.graphs[0] for part in parts]
    # The label of a graph of one node looks like a node's.
    of_graphs = [part.labels if part.labels is not None or len(part.graphs[0].x) > 1 else part.nodes for part in parts]
    labels = _cat(of_graphs, where)
    scaffolds = [name for part in parts for name in part.scaffolds]
    if labels is not None:
        return Collection(graphs, labels, scaffolds=scaffolds if len(scaffolds) == len(graphs) else ())
    known = [name for name, _ in MASKS if all(name in part.splits for part in parts)]
    splits = {name: torch.cat([part.splits[name] for part in parts]) for name in known}
    return Collection(graphs, None, _cat([part.nodes for part in parts], where), splits if parts else {})


def _cat(parts: Sequence[Tensor | None], where: str) -> Tensor | None:
    if not parts or any(part is None for part in parts):
        return None
    if len({part.shape[1:] for part in parts}) > 1:
        raise UserError(f"{where}: the graphs have labels of different widths.")
    return torch.cat(list(parts))
