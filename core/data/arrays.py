"""Array files whose first axis counts samples: .npy, .npz and idx (.gz); never unpickled."""

import gzip
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
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
    """Samples along the first axis of one array of a file; `name` is empty for a file's only such array."""

    name: str
    count: int
    _: KW_ONLY
    labels: list[str] | None  # class name of every sample


def is_idx(path: str) -> bool:
    return IDX_NAME.search(path.lower()) is not None


def is_array(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS) or is_idx(path)


@lru_cache(maxsize=64)
def load(path: str) -> dict[str, np.ndarray]:
    """All arrays of the file by name. A .npy or idx file has one, "data"; a .npy stays on disk (memory map).

    Raises: UserError where the file is damaged or needs unpickling.
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


def main_array(arrays: Mapping[str, np.ndarray]) -> str:
    """Name of the array that holds the samples: the biggest."""
    return max(arrays, key=lambda name: arrays[name].nbytes)


def list_stacks(path: str) -> list[Stack]:
    """The samples in the file: one stack, or one for each split in the arrays' names (x_train, x_test, …).

    Raises: UserError where the labels do not match the samples.
    """
    if is_idx(path):
        return _idx_stacks(path)

    arrays = load(path)
    names_by_split: dict[str | None, list[str]] = {}
    for name in arrays:
        names_by_split.setdefault(splits.from_name(name), []).append(name)

    if len(names_by_split) == 1:
        return [_stack(path, arrays, main_array(arrays), name="")]

    # Several splits: arrays without one (class names, say) hold no samples.
    stacks = []
    for split, names in names_by_split.items():
        if split is not None:
            main = main_array({name: arrays[name] for name in names})
            stacks.append(_stack(path, arrays, main, name=main))
    return stacks


def has_labels(path: str) -> bool:
    """Whether a .npz holds a list of labels, so that its rows are samples."""
    if not path.lower().endswith(".npz"):
        return False

    try:
        with np.load(path, allow_pickle=False) as file:
            for name in LABELS:
                if name in file.files and file[name].ndim == 1 and len(file[name]) > 1:
                    return True
    except Exception:  # a damaged file is reported where it is read
        return False
    return False


def read_row(path: str, member: str, name: str | None = None) -> np.ndarray:
    """A copy of one row. `member`: "17", or "train_images#17" where the samples lie in a named array."""
    main, _, number = member.rpartition("#")
    arrays = load(path)
    return np.array(arrays[name or main or main_array(arrays)][int(number)])


def parse(content: bytes, name: str | None = None) -> np.ndarray:
    """An array out of the bytes of a .npy or .npz file; `name`: which of a .npz, None for the biggest."""
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    return loaded[name or main_array(dict(loaded))]


def _stack(path: str, arrays: Mapping[str, np.ndarray], main: str, name: str) -> Stack:
    """The samples of the array `main`, with the labels whose name has the same split (x_train, y_train)."""
    split = splits.from_name(main)
    same_split = {}
    for key, array in arrays.items():
        if splits.from_name(key) == split:
            same_split[_without_split(key)] = array

    count = len(arrays[main])
    labels = _first_array(same_split, LABELS)
    classes = _first_array(arrays, CLASSES)
    return Stack(name, count, labels=_class_names(path, main, count, labels, classes))


def _first_array(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray | None:
    for name in names:
        if name in arrays:
            return arrays[name]
    return None


def _class_names(
    path: str, main: str, count: int, labels: np.ndarray | None, classes: np.ndarray | None = None
) -> list[str] | None:
    """Class name of every sample. `labels`: names, or numbers; `classes` (or None): the names of the numbers.

    Raises: UserError where there are not as many labels as samples.
    """
    if labels is None:
        return None
    if labels.size != count:
        raise UserError(
            f"data.root: in {path} the labels number {labels.size}, but the first axis of {main!r} has {count}: "
            "an array file must hold one sample per row."
        )

    values = labels.reshape(-1).tolist()
    if classes is not None:
        values = [classes[value] for value in values]
    return [str(value) for value in values]


def _without_split(name: str) -> str:
    """The name less the words that tell the split: y_train gives y, test_labels gives labels."""
    return "_".join(word for word in name.lower().split("_") if splits.from_name(word) is None)


def _idx_stacks(path: str) -> list[Stack]:
    """Images, with labels from the label file in the same folder. A label file is no stack."""
    images = load(path)["data"]
    if images.ndim == 1:
        return []

    label_path = path.replace("images-idx3", "labels-idx1")
    labels = None
    if label_path != path and Path(label_path).exists():
        labels = load(label_path)["data"]
    return [Stack("", len(images), labels=_class_names(path, "images", len(images), labels))]


def _read_idx(path: str) -> np.ndarray:
    """An idx file: two zero bytes, type, number of axes, big-endian sizes, values.

    Source: yann.lecun.com/exdb/mnist, "The IDX file format".
    """
    content = Path(path).read_bytes()
    if path.lower().endswith(".gz"):
        content = gzip.decompress(content)

    dtype, axes = np.dtype(IDX_TYPES[content[2]]), content[3]
    shape = np.frombuffer(content, ">u4", axes, 4).tolist()
    values = np.frombuffer(content, dtype, math.prod(shape), 4 + 4 * axes)
    return values.reshape(shape).astype(dtype.newbyteorder("="), copy=False)
