"""Graphs as tables: a folder with edges.csv; features, labels and a split have tables of their own."""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.labels import numbers
from core.data.splits import parse as parse_split
from core.errors import UserError
from modalities.graph.formats.collection import Collection, Scaling, default_features, make_graph, to_undirected

SPLITS = ("train", "validation", "test")


def is_here(path: Path) -> bool:
    return path.is_dir() and (path / "edges.csv").exists()


def read(folder: Path, directed: bool, scaling: Scaling) -> Collection:
    """The graph of edges.csv (from, to) and of the other tables in `folder`, all but edges optional.

    features.csv or .npy (row per node), labels.csv (node, class), split.csv (node, split).
    Classes are numbers, -1 unknown, or names. `directed`: False adds the reverse of every edge.
    Raises: UserError naming the file and its fault.
    """
    edges = torch.from_numpy(_integer_pairs(folder / "edges.csv", "from and to").T.copy())
    label_rows = []
    if (folder / "labels.csv").exists():
        label_rows = _rows_by_node(folder / "labels.csv", "node and class")

    x = _features(folder)
    if x is None:
        # Nodes without edges are known by their labels alone.
        largest = max([0, *(node for node, _ in label_rows)])
        if edges.numel():
            largest = max(largest, int(edges.max()))
        x = default_features(edges, largest + 1, str(folder))

    labels, classes = None, []
    if (folder / "labels.csv").exists():
        labels, classes = _labels(label_rows, len(x), folder / "labels.csv")
    splits = {}
    if (folder / "split.csv").exists():
        splits = _splits(folder / "split.csv", len(x))

    if not directed:
        edges = to_undirected(edges)
    graph = make_graph(x, edges, folder, scaling)
    return Collection([graph], nodes=labels, splits=splits, classes=classes)


def _features(folder: Path) -> Tensor | None:
    """(N, C), or None where the folder has no features."""
    if (folder / "features.npy").exists():
        try:
            return torch.from_numpy(np.load(folder / "features.npy", allow_pickle=False)).float()
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"data.root: {folder / 'features.npy'} is no array of numbers: {error}") from None
    if (folder / "features.csv").exists():
        return torch.from_numpy(_table(folder / "features.csv")).float()
    return None


def _labels(rows: list[tuple[int, str]], count: int, path: Path) -> tuple[Tensor, list[str]]:
    """Classes (N,) of `count` nodes, -1 unknown, and the classes' names."""
    classes, names = numbers([{"class": name} for _, name in rows])

    labels = [-1] * count
    for (node, _), row in zip(rows, classes, strict=True):
        _check_node(node, count, path)
        labels[node] = row.get("class", -1)
    return torch.tensor(labels), names.get("class", [])


def _splits(path: Path, count: int) -> dict[str, Tensor]:
    """(N,) bool by the split's name."""
    masks = {name: torch.zeros(count, dtype=torch.bool) for name in SPLITS}
    for node, name in _rows_by_node(path, "node and split"):
        _check_node(node, count, path)
        masks[parse_split(name, str(path))][node] = True
    return masks


def _check_node(node: int, count: int, path: Path) -> None:
    if not 0 <= node < count:
        raise UserError(f"data.root: {path} names node {node}, but nodes are 0 to {count - 1}.")


def _integer_pairs(path: Path, columns: str) -> np.ndarray:
    """The first two columns (n, 2), integers."""
    table = _table(path)
    if not table.size:
        return np.zeros((0, 2), np.int64)
    if table.shape[1] < 2:
        raise UserError(f"data.root: {path} must have two columns: {columns}.")
    if not np.array_equal(table[:, :2], np.round(table[:, :2])):
        raise UserError(f"data.root: {path} must hold whole numbers: {columns}.")
    return table[:, :2].astype(np.int64)


def _table(path: Path) -> np.ndarray:
    """A csv of numbers (rows, columns). Raises UserError where it holds others."""
    rows = []
    try:
        for _, cells in _read_csv(path):
            rows.append(list(map(float, cells)))
        return np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise UserError(f"data.root: {path} is not a table of numbers: {error}") from None


def _rows_by_node(path: Path, columns: str) -> list[tuple[int, str]]:
    """(node, text) of each line of a csv. Raises UserError naming the line."""
    rows = []
    for number, cells in _read_csv(path):
        if len(cells) < 2 or not (_is_number(cells[0]) and float(cells[0]).is_integer()):
            raise UserError(
                f"data.root: {path}, line {number}: there must be two columns, {columns}; nodes are numbers."
            )
        rows.append((int(float(cells[0])), cells[1].strip()))
    return rows


def _read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """(number, cells) of each line that is not empty; a first line with names of columns is left out."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [(number, cells) for number, cells in enumerate(csv.reader(file), 1) if cells]

    if lines:
        _, cells = lines[0]
        if not _is_number(cells[0]):
            del lines[0]
    return lines


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
