"""Graphs as tables: a folder with edges.csv and whatever else there is of features, labels and a split."""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.labels import numbers
from core.data.splits import parse as split_of
from core.errors import UserError
from modalities.graph.collection import Collection, Scaling, made, no_features, to_undirected

SPLITS = ("train", "validation", "test")


def read(folder: Path, directed: bool, scaling: Scaling) -> Collection:
    """edges.csv (from, to), features.csv or .npy (row per node), labels.csv (node, class), split.csv (node, split).

    Classes are numbers, -1 unknown, or names.
    Raises: UserError naming the file and what is wrong with it.
    """
    edges = torch.from_numpy(_whole(folder / "edges.csv", "from and to").T.copy())
    known = _said(folder / "labels.csv", "node and class") if (folder / "labels.csv").exists() else None
    x = _features(folder)
    if x is None:
        named = [int(edges.max()) if edges.numel() else 0, *(node for node, _ in known or ())]
        x = no_features(edges, max(named) + 1, str(folder))
    labels, classes = None, []
    if known is not None:
        nodes = _nodes(np.array([node for node, _ in known], np.int64), len(x), folder / "labels.csv")
        found, names = numbers([{"class": name} for _, name in known])
        classes = names.get("class", [])
        labels = torch.full((len(x),), -1)
        labels[nodes] = torch.tensor([each.get("class", -1) for each in found], dtype=torch.long)
    splits = _splits(folder / "split.csv", len(x)) if (folder / "split.csv").exists() else {}
    graph = made(x, to_undirected(edges, directed), folder, scaling)
    return Collection([graph], None, labels, splits, classes=classes)


def _features(folder: Path) -> Tensor | None:
    if (folder / "features.npy").exists():
        try:
            return torch.from_numpy(np.load(folder / "features.npy", allow_pickle=False)).float()
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"data.root: {folder / 'features.npy'} is no array of numbers: {error}") from None
    return torch.from_numpy(_table(folder / "features.csv")).float() if (folder / "features.csv").exists() else None


def _whole(path: Path, columns: str) -> np.ndarray:
    """The two first columns (n, 2) of whole numbers."""
    table = _table(path)
    if not table.size:
        return np.zeros((0, 2), np.int64)
    if table.shape[1] < 2:
        raise UserError(f"data.root: {path} must have two columns: {columns}.")
    if not np.array_equal(table[:, :2], np.round(table[:, :2])):
        raise UserError(f"data.root: {path} must hold whole numbers: {columns}.")
    return table[:, :2].astype(np.int64)


def _nodes(numbers: np.ndarray, count: int, path: Path) -> Tensor:
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < count:
        worst = numbers.min() if numbers.min() < 0 else numbers.max()
        raise UserError(f"data.root: {path} names node {worst}, but nodes are 0 to {count - 1}.")
    return torch.from_numpy(numbers)


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
    masks = {name: torch.zeros(count, dtype=torch.bool) for name in SPLITS}
    for node, name in _said(path, "node and split"):
        masks[split_of(name, str(path))][_nodes(np.array([node]), count, path)] = True
    return masks


def _said(path: Path, columns: str) -> list[tuple[int, str]]:
    """What a csv says of nodes by their number, with or without a line of names. Raises UserError naming the line."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [(number, line) for number, line in enumerate(csv.reader(file), 1) if line]
    if lines and not _is_number(lines[0][1][0]):
        lines = lines[1:]
    for number, line in lines:
        if len(line) < 2 or not (_is_number(line[0]) and float(line[0]).is_integer()):
            raise UserError(
                f"data.root: {path}, line {number}: there must be two columns, {columns}; nodes are numbers."
            )
    return [(int(float(line[0])), line[1].strip()) for _, line in lines]
