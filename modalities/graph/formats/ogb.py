"""Data sets of the Open Graph Benchmark as downloaded: csv files, mostly by gzip, one line per node, edge or graph."""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError
from modalities.graph.formats.collection import (
    Collection,
    Provenance,
    Scaling,
    default_features,
    degree_note,
    edge_faults,
    scale_features,
    to_undirected,
    unbatch,
)
from modalities.graph.formats.targets import Labels, graph_labels, node_labels
from modalities.graph.formats.text_tables import load_numbers
from modalities.graph.graphs import Graphs

COUNTS = "num-node-list"
ENDINGS = (".csv.gz", ".csv")
PARTS = {"train": "train", "validation": "valid", "test": "test"}


def is_here(path: Path) -> bool:
    return path.is_dir() and _file(path, COUNTS) is not None


def read(folder: Path, directed: bool, scaling: Scaling) -> Collection:
    """The graphs in `folder` or its `raw`, with the split in `split/<name>`.

    Files: edge, num-node-list, num-edge-list, and optional node-feat, node-label, graph-label. Features of
    edges and years are not read. `directed`: False adds the reverse of every edge.
    Raises: UserError naming a file that is missing or damaged.
    """
    counts = _table(folder, COUNTS)[:, 0].astype(np.int64)
    links = _table(folder, "num-edge-list")[:, 0].astype(np.int64)
    edges = torch.from_numpy(_table(folder, "edge")[:, :2].astype(np.int64).reshape(-1, 2).T)
    if edges.shape[1] != links.sum():
        fault = f"edge has {edges.shape[1]} lines, num-edge-list counts {links.sum()}"
        raise UserError(f"data.root: {folder}: {fault}.")

    # Edges count the nodes of their own graph.
    starts = np.cumsum(counts) - counts
    edges = edges + torch.from_numpy(np.repeat(starts, links))
    faults = edge_faults(edges)

    notes, total = [], int(counts.sum())
    if _file(folder, "node-feat") is None:
        x = default_features(edges, total, str(folder))
        notes.append(degree_note(str(folder), x.shape[1]))
    else:
        x = torch.from_numpy(_table(folder, "node-feat")).float()
    if _file(folder, "edge-feat") is not None:
        notes.append("Features of edges (edge-feat) are not read.")

    try:
        both_ways = edges
        if not directed:
            both_ways = to_undirected(edges)
        batch = Graphs.of(scale_features(x, scaling), both_ways, counts.tolist())
    except UserError as error:
        raise UserError(f"data.root: {folder}: {error}") from None

    labels, label_source = _labels(folder)
    splits, split_source = _splits(folder, counts, by_graph=len(counts) > 1)
    provenance = Provenance(
        split=split_source,
        labels=label_source,
        notes=[*notes, *labels.notes],
        passed_over=faults,
        files=_file_names(folder, label_source, split_source),
    )
    return Collection(
        unbatch(batch),
        labels.graphs,
        nodes=labels.nodes,
        splits=splits,
        classes=labels.classes,
        targets=labels.targets,
        provenance=provenance,
    )


def _file_names(folder: Path, labels: str, split: str) -> list[str]:
    """The files that are read, with the ending that each has."""
    tables = [COUNTS, "num-edge-list", "edge", "node-feat", labels]
    if split:
        tables += [f"{split}/{part}" for part in PARTS.values()]
    return [f"{table}{ending}" for table in tables for ending in ENDINGS]


def _labels(folder: Path) -> tuple[Labels, str]:
    for name, read_values in (("graph-label", graph_labels), ("node-label", node_labels)):
        if _file(folder, name) is not None:
            return read_values(torch.from_numpy(_table(folder, name))), name
    return Labels(), ""


def _splits(folder: Path, counts: np.ndarray, *, by_graph: bool) -> tuple[dict[str, Tensor], str]:
    """(N,) bool by split, from lists of nodes or of whole graphs."""
    root = folder
    if folder.name == "raw":
        root = folder.parent
    folders = sorted(path for path in (root / "split").glob("*") if path.is_dir())
    if not folders:
        return {}, ""
    if len(folders) > 1:
        names = ", ".join(path.name for path in folders)
        raise UserError(f"data.root: {root / 'split'} holds several splits ({names}); keep one.")

    total = int(counts.sum())
    if by_graph:
        total = len(counts)
    splits = {}
    for name, part in PARTS.items():
        flags = np.zeros(total, dtype=bool)
        flags[_table(folders[0], part)[:, 0].astype(np.int64)] = True
        if by_graph:
            flags = np.repeat(flags, counts)
        splits[name] = torch.from_numpy(flags)
    return splits, f"split/{folders[0].name}"


def _file(folder: Path, name: str) -> Path | None:
    """A table in the folder or its `raw`, plain or by gzip."""
    for place in (folder, folder / "raw"):
        for ending in ENDINGS:
            path = place / f"{name}{ending}"
            if path.exists():
                return path
    return None


def _table(folder: Path, name: str) -> np.ndarray:
    """(rows, columns); NaN in empty cells of labels. Raises UserError where the file is missing or damaged."""
    path = _file(folder, name)
    if path is None:
        raise UserError(f"data.root: {folder} lacks {name}.csv.gz of a data set of the Open Graph Benchmark.")
    converter = None
    if name.endswith("label"):
        converter = _number
    try:
        return load_numbers(path, converter)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"data.root: {path} is not a table of numbers: {error}") from None


def _number(cell: str) -> float:
    return float(cell or "nan")
