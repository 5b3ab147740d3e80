"""Graphs as tables: a folder with edges.csv and whatever else there is of features, labels and a split."""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.splits import parse as split_of
from core.errors import UserError
from modalities.graph.collection import Collection, Scaling, both_ways, made, no_features

SPLITS = ("train", "validation", "test")


def read(folder: Path, directed: bool, scaling: Scaling) -> Collection:
    """edges.csv (from, to), features.csv or .npy (row per node), labels.csv (node, class), split.csv (node, split).

    Raises: UserError naming the file and what is wrong with it.
    """
    edges = torch.from_numpy(_whole(folder / "edges.csv", "from and to").T.copy())
    labelled = _whole(folder / "labels.csv", "node and class") if (folder / "labels.csv").exists() else None
    x = _features(folder)
    if x is None:
        named = [
            int(part.max())
            for part in (edges, labelled[:, :1] if labelled is not None else edges)
            if len(part.flatten())
        ]
        x = no_features(edges, max(named, default=0) + 1, str(folder))
    labels = None
    if labelled is not None:
        nodes = _nodes(labelled[:, 0], len(x), folder / "labels.csv")
        labels = torch.full((len(x),), -1).index_copy(0, nodes, torch.from_numpy(labelled[:, 1]))
    splits = _splits(folder / "split.csv", len(x)) if (folder / "split.csv").exists() else {}
    return Collection([made(x, both_ways(edges, directed), folder, scaling)], None, labels, splits)


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
    with path.open(newline="", encoding="utf-8-sig") as file:
        for line in csv.reader(file):
            if not line or not _is_number(line[0]):
                continue
            if len(line) < 2:
                raise UserError(f"data.root: {path} must have two columns: node and split.")
            masks[split_of(line[1], str(path))][_nodes(np.array([int(float(line[0]))]), count, path)] = True
    return masks
