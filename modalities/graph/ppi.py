"""The protein graphs (PPI) as distributed: 24 graphs in three parts, several labels a node."""

import json
from pathlib import Path

import numpy as np
import torch

from core.errors import UserError
from modalities.graph.collection import Collection, Scaling, scaled, split, to_undirected
from modalities.graph.graphs import Graphs

PARTS = {"train": "train", "validation": "valid", "test": "test"}


def is_here(path: Path) -> bool:
    return (path / "train_graph.json").exists()


def read(folder: Path, scaling: Scaling) -> Collection:
    """`<part>_graph.json` (node-link form), `_graph_id.npy`, `_feats.npy` and `_labels.npy` of all three parts.

    Nodes are the numbers of their rows. Raises: UserError naming a file that is missing or damaged.
    """
    graphs, labels, splits = [], [], {name: [] for name in PARTS}
    for name, part in PARTS.items():
        found, y = _part(folder, part, scaling)
        graphs += found
        labels.append(y)
        for other in PARTS:
            splits[other].append(torch.full((len(y),), other == name))
    return Collection(graphs, None, torch.cat(labels), {name: torch.cat(flags) for name, flags in splits.items()})


def _part(folder: Path, part: str, scaling: Scaling) -> tuple[list[Graphs], torch.Tensor]:
    try:
        tree = json.loads((folder / f"{part}_graph.json").read_text())
        links = [(link["source"], link["target"]) for link in tree["links"]]
        arrays = (
            np.load(folder / f"{part}_{what}.npy", allow_pickle=False) for what in ("graph_id", "feats", "labels")
        )
        number, x, y = arrays
        edges = to_undirected(torch.tensor(links, dtype=torch.long).reshape(-1, 2).T, bool(tree.get("directed")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"data.root: {folder}: the part {part!r} of PPI cannot be read: {error!r}") from None
    counts = np.unique(number, return_counts=True)[1].tolist()
    if np.any(np.diff(number) < 0):
        raise UserError(f"data.root: {folder / f'{part}_graph_id.npy'} must list nodes graph by graph.")
    try:
        whole = Graphs.of(scaled(torch.from_numpy(x).float(), scaling), edges, counts)
    except UserError as error:
        raise UserError(f"data.root: {folder}, part {part!r}: {error}") from None
    return split(whole), torch.from_numpy(y).float()
