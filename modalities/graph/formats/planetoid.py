"""Citation graphs as raw Planetoid files (`ind.cora.x`, …): pickles, of which only the names of arrays are loaded."""

import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError, one_line
from modalities.graph.formats.collection import (
    Collection,
    Provenance,
    Scaling,
    edge_faults,
    make_graph,
    to_undirected,
)

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


def _to_bytes(text: str, encoding: str) -> bytes:
    """Bytes, which Python 3 writes as text in pickles of protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes bytes as {encoding}, not latin1")
    return text.encode(encoding)


def _from_buffer(content: bytes, kind: np.dtype, shape: Sequence[int], order: Literal["C", "F"]) -> np.ndarray:
    """An array as pickles of protocol 5 have it."""
    return np.frombuffer(content, kind).reshape(shape, order=order)


def _new_matrix(kind: type, base: type, state: None) -> _Csr:
    """The matrix before its state, in pickles of protocols 0 and 1."""
    if kind is not _Csr or base is not object:
        raise pickle.UnpicklingError(f"it makes a {kind.__name__}, which has no place in such a file")
    return _Csr()


ALLOWED = {
    "_codecs encode": _to_bytes,
    "numpy dtype": np.dtype,
    "numpy ndarray": np.ndarray,
    "numpy.core.multiarray _reconstruct": np._core.multiarray._reconstruct,
    "numpy._core.multiarray _reconstruct": np._core.multiarray._reconstruct,
    "numpy.core.numeric _frombuffer": _from_buffer,
    "numpy._core.numeric _frombuffer": _from_buffer,
    "copy_reg _reconstructor": _new_matrix,
    "__builtin__ object": object,
    "scipy.sparse.csr csr_matrix": _Csr,
    "scipy.sparse._csr csr_matrix": _Csr,
    "collections defaultdict": defaultdict,
    "__builtin__ list": list,
    "builtins list": list,
}


class Unpickler(pickle.Unpickler):
    """Refuses every name but the `ALLOWED` ones, which are all that these files hold."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in such a file")
        return ALLOWED[f"{module} {name}"]


def is_here(path: Path) -> bool:
    return path.is_dir() and bool(_names(path))


def read(folder: Path, scaling: Scaling) -> Collection:
    """The citation graph in `folder` or its `raw`, edges both ways, with the public split.

    Training: the first nodes, 20 a class; validation: the 500 behind them; test: as listed. Test nodes that
    the list leaves out (CiteSeer) have zero features and label 0.
    Raises: UserError where a file is missing or damaged, or the folder holds several graphs.
    """
    names = _names(folder)
    if len(names) > 1:
        raise UserError(f"data.root: {folder} holds several graphs ({', '.join(names)}); give each a folder.")

    name = names[0]
    raw = folder / "raw"
    if not (raw / f"ind.{name}.graph").exists():
        raw = folder
    parts = {part: load(raw / f"ind.{name}.{part}") for part in PARTS}
    test = _test_nodes(raw, name)
    try:
        x, classes, edges = _assemble(parts, test)
    except Exception as error:  # of damaged pickles the content may be anything
        raise UserError(
            f"data.root: the files ind.{name}.* in {raw} do not belong together: {one_line(error)}. "
            "Fetch the original files again."
        ) from error

    rows, training = np.arange(len(x)), len(parts["y"])
    splits = {
        "train": rows < training,
        "validation": (rows >= training) & (rows < training + VALIDATION),
        "test": np.isin(rows, test),
    }
    provenance = Provenance(
        split=f"the public split (ind.{name}.test.index)",
        labels=f"ind.{name}.ally",
        passed_over=edge_faults(edges),
        files=[f"ind.{name}.{part}" for part in (*PARTS, "test.index")],
    )
    return Collection(
        [make_graph(torch.from_numpy(x), to_undirected(edges), folder, scaling)],
        nodes=torch.from_numpy(classes.argmax(1)),
        splits={split: torch.from_numpy(flags) for split, flags in splits.items()},
        provenance=provenance,
    )


def _assemble(parts: Mapping[str, Any], test: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Features (N, C), classes (N, K) and edges (2, E). Raises: ValueError and others for parts that do not fit."""
    allx, tx, neighbours = parts["allx"], parts["tx"], parts["graph"]
    labelled = allx._shape[0]
    if not len(test) == tx._shape[0] == len(parts["ty"]):
        raise ValueError(f"test.index has {len(test)} nodes, tx {tx._shape[0]}, ty {len(parts['ty'])}")
    if labelled != len(parts["ally"]):
        raise ValueError(f"allx has {labelled} nodes, ally {len(parts['ally'])}")

    # Test nodes are listed out of order, and some numbers between them are missing.
    count = max(labelled + len(test), int(test.max()) + 1, 1 + max(neighbours))
    if test.min() < labelled or count > 2 * (labelled + len(test)):
        raise ValueError(f"nodes {test.min()} to {count - 1} are for testing, behind {labelled} others")
    x = np.zeros((count, allx._shape[1]), np.float32)
    x[:labelled] = allx.dense()
    x[test] = tx.dense()

    classes = np.zeros((count, parts["y"].shape[1]), np.float32)
    classes[:labelled] = parts["ally"]
    classes[test] = parts["ty"]
    return x, classes, torch.from_numpy(_edges(neighbours))


def load(path: Path) -> Any:
    """One file's content. Raises UserError where it is missing, damaged, or holds more than arrays and lists."""
    try:
        with path.open("rb") as file:
            return Unpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise UserError(
            f"data.root: {path} is missing. A Planetoid graph is {len(PARTS) + 1} files beside it."
        ) from None
    except Exception as error:  # damaged pickles raise anything
        raise UserError(f"data.root: {path} is refused: {error}. Fetch the original file again.") from error


def _names(folder: Path) -> list[str]:
    """Names of the graphs whose files lie in `folder` or its `raw`."""
    paths = [*folder.glob("ind.*.graph"), *folder.glob("raw/ind.*.graph")]
    return sorted(path.name.split(".")[1] for path in paths)


def _test_nodes(folder: Path, name: str) -> np.ndarray:
    try:
        return np.loadtxt(folder / f"ind.{name}.test.index", dtype=np.int64, ndmin=1)
    except (OSError, ValueError) as error:
        raise UserError(f"data.root: the list of test nodes of {name} in {folder} cannot be read: {error}") from error


def _edges(neighbours: dict[int, list[int]]) -> np.ndarray:
    """(2, E) from each node's list of neighbours."""
    source, target = [], []
    for node, ends in neighbours.items():
        source += [node] * len(ends)
        target += ends
    return np.array([source, target], dtype=np.int64)
