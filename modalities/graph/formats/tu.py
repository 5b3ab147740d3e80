"""TU data sets: text files in a folder or zip, one line per node, edge or graph."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from core.errors import UserError
from modalities.graph.formats.collection import Collection, degree_features, say, split
from modalities.graph.graphs import Graphs


def is_here(path: Path) -> bool:
    return path.suffix == ".zip" or any(path.glob("*_A.txt")) or any(path.glob("raw/*_A.txt"))


def read(path: Path) -> Collection:
    """Features: one-hot node labels, else one-hot degrees. Raises UserError naming what is missing or wrong."""
    texts = _texts(path)
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


def _texts(path: Path) -> dict[str, str]:
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
