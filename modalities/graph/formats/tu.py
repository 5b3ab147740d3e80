"""TU data sets: text files in a folder or zip, one line per node, edge or graph."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError, one_line
from modalities.graph.formats.collection import (
    Collection,
    Provenance,
    Scaling,
    degree_features,
    edge_faults,
    scale_features,
    unbatch,
)
from modalities.graph.formats.targets import Labels, graph_labels, is_whole
from modalities.graph.formats.text_tables import load_numbers
from modalities.graph.graphs import Graphs

FOLDS = 10
NodeFeatures = Literal["auto", "labels", "attributes", "both", "degrees"]  # of TU data sets


def is_here(path: Path) -> bool:
    """Whether `path` is a folder with <name>_A.txt, or a zip with one; a damaged zip counts too."""
    if path.suffix != ".zip":
        return any(path.glob("*_A.txt")) or any(path.glob("raw/*_A.txt"))
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("_A.txt") for name in archive.namelist())
    except Exception:  # a damaged archive raises anything
        return path.exists()


def read(path: Path, features: NodeFeatures = "auto", scaling: Scaling = "none") -> Collection:
    """The graphs of a TU data set.

    `features`: "labels" (one-hot node labels), "attributes", or "both" side by side; "auto": labels where
    there are some, as published, else attributes. Without either, one-hot degrees.
    Labels: <name>_graph_labels.txt, else <name>_graph_attributes.txt, which are real numbers mostly.
    Raises: UserError naming the file and its fault.
    """
    texts = _read_texts(path)
    name = next((key.removesuffix("_A.txt") for key in texts if key.endswith("_A.txt")), None)
    if name is None or f"{name}_graph_indicator.txt" not in texts:
        raise UserError(f"data.root: {path} lacks <name>_A.txt or <name>_graph_indicator.txt of a TU data set.")

    # Files count nodes and graphs from 1.
    edges = torch.from_numpy(_numbers(texts, f"{name}_A.txt", path).astype(np.int64)).reshape(-1, 2).T - 1
    graph_of_node = _numbers(texts, f"{name}_graph_indicator.txt", path)[:, 0].astype(np.int64) - 1
    if np.any(np.diff(graph_of_node) < 0):
        raise UserError(f"data.root: {path}: {name}_graph_indicator.txt must list nodes graph by graph.")

    labels, label_file = _graph_labels(texts, name, path)
    count = int(graph_of_node.max(initial=-1)) + 1
    for values in (labels.graphs, *labels.targets.values()):
        if values is not None:
            count = max(count, len(values))  # the last graphs may have no node
            if len(values) < count:
                raise UserError(f"data.root: {path}: {label_file} has {len(values)} lines for {count} graphs.")

    x, notes, feature_files = _features(texts, name, path, features, edges, len(graph_of_node))
    counts = np.bincount(graph_of_node, minlength=count).tolist()
    try:
        batch = Graphs.of(scale_features(x, scaling), edges, counts)
    except UserError as error:
        raise UserError(f"data.root: {path}: {error}") from None

    folds = _folds(texts, path)
    files = [f"{name}_A.txt", f"{name}_graph_indicator.txt", label_file, *feature_files]
    for number in range(1, len(folds) + 1):
        files += [f"10fold_idx/train_idx-{number}.txt", f"10fold_idx/test_idx-{number}.txt"]
    provenance = Provenance(
        labels=label_file, notes=[*notes, *labels.notes], passed_over=edge_faults(edges), files=files
    )
    return Collection(unbatch(batch), labels.graphs, folds=folds, targets=labels.targets, provenance=provenance)


def _features(
    texts: Mapping[str, str],
    name: str,
    path: Path,
    features: NodeFeatures,
    edges: Tensor,
    count: int,
) -> tuple[Tensor, list[str], list[str]]:
    """Features (N, C) of the `count` nodes, notes of the choice that was made, and the files that they are from."""
    files = {"labels": f"{name}_node_labels.txt", "attributes": f"{name}_node_attributes.txt"}
    present = [kind for kind, file in files.items() if file in texts]
    kinds = {"auto": present[:1], "both": ["labels", "attributes"]}.get(features, [features])
    if features == "degrees":
        kinds = []
    for kind in kinds:
        if kind not in present:
            raise UserError(f"data.source.features={features}: {path} has no {files[kind]}.")

    notes = []
    if features == "auto" and len(present) == 2:
        notes.append(
            f"{name} has node labels and node attributes: features are the labels, one-hot, as published. "
            "data.source.features=both or attributes takes the attributes too."
        )
    if not kinds:
        x = degree_features(edges, count)
        if not present:
            notes.append(
                f"{name} has no node labels: features are one-hot degrees ({x.shape[1]} of them), as published."
            )
        return x, notes, []

    parts = []
    for kind in kinds:
        table = _numbers(texts, files[kind], path)
        if len(table) != count:
            raise UserError(f"data.root: {path}: {files[kind]} has {len(table)} lines for {count} nodes.")
        if kind == "attributes":
            parts.append(torch.from_numpy(table).float())
            continue
        for column in table.T:  # mostly one
            classes = torch.from_numpy(np.unique(column, return_inverse=True)[1])
            parts.append(F.one_hot(classes).float())
    if kinds == ["attributes"]:
        notes.append(f"{name}: features are the node attributes ({parts[0].shape[1]} of them).")
    return torch.cat(parts, 1), notes, [files[kind] for kind in kinds]


def _graph_labels(texts: Mapping[str, str], name: str, path: Path) -> tuple[Labels, str]:
    """Labels of graphs, and the file that they are from; classes are numbered in order of their values."""
    for ending in ("graph_labels", "graph_attributes"):
        file = f"{name}_{ending}.txt"
        if file not in texts:
            continue
        values = torch.from_numpy(_numbers(texts, file, path))
        if ending == "graph_labels" and is_whole(values):
            numbers = values[:, 0].unique(return_inverse=True)[1]
            return Labels(numbers), file
        return graph_labels(values), file
    return Labels(), ""


def _read_texts(path: Path) -> dict[str, str]:
    """Contents of the text files by name within the data set's folder."""
    if path.suffix == ".zip":
        return _read_zip(path)
    folder = path
    if any(path.glob("raw/*_A.txt")):
        folder = path / "raw"

    texts = {}
    for file in sorted(folder.rglob("*.txt")):
        texts[file.relative_to(folder).as_posix()] = _decoded(file.read_bytes())
    return texts


def _read_zip(path: Path) -> dict[str, str]:
    texts = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".txt"):
                    texts[_name_within(name)] = _decoded(archive.read(name))
    except Exception as error:  # a damaged or locked archive raises anything
        raise UserError(f"data.root: the archive {path} cannot be read ({one_line(error)}). Fetch it again.") from error
    return texts


def _decoded(content: bytes) -> str:
    """Tables are plain ASCII; a README beside them may be in Latin-1, in which every byte is a letter."""
    return content.decode("latin-1").removeprefix("\xef\xbb\xbf")


def _name_within(name: str) -> str:
    """MUTAG/10fold_idx/test_idx-1.txt -> 10fold_idx/test_idx-1.txt"""
    depth = 2 if "10fold_idx" in name else 1
    return "/".join(name.split("/")[-depth:])


def _numbers(texts: Mapping[str, str], name: str, path: Path) -> np.ndarray:
    """A text's table (rows, columns). Raises: UserError for an empty text, which is no table without rows."""
    if not texts[name]:
        raise UserError(f"data.root: {path}: {name} is empty (0 bytes). Fetch the data set again.")
    try:
        return load_numbers(io.StringIO(texts[name]))
    except ValueError as error:
        raise UserError(f"data.root: {path}: {name} is not a table of numbers: {error}") from error


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
