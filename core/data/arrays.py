"""Array files whose first axis counts samples: .npy, .npz and idx (.gz); never unpickled."""

import gzip
import io
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from core.data import splits
from core.errors import UserError

EXTENSIONS = (".npy", ".npz")
IDX_NAME = re.compile(r"idx\d+-ubyte(\.gz)?$")
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
LABELS = ("label", "labels", "y", "target", "targets")
CLASSES = ("classes", "class_names")


@dataclass(frozen=True)
class Stack:
    """Samples along the first axis of one array of a file; `name` is empty where it is the file's main array."""

    name: str
    count: int
    labels: list[str] | None  # class names


def is_idx(path: str) -> bool:
    return IDX_NAME.search(path.lower()) is not None


def is_array(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS) or is_idx(path)


@lru_cache(maxsize=64)
def load(path: str) -> dict[str, np.ndarray]:
    """All arrays of the file by name; the only one of a .npy or idx file is "data". A .npy stays on disk (memory map).

    Raises UserError when the file is damaged or needs unpickling.
    """
    try:
        if is_idx(path):
            return {"data": _read_idx(path)}
        if path.lower().endswith(".npy"):
            return {"data": np.load(path, mmap_mode="r", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zlib raise many kinds
        raise UserError(
            f"data.root: the array file {path} cannot be read ({error}). It must hold plain numbers "
            "(nothing pickled: no object arrays) and be complete."
        ) from error


def main_array(named: dict[str, np.ndarray]) -> str:
    """Name of the array that holds the samples: the biggest."""
    return max(named, key=lambda name: named[name].nbytes)


def stacks(path: str) -> list[Stack]:
    """The samples in the file: one stack, or one for each split that the names tell (x_train, y_train, x_test, ...).

    Raises UserError when the labels do not match the samples.
    """
    if is_idx(path):
        return _idx_stacks(path)
    named = load(path)
    parts = {split: [name for name in named if splits.mark(name) == split] for split in map(splits.mark, named)}
    if len(parts) == 1:
        return [_stack(path, named, main_array(named), "")]
    mains = [main_array({name: named[name] for name in names}) for split, names in parts.items() if split]
    return [_stack(path, named, main, main) for main in mains]


def has_labels(path: str) -> bool:
    """Whether a .npz holds a list of labels, so that its rows are samples."""
    if not path.lower().endswith(".npz"):
        return False
    try:
        with np.load(path, allow_pickle=False) as file:
            return any(file[name].ndim == 1 and len(file[name]) > 1 for name in LABELS if name in file.files)
    except Exception:  # damaged: whoever reads it will say so
        return False


def row(path: str, member: str, name: str | None = None) -> np.ndarray:
    """A copy of one row. `member`: "17", or "train_images#17" where the samples lie in a named array."""
    main, _, number = member.rpartition("#")
    named = load(path)
    return np.array(named[name or main or main_array(named)][int(number)])


def parse(content: bytes, name: str | None = None) -> np.ndarray:
    """One array out of the bytes of a .npy or .npz file."""
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    return loaded if isinstance(loaded, np.ndarray) else loaded[name or main_array(dict(loaded))]


def _stack(path: str, named: dict[str, np.ndarray], main: str, name: str) -> Stack:
    split = splits.mark(main)
    of_split = {_unmarked(other): array for other, array in named.items() if splits.mark(other) == split}
    labels = next((of_split[label] for label in LABELS if label in of_split), None)
    classes = next((named[label] for label in CLASSES if label in named), None)
    return Stack(name, len(named[main]), _class_names(path, main, len(named[main]), labels, classes))


def _class_names(path: str, main: str, count: int, labels: np.ndarray | None, classes) -> list[str] | None:
    if labels is None:
        return None
    if labels.size != count:
        raise UserError(
            f"data.root: in {path} the labels number {labels.size}, but the first axis of {main!r} has {count}: "
            "an array file must hold one sample per row."
        )
    return [str(value if classes is None else classes[value]) for value in labels.reshape(-1).tolist()]


def _unmarked(name: str) -> str:
    """What is left of a name without the split: y_train gives y, test_labels gives labels."""
    return "_".join(word for word in name.lower().split("_") if splits.mark(word) is None)


def _idx_stacks(path: str) -> list[Stack]:
    """Images with the labels beside them; a file of labels is no stack of its own."""
    images = load(path)["data"]
    if images.ndim == 1:
        return []
    beside = path.replace("images-idx3", "labels-idx1")
    labels = load(beside)["data"] if beside != path and Path(beside).exists() else None
    return [Stack("", len(images), _class_names(path, "images", len(images), labels, None))]


def _read_idx(path: str) -> np.ndarray:
    content = gzip.decompress(Path(path).read_bytes()) if path.lower().endswith(".gz") else Path(path).read_bytes()
    dtype, axes = np.dtype(IDX_TYPES[content[2]]), content[3]
    shape = np.frombuffer(content, ">u4", axes, 4).tolist()
    values = np.frombuffer(content, dtype, math.prod(shape), 4 + 4 * axes)
    return values.reshape(shape).astype(dtype.newbyteorder("="), copy=False)
