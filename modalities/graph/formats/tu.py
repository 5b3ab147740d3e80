"""TU data sets: text files in a folder or zip, one line per node, edge or graph."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from modalities.graph.formats.collection import Collection, degree_features, print_note, unbatch
from modalities.graph.graphs import Graphs

FOLDS = 10


def is_here(path: Path) -> bool:
    """Whether `path` is a folder with <name>_A.txt, or a zip with one; a damaged zip counts too."""
    if path.suffix != ".zip":
        return any(path.glob("*_A.txt")) or any(path.glob("raw/*_A.txt"))
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("_A.txt") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return path.exists()


def read(path: Path) -> Collection:
    """Features: one-hot node labels, else one-hot degrees. Raises UserError naming the file and its fault."""
    texts = _read_texts(path)
    name = next((key.removesuffix("_A.txt") for key in texts if key.endswith("_A.txt")), None)
    if name is None or f"{name}_graph_indicator.txt" not in texts:
        raise UserError(f"data.root: {path} lacks <name>_A.txt or <name>_graph_indicator.txt of a TU data set.")

    # Files count nodes and graphs from 1.
    edges = torch.from_numpy(_numbers(texts, f"{name}_A.txt", path).T.astype(np.int64)) - 1
    graph_of_node = _numbers(texts, f"{name}_graph_indicator.txt", path)[:, 0].astype(np.int64) - 1
    if np.any(np.diff(graph_of_node) < 0):
        raise UserError(f"data.root: {path}: {name}_graph_indicator.txt must list nodes graph by graph.")

    if f"{name}_node_labels.txt" in texts:
        x = F.one_hot(_classes(texts, f"{name}_node_labels.txt", path)).float()
    else:
        x = degree_features(edges, len(graph_of_node))
        print_note(f"{name} has no node labels: features are one-hot degrees ({x.shape[1]} of them), as published.")

    try:
        batch = Graphs.of(x, edges, np.bincount(graph_of_node).tolist())
    except UserError as error:
        raise UserError(f"data.root: {path}: {error}") from None

    labels = None
    if f"{name}_graph_labels.txt" in texts:
        labels = _classes(texts, f"{name}_graph_labels.txt", path)
    return Collection(unbatch(batch), labels, folds=_folds(texts, path))


def _read_texts(path: Path) -> dict[str, str]:
    """Contents of the text files by name within the data set's folder."""
    if path.suffix == ".zip":
        return _read_zip(path)
    folder = path
    if any(path.glob("raw/*_A.txt")):
        folder = path / "raw"
    return {file.relative_to(folder).as_posix(): file.read_text() for file in sorted(folder.rglob("*.txt"))}


def _read_zip(path: Path) -> dict[str, str]:
    texts = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".txt"):
                    texts[_name_within(name)] = archive.read(name).decode()
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.root: the archive {path} cannot be read ({error}). Fetch it again.") from error
    return texts


def _name_within(name: str) -> str:
    """MUTAG/10fold_idx/test_idx-1.txt -> 10fold_idx/test_idx-1.txt"""
    depth = 2 if "10fold_idx" in name else 1
    return "/".join(name.split("/")[-depth:])


def _numbers(texts: Mapping[str, str], name: str, path: Path) -> np.ndarray:
    """A text's table (rows, columns)."""
    try:
        return np.loadtxt(io.StringIO(texts[name]), delimiter=",", ndmin=2)
    except ValueError as error:
        raise UserError(f"data.root: {path}: {name} is not a table of numbers: {error}") from error


def _classes(texts: Mapping[str, str], name: str, path: Path) -> Tensor:
    """A text's first column as classes, numbered in order of their values."""
    return torch.from_numpy(np.unique(_numbers(texts, name, path)[:, 0], return_inverse=True)[1])


def _folds(texts: Mapping[str, str], path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) graph numbers of the ten folds that come with some data sets."""
    if f"10fold_idx/test_idx-{FOLDS}.txt" not in texts:
        return []

    folds = []
    for number in range(1, FOLDS + 1):
        train = _numbers(texts, f"10fold_idx/train_idx-{number}.txt", path)[:, 0].astype(np.int64)
        test = _numbers(texts, f"10fold_idx/test_idx-{number}.txt", path)[:, 0].astype(np.int64)
        folds.append((train, test))
    return folds
