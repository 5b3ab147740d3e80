"""Graph files as they are found: raw Planetoid and TU folders, npz, .pt, edge lists. Nothing is unpickled freely."""

import csv
import io
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from modalities.graph import planetoid
from modalities.graph.geometric import harmless_classes
from modalities.graph.graphs import Graphs

MOST_DEGREES = 400  # longer one-hot codes are cut here (GraphMAE)
SUFFIXES = (".pt", ".npz")


@dataclass(frozen=True)
class Collection:
    """What a place holds: graphs, classes of graphs, or labels and splits of the nodes of the only graph."""

    graphs: Sequence[Graphs]
    labels: Tensor | None = None  # (S,), of graphs
    nodes: Tensor | None = None  # (N,), of nodes; -1: unknown
    splits: Mapping[str, Tensor] = field(default_factory=dict)  # (N,) bool by "train", "validation", "test"
    folds: Sequence[tuple[np.ndarray, np.ndarray]] = ()  # (train, test) graph numbers that came with the data


@lru_cache(maxsize=8)
def read(root: str, directed: bool = False, rows: str = "auto") -> Collection:
    """The graphs at `root`. `directed`: False adds the reverse of every edge of npz files and edge lists.

    `rows`: "sum" divides each node's features by their sum (what citation graphs get as published), "none" does not;
    "auto": for Planetoid only.
    Raises: UserError naming the file and what is wrong with it.
    """
    path = Path(root)
    if not path.exists():
        raise UserError(f"data.root: {root} does not exist.")
    if path.is_dir() and (found := planetoid.names(path)):
        if len(found) > 1:
            raise UserError(f"data.root: {root} holds several graphs ({', '.join(found)}); give each a folder.")
        x, edges, labels, splits = planetoid.read(path, found[0])
        return Collection([_graph(x, edges, rows != "none", path)], None, labels, splits)
    if path.suffix == ".zip" or any(path.glob("*_A.txt")) or any(path.glob("raw/*_A.txt")):
        return _read_tu(path)
    if path.suffix in SUFFIXES:
        return parse(path.read_bytes(), path.suffix, directed, str(path), rows == "sum")
    if path.is_dir() and (path / "edges.csv").exists():
        return _read_table(path, directed, rows == "sum")
    files = sorted(path.glob("raw/*.npz")) or sorted(path.glob("*.npz"))
    if len(files) == 1:
        return read(str(files[0]), directed, rows)
    raise UserError(
        f"data.root: {root} holds no graphs of a known form: ind.<name>.graph and so on (Planetoid), <name>_A.txt (TU, "
        "also in a zip), one .npz, a .pt, or edges.csv with features.csv. Folders of many .pt or .npz: data=folder."
    )


def parse(content: bytes, suffix: str, directed: bool, where: str, normalise: bool = False) -> Collection:
    """The content of a .pt or .npz file. Raises UserError naming `where`."""
    try:
        if suffix == ".npz":
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                return _of_arrays({name: file[name] for name in file.files}, directed, where, normalise)
        return _of_objects(_load_pt(content), where, normalise)
    except UserError:
        raise
    except Exception as error:  # numpy, zip and torch raise many kinds
        raise UserError(f"{where} cannot be read: {str(error).splitlines()[0]}") from error


def degree_features(edges: Tensor, count: int, widest: int | None = None) -> Tensor:
    """One-hot in-degree (N, min(largest, 400) + 1), counted before self-loops are added. Source: THUDM/GraphMAE."""
    degree = torch.bincount(edges[1], minlength=count).clamp(max=MOST_DEGREES)
    widest = int(degree.max()) if widest is None else widest
    return F.one_hot(degree.clamp(max=widest), widest + 1).float()


def say(text: str) -> None:
    """What was made up for the user: for the eye, not for a pipe."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def _graph(x: Tensor, edges: Tensor, normalise: bool, where: Any, attr: Tensor | None = None) -> Graphs:
    try:
        if normalise:
            # Rows of zeros stay zero. Source: DGL's citation graphs, as published.
            total = x.sum(1, keepdim=True)
            x = x / torch.where(total == 0, 1, total)
        return Graphs.of(x, edges, edge_attr=attr).compact()
    except UserError as error:
        raise UserError(f"data.root: {where}: {error}") from None


def _both_ways(edges: Tensor, directed: bool) -> Tensor:
    return edges if directed else torch.cat([edges, edges.flip(0)], 1)


def _read_tu(path: Path) -> Collection:
    texts = _tu_texts(path)
    name = next((key.removesuffix("_A.txt") for key in texts if key.endswith("_A.txt")), None)
    if name is None or f"{name}_graph_indicator.txt" not in texts:
        raise UserError(f"data.root: {path} lacks <name>_A.txt or <name>_graph_indicator.txt of a TU data set.")
    numbers = lambda part: _numbers(texts, f"{name}_{part}.txt", path)  # noqa: E731
    edges, graph = (
        torch.from_numpy(numbers("A").T.astype(np.int64)) - 1,
        numbers("graph_indicator")[:, 0].astype(np.int64),
    )
    if np.any(np.diff(graph) < 0):
        raise UserError(f"data.root: {path}: {name}_graph_indicator.txt must list nodes graph by graph.")
    counts = np.bincount(graph - 1).tolist()
    if f"{name}_node_labels.txt" in texts:
        kinds = np.unique(numbers("node_labels")[:, 0], return_inverse=True)[1]
        x = F.one_hot(torch.from_numpy(kinds)).float()
    else:
        x = degree_features(edges, len(graph))
        say(f"{name} has no node labels: features are one-hot degrees ({x.shape[1]} of them), as published.")
    try:
        whole = Graphs.of(x, edges, counts)
    except UserError as error:
        raise UserError(f"data.root: {path}: {error}") from None
    labels = None
    if f"{name}_graph_labels.txt" in texts:
        labels = torch.from_numpy(np.unique(numbers("graph_labels")[:, 0], return_inverse=True)[1])
    folds = [_fold(texts, i, path) for i in range(1, 11)] if "10fold_idx/test_idx-10.txt" in texts else []
    return Collection(split(whole), labels, folds=folds)


def _tu_texts(path: Path) -> dict[str, str]:
    """Contents of the text files by name within the data set's folder."""
    if path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                files = [e.filename for e in archive.infolist() if e.filename.endswith(".txt")]
                return {_within(name): archive.read(name).decode() for name in files}
        except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
            raise UserError(f"data.root: the archive {path} cannot be read ({error}). Fetch it again.") from error
    folder = path / "raw" if any(path.glob("raw/*_A.txt")) else path
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*.txt"))}


def _within(name: str) -> str:
    """MUTAG/10fold_idx/test_idx-1.txt -> 10fold_idx/test_idx-1.txt"""
    return "/".join(name.split("/")[-2:]) if "10fold_idx" in name else name.split("/")[-1]


def _numbers(texts: Mapping[str, str], name: str, path: Path) -> np.ndarray:
    try:
        return np.loadtxt(io.StringIO(texts[name]), delimiter=",", ndmin=2)
    except ValueError as error:
        raise UserError(f"data.root: {path}: {name} is not a table of numbers: {error}") from error


def _fold(texts: Mapping[str, str], number: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    parts = [_numbers(texts, f"10fold_idx/{part}_idx-{number}.txt", path) for part in ("train", "test")]
    return parts[0][:, 0].astype(np.int64), parts[1][:, 0].astype(np.int64)


def split(whole: Graphs) -> list[Graphs]:
    """A batch as single graphs."""
    parts, start, edge = [], 0, 0
    ends = whole.sample[whole.edge_index[1]].bincount(minlength=len(whole.counts)).tolist()
    for count, links in zip(whole.counts, ends, strict=True):
        x, edges = whole.x[start : start + count], whole.edge_index[:, edge : edge + links] - start
        parts.append(Graphs(x, edges, (count,), whole.features).compact())
        start, edge = start + count, edge + links
    return parts


def _of_arrays(arrays: Mapping[str, np.ndarray], directed: bool, where: str, normalise: bool) -> Collection:
    """An npz: CSR parts adj_*, attr_* and labels (as Amazon's), or x, edge_index, y, <split>_mask."""
    if "adj_indptr" in arrays:
        pointer = arrays["adj_indptr"]
        source = np.repeat(np.arange(len(pointer) - 1), np.diff(pointer))
        edges = torch.from_numpy(np.stack([source, arrays["adj_indices"].astype(np.int64)]))
        x, labels = _csr(arrays), arrays.get("labels")
        edges = _both_ways(edges, directed)
    else:
        if "edge_index" not in arrays:
            raise UserError(f"{where} holds {', '.join(arrays)}; needed are edge_index and x, or adj_* and attr_*.")
        # In this form, which is torch_geometric's, both directions are listed.
        edges, labels = torch.from_numpy(arrays["edge_index"].astype(np.int64)), arrays.get("y")
        x = torch.from_numpy(arrays["x"]) if "x" in arrays else _no_features(edges, _count(edges, labels), where)
        x = x.float() if "edge_attr" not in arrays else x
    attr = torch.from_numpy(arrays["edge_attr"]) if "edge_attr" in arrays else None
    graph = _graph(x, edges, normalise, where, attr)
    splits = {name: torch.from_numpy(arrays[f"{key}_mask"]).bool() for name, key in MASKS if f"{key}_mask" in arrays}
    return _labelled(graph, None if labels is None else torch.from_numpy(labels.astype(np.int64)), splits, where)


MASKS = (("train", "train"), ("validation", "val"), ("test", "test"))


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


def _of_objects(found: Any, where: str, normalise: bool) -> Collection:
    """A Data object, a dict of tensors, or a list of either."""
    if isinstance(found, list | tuple):
        parts = [_of_objects(each, f"{where}, graph {i}", normalise) for i, each in enumerate(found)]
        labels = [part.labels if part.labels is not None else part.nodes for part in parts]
        known = len(parts) > 0 and all(label is not None and label.numel() == 1 for label in labels)
        graphs = [part.graphs[0] for part in parts]
        return Collection(graphs, torch.stack([label.flatten()[0] for label in labels]) if known else None)
    values = found if isinstance(found, Mapping) else found.to_dict()
    if "edge_index" not in values:
        raise UserError(f"{where} holds no graph: there is no edge_index in it.")
    x, edges, labels = values.get("x"), values["edge_index"], values.get("y")
    if x is None:
        x = _no_features(edges, _count(edges, labels), where)
    graph = _graph(
        x if values.get("edge_attr") is not None else x.float(), edges, normalise, where, values.get("edge_attr")
    )
    splits = {name: values[f"{key}_mask"].bool() for name, key in MASKS if values.get(f"{key}_mask") is not None}
    return _labelled(graph, labels, splits, where)


def _labelled(graph: Graphs, labels: Tensor | None, splits: Mapping[str, Tensor], where: str) -> Collection:
    if labels is None:
        return Collection([graph])
    labels = labels.flatten().long()
    if len(labels) == len(graph.x):
        return Collection([graph], None, labels, splits)
    if len(labels) == 1:
        return Collection([graph], labels)
    raise UserError(
        f"{where}: {len(labels)} labels for a graph of {len(graph.x)} nodes; give one a node or one in all."
    )


def _read_table(folder: Path, directed: bool, normalise: bool) -> Collection:
    """edges.csv (from, to), features.csv or .npy (row per node), labels.csv (node, class), split.csv (node, split)."""
    listed = _table(folder / "edges.csv")
    if listed.size and listed.shape[1] < 2:
        raise UserError(f"data.root: {folder / 'edges.csv'} must have two columns: from and to.")
    edges = torch.from_numpy(listed[:, :2].T if listed.size else np.zeros((2, 0))).long()
    if (folder / "features.npy").exists():
        x = torch.from_numpy(np.load(folder / "features.npy", allow_pickle=False)).float()
    elif (folder / "features.csv").exists():
        x = torch.from_numpy(_table(folder / "features.csv")).float()
    else:
        x = _no_features(edges, _count(edges, None), str(folder))
    labels, splits = None, {}
    if (folder / "labels.csv").exists():
        rows = _table(folder / "labels.csv").astype(np.int64)
        labels = torch.full((len(x),), -1)
        labels[torch.from_numpy(rows[:, 0])] = torch.from_numpy(rows[:, 1])
    if (folder / "split.csv").exists():
        splits = _splits(folder / "split.csv", len(x))
    graph = _graph(x, _both_ways(edges, directed), normalise, folder)
    return Collection([graph], None, labels, splits)


def _table(path: Path) -> np.ndarray:
    """A csv of numbers, with or without a line of names. Raises UserError naming the line."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line]
    start = 0 if not lines or _is_number(lines[0][0]) else 1
    try:
        return np.array([[float(cell) for cell in line] for line in lines[start:]], dtype=np.float64)
    except ValueError as error:
        raise UserError(f"data.root: {path} is not a table of numbers: {error}") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _splits(path: Path, count: int) -> dict[str, Tensor]:
    from core.data.splits import parse as split_of

    masks = {name: torch.zeros(count, dtype=torch.bool) for name, _ in MASKS}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for line in csv.reader(file):
            if line and _is_number(line[0]):
                masks[split_of(line[1], str(path))][int(line[0])] = True
    return masks


def _count(edges: Tensor, labels: Any) -> int:
    most = int(edges.max()) + 1 if edges.numel() else 0
    return max(most, 0 if labels is None else len(labels), 1)


def _no_features(edges: Tensor, count: int, where: str) -> Tensor:
    if edges.numel() and (int(edges.min()) < 0):
        raise UserError(f"{where}: An edge names node {int(edges.min())}; edges count nodes from 0.")
    x = degree_features(edges, count)
    say(f"{where} has no node features: one-hot degrees are used ({x.shape[1]} of them), as published.")
    return x
