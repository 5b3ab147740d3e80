"""Graphs as tables: a folder with edges.csv, and tables of features, labels and a split where there are any."""

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
    """edges.csv (from, to), features.csv or .npy (row per node), labels.csv (node, class), split.csv (node, split).

    Classes are numbers, -1 unknown, or names. `directed`: False adds the reverse of every edge.
    Raises: UserError naming the file and its fault.
    """
    edges = torch.from_numpy(_integer_pairs(folder / "edges.csv", "from and to").T.copy())
    label_rows = []
    if (folder / "labels.csv").exists():
        label_rows = _rows_by_node(folder / "labels.csv", "node and class")

    x = _features(folder)
    if x is None:
        largest = max([int(edges.max()) if edges.numel() else 0, *(node for node, _ in label_rows)])
        x = default_features(edges, largest + 1, str(folder))

    labels, classes = None, []
    if (folder / "labels.csv").exists():
        labels, classes = _labels(label_rows, len(x), folder / "labels.csv")
    splits = {}
    if (folder / "split.csv").exists():
        splits = _splits(folder / "split.csv", len(x))

    graph = make_graph(x, edges if directed else to_undirected(edges), folder, scaling)
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
    nodes = _checked_nodes([node for node, _ in rows], count, path)
    classes, names = numbers([{"class": name} for _, name in rows])

    labels = torch.full((count,), -1)
    labels[nodes] = torch.tensor([row.get("class", -1) for row in classes], dtype=torch.long)
    return labels, names.get("class", [])


def _splits(path: Path, count: int) -> dict[str, Tensor]:
    """(N,) bool by the split's name."""
    masks = {name: torch.zeros(count, dtype=torch.bool) for name in SPLITS}
    for node, name in _rows_by_node(path, "node and split"):
        masks[parse_split(name, str(path))][_checked_nodes([node], count, path)] = True
    return masks


def _checked_nodes(nodes: list[int], count: int, path: Path) -> Tensor:
    """The nodes as a tensor. Raises UserError unless all are from 0 to `count` - 1."""
    smallest, largest = min(nodes, default=0), max(nodes, default=0)
    if nodes and not 0 <= smallest <= largest < count:
        raise UserError(
            f"data.root: {path} names node {smallest if smallest < 0 else largest}, but nodes are 0 to {count - 1}."
        )
    return torch.tensor(nodes, dtype=torch.long)


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
    """A csv of numbers, with or without a line of names. Raises UserError naming the line."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line]
    if lines and not _is_number(lines[0][0]):
        del lines[0]

    rows = []
    try:
        for line in lines:
            rows.append([float(cell) for cell in line])
        return np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise UserError(f"data.root: {path} is not a table of numbers: {error}") from None


def _rows_by_node(path: Path, columns: str) -> list[tuple[int, str]]:
    """(node, text) of each line of a csv, with or without a line of names. Raises UserError naming the line."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [(number, line) for number, line in enumerate(csv.reader(file), 1) if line]
    if lines and not _is_number(lines[0][1][0]):
        del lines[0]

    rows = []
    for number, line in lines:
        if len(line) < 2 or not (_is_number(line[0]) and float(line[0]).is_integer()):
            raise UserError(
                f"data.root: {path}, line {number}: there must be two columns, {columns}; nodes are numbers."
            )
        rows.append((int(float(line[0])), line[1].strip()))
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
