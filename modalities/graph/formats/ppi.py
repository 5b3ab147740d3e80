"""The protein graphs (PPI) as distributed: 24 graphs in three parts, several labels a node."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.account import PassedOver
from core.errors import UserError
from modalities.graph.formats.collection import (
    Collection,
    Provenance,
    Scaling,
    edge_faults,
    join_faults,
    scale_features,
    to_undirected,
    unbatch,
)
from modalities.graph.graphs import Graphs

FILES = ("graph.json", "graph_id.npy", "feats.npy", "labels.npy")  # of a part
PARTS = {"train": "train", "validation": "valid", "test": "test"}


def is_here(path: Path) -> bool:
    return (path / "train_graph.json").exists()


def read(folder: Path, scaling: Scaling) -> Collection:
    """The graphs of all three parts.

    Files: `<part>_graph.json` (node-link form), `<part>_graph_id.npy`, `_feats.npy` and `_labels.npy`. Nodes
    are the numbers of their rows. Raises: UserError naming a file that is missing or damaged.
    """
    graphs, labels, parts, faults = [], [], [], []
    for name, part in PARTS.items():
        part_graphs, part_labels, part_faults = _read_part(folder, part, scaling)
        graphs += part_graphs
        faults += part_faults
        labels.append(part_labels)
        parts += [name] * len(part_labels)

    splits = {name: torch.from_numpy(np.array(parts) == name) for name in PARTS}
    provenance = Provenance(
        split="the files train, valid and test",
        labels="<part>_labels.npy",
        passed_over=join_faults(faults),
        files=[f"{part}_{file}" for part in PARTS.values() for file in FILES],
    )
    return Collection(graphs, nodes=torch.cat(labels), splits=splits, provenance=provenance)


def _read_part(folder: Path, part: str, scaling: Scaling) -> tuple[list[Graphs], Tensor, list[PassedOver]]:
    """The graphs of one part, their nodes' labels (N, T), and edges that are left out."""
    try:
        tree = json.loads((folder / f"{part}_graph.json").read_text())
        links = [(link["source"], link["target"]) for link in tree["links"]]
        edges = torch.tensor(links, dtype=torch.long).reshape(-1, 2).T
        graph_of_node = np.load(folder / f"{part}_graph_id.npy", allow_pickle=False)
        x = np.load(folder / f"{part}_feats.npy", allow_pickle=False)
        labels = np.load(folder / f"{part}_labels.npy", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"data.root: {folder}: the part {part!r} of PPI cannot be read: {error!r}") from None

    faults = edge_faults(edges)
    if not tree.get("directed"):
        edges = to_undirected(edges)
    if np.any(np.diff(graph_of_node) < 0):
        raise UserError(f"data.root: {folder / f'{part}_graph_id.npy'} must list nodes graph by graph.")
    counts = np.unique(graph_of_node, return_counts=True)[1].tolist()

    try:
        batch = Graphs.of(scale_features(torch.from_numpy(x).float(), scaling), edges, counts)
    except UserError as error:
        raise UserError(f"data.root: {folder}, part {part!r}: {error}") from None
    return unbatch(batch), torch.from_numpy(labels).float(), faults
