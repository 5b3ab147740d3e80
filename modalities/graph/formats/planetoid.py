"""Raw Planetoid files (`ind.cora.x`, …): old pickles, read with an unpickler that knows five harmless names."""

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError

PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph")
VALIDATION = 500  # nodes, behind the training ones


class _Csr:
    """Takes up the state of a pickled scipy.sparse.csr_matrix; nothing of scipy runs."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    _shape: tuple[int, int]

    def dense(self) -> np.ndarray:
        rows = np.repeat(np.arange(self._shape[0]), np.diff(self.indptr))
        out = np.zeros(self._shape, np.float32)
        np.add.at(out, (rows, self.indices), self.data)
        return out


KNOWN = {
    "numpy dtype": np.dtype,
    "numpy ndarray": np.ndarray,
    "numpy.core.multiarray _reconstruct": np._core.multiarray._reconstruct,
    "numpy._core.multiarray _reconstruct": np._core.multiarray._reconstruct,
    "scipy.sparse.csr csr_matrix": _Csr,
    "scipy.sparse._csr csr_matrix": _Csr,
    "collections defaultdict": defaultdict,
    "__builtin__ list": list,
    "builtins list": list,
}


class Unpickler(pickle.Unpickler):
    """Refuses every name but those that these files hold."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" not in KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in such a file")
        return KNOWN[f"{module} {name}"]


def load(path: Path) -> Any:
    """One file's content. Raises UserError when it is missing, damaged, or holds anything but arrays and lists."""
    try:
        with path.open("rb") as file:
            return Unpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise UserError(
            f"data.root: {path} is missing. A Planetoid graph is {len(PARTS) + 1} files beside it."
        ) from None
    except Exception as error:  # damaged pickles raise anything
        raise UserError(f"data.root: {path} is refused: {error}. Fetch the original file again.") from error


def names(folder: Path) -> list[str]:
    """Names of the graphs whose files lie in `folder` or its `raw`."""
    return sorted(p.name.split(".")[1] for part in (folder, folder / "raw") for p in part.glob("ind.*.graph"))


def read(folder: Path, name: str) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Features (N, C) as stored, edges (2, E) both ways, labels (N,), public split by name as (N,) bool.

    Training: the first nodes, 20 a class; validation: the 500 behind them; test: as listed. Test nodes that the list
    leaves out (CiteSeer) have zero features and label 0.
    """
    at = folder / "raw" if (folder / "raw" / f"ind.{name}.graph").exists() else folder
    _, tx, allx, y, ty, ally, graph = (load(at / f"ind.{name}.{part}") for part in PARTS)
    try:
        test = np.loadtxt(at / f"ind.{name}.test.index", dtype=np.int64, ndmin=1)
    except (OSError, ValueError) as error:
        raise UserError(f"data.root: the list of test nodes of {name} in {at} cannot be read: {error}") from error
    known = allx._shape[0]
    count = max(known + len(test), int(test.max()) + 1, 1 + max(graph))
    features, onehot = np.zeros((count, allx._shape[1]), np.float32), np.zeros((count, y.shape[1]), np.float32)
    features[:known], onehot[:known] = allx.dense(), ally
    features[test], onehot[test] = tx.dense(), ty
    source = np.repeat(np.fromiter(graph, np.int64), [len(ends) for ends in graph.values()])
    ends = np.concatenate([np.asarray(e, np.int64) for e in graph.values()])
    edges = np.stack([np.concatenate([source, ends]), np.concatenate([ends, source])])
    rows = np.arange(count)
    masks = {
        "train": rows < len(y),
        "validation": (rows >= len(y)) & (rows < len(y) + VALIDATION),
        "test": np.isin(rows, test),
    }
    labels = torch.from_numpy(onehot.argmax(1))
    return (
        torch.from_numpy(features),
        torch.from_numpy(edges),
        labels,
        {k: torch.from_numpy(m) for k, m in masks.items()},
    )
