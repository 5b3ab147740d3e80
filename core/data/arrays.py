"""Array files whose first axis counts samples: .npy, .npz, .h5 and idx (.gz); never unpickled."""

import gzip
import io
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from core.data import columns, hdf5, splits
from core.data.columns import Name
from core.errors import UserError

EXTENSIONS = (".npy", ".npz", *hdf5.EXTENSIONS)
IDX_NAME = re.compile(r"idx\d+-ubyte(\.gz)?$")
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
# Names of arrays that hold samples, the likeliest first; of labels; and of the names of classes or questions.
SAMPLES = (
    *("image", "images", "img", "imgs", "video", "videos", "clip", "clips", "frames", "x", "data", "samples"),
    *("inputs", "input", "points", "pointclouds", "voxels", "signal", "signals", "features", "arr_0"),
)
LABELS = ("label", "labels", "y", "target", "targets", "class")
CLASSES = ("classes", "class_names", "label_names")
# Channels of an array that is one sample: along its last axis, or along its first.
LAST_CHANNELS, FIRST_CHANNELS = (1, 3, 4), (1, 3)


@dataclass(frozen=True)
class Stack:
    """Samples along the first axis of one array of a file; `name` is empty for a file's only such array.

    `labels`: names by label of every sample, or None; `label_array`: the array that holds them.
    `notes`: choices made in reading the file.
    """

    name: str
    count: int
    _: KW_ONLY
    labels: list[Mapping[str, Name]] | None
    label_array: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def label_names(self) -> list[str]:
        """The labels that any sample has, in their order."""
        return list(dict.fromkeys(chain.from_iterable(self.labels or [])))


class Arrays(dict[str, np.ndarray]):
    """All arrays of a file by name, less those that need unpickling, whose names are in `pickled`."""

    pickled: tuple[str, ...] = ()


def is_idx(path: str) -> bool:
    return IDX_NAME.search(path.lower()) is not None


def is_array(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS) or is_idx(path)


def load(path: str) -> Arrays:
    """All arrays of the file by name. A .npy or idx file has one, "data"; those of .npy and .h5 stay on disk.

    Raises: UserError where the file is damaged or all of it would have to be unpickled.
    """
    return _load(path, os.getpid() if hdf5.is_hdf5(path) else 0)


@lru_cache(maxsize=64)
def _load(path: str, process: int) -> Arrays:
    """Forked workers open a .h5 anew, as its library keeps a state for each process."""
    try:
        if hdf5.is_hdf5(path):
            return Arrays(hdf5.load(path))
        if is_idx(path):
            return Arrays(data=_read_idx(path))
        if path.lower().endswith(".npy"):
            return Arrays(data=_map(path))
        with np.load(path, allow_pickle=False) as file:
            return _read_npz(file)
    except UserError:
        raise
    except Exception as error:  # numpy and zlib raise many kinds
        raise UserError(
            f"data.root: the array file {path} cannot be read ({error}). It must hold plain numbers "
            "(nothing pickled: no object arrays) and be complete."
        ) from error


def main_array(arrays: Mapping[str, np.ndarray]) -> str:
    """Name of the array of samples: the first of `SAMPLES` with at least two axes, else the biggest.

    Labels and the names of classes hold none, unless there is nothing else.
    """
    candidates = {}
    for name, array in arrays.items():
        if _without_split(name) not in (*LABELS, *CLASSES):
            candidates[name] = array

    for usual in SAMPLES:
        for name, array in candidates.items():
            if _without_split(name) == usual and array.ndim >= 2:
                return name
    return max(candidates or arrays, key=lambda name: arrays[name].nbytes)


def list_stacks(path: str) -> list[Stack]:
    """The samples in the file: one stack, or one for each split in the arrays' names (x_train, x_test, …).

    Raises: UserError where the file holds no samples along a first axis.
    """
    if is_idx(path):
        return _idx_stacks(path)

    arrays = load(path)
    names_by_split: dict[str | None, list[str]] = {}
    for name in arrays:
        names_by_split.setdefault(splits.from_name(name), []).append(name)

    # Without a part for training, words like "valid" and "test" are no splits.
    if len(names_by_split) == 1 or "train" not in names_by_split:
        return [_stack(path, arrays, main_array(arrays), arrays)]

    # Several splits: arrays without one (class names, say) hold no samples.
    stacks = []
    for split, names in names_by_split.items():
        if split is not None:
            part = {name: arrays[name] for name in names}
            main = main_array(part)
            stacks.append(_stack(path, arrays, main, part, name=main))
    return stacks


def has_rows(path: str) -> bool:
    """Whether a .npz or .h5 holds a label for every row of another array, so that its rows are samples."""
    if not path.lower().endswith((".npz", *hdf5.EXTENSIONS)):
        return False

    try:
        arrays = load(path)
    except UserError:  # a damaged file is reported where it is read
        return False

    main = arrays[main_array(arrays)]
    count = main.shape[0] if main.ndim else 1
    for name, array in arrays.items():
        if _without_split(name) in LABELS and array.ndim > 0 and len(array) == count > 1:
            return True
    return False


def are_one_sample_each(paths: Iterable[str], axes: int | None) -> bool:
    """Whether the first of the files that can be read `is_one_sample`; False where none can."""
    if axes is None:
        return False
    for path in paths:
        with suppress(UserError):  # a damaged file is reported where it is read
            return is_one_sample(path, axes)
    return False


def is_one_sample(path: str, axes: int) -> bool:
    """Whether the array of a file is one sample: it has a sample's `axes`, channels apart,
    and no labels of rows.

    A further axis, the first or last, counts channels where it has as few entries.
    """
    if is_idx(path) or has_rows(path):
        return False

    arrays = load(path)
    shape = arrays[main_array(arrays)].shape
    if len(shape) == axes:
        return True
    return len(shape) == axes + 1 and (shape[0] in FIRST_CHANNELS or shape[-1] in LAST_CHANNELS)


def read_row(path: str, member: str, name: str | None = None) -> np.ndarray:
    """A copy of one row. `member`: "17", or "train_images#17" where the samples lie in a named array."""
    main, _, number = member.rpartition("#")
    arrays = load(path)
    return _native(np.array(arrays[name or main or main_array(arrays)][int(number)]))


def parse(content: bytes, name: str | None = None) -> np.ndarray:
    """An array out of the bytes of a .npy or .npz file; `name`: which of a .npz, None for `main_array`."""
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return _native(loaded)

    arrays = _read_npz(loaded)
    return _native(arrays[name or main_array(arrays)])


def _read_npz(file: Mapping[str, np.ndarray]) -> Arrays:
    """Raises: ValueError where all arrays would have to be unpickled."""
    arrays, pickled = Arrays(), []
    for name in file:
        try:
            arrays[name] = file[name]
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            pickled.append(name)

    if not arrays:
        raise ValueError(f"no array of plain numbers; pickled: {', '.join(pickled) or 'none'}")
    arrays.pickled = tuple(pickled)
    return arrays


def _map(path: str) -> np.ndarray:
    """A memory map of a .npy; an array without values is read, as there is nothing to map."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        array = np.load(path, allow_pickle=False)
        if array.size:
            raise
        return array


def _native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order, which torch requires."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _stack(path: str, arrays: Arrays, main: str, part: Mapping[str, np.ndarray], name: str = "") -> Stack:
    """The samples of the array `main`, with labels out of `part`, the arrays of its split (x_train, y_train).

    Raises: UserError where the array has no rows, or rows of no value.
    """
    samples = arrays[main]
    if samples.ndim == 0 or not samples.size:
        raise UserError(
            f"data.root: {path} must hold samples along its first axis; the shape of {main!r} is {samples.shape}."
        )

    by_kind = {}
    for key in part:
        by_kind.setdefault(_without_split(key), key)
    label_key = _first_key(by_kind, LABELS)
    classes_key = _first_key({_without_split(key): key for key in arrays}, CLASSES)

    # "classes" may number the samples' classes, not name them.
    classes = arrays[classes_key] if classes_key else None
    if label_key is None and classes is not None and _are_numbers(classes, len(samples)):
        label_key, classes = classes_key, None

    notes = _notes(arrays, part, main, label_key, classes_key)
    if label_key is None or label_key == main:
        return Stack(name, len(samples), labels=None, notes=notes)
    if classes is not None:
        classes = np.asarray(classes)
    labels = columns.read_labels(label_key, np.asarray(arrays[label_key]), len(samples), classes)
    return Stack(name, len(samples), labels=labels.names, label_array=label_key, notes=notes + labels.notes)


def _notes(arrays: Arrays, part: Collection[str], main: str, *read: str | None) -> list[str]:
    """One sentence on the array of the samples, and on those of `part`, or of no split, that are not read."""
    samples = arrays[main]
    note = f"{main!r} holds the samples, rows of shape {samples.shape[1:]} and type {samples.dtype}"

    unread = []
    for key, array in arrays.items():
        is_here = key in part or splits.from_name(key) is None
        if is_here and key not in (main, *read):
            unread.append(f"{key!r} of shape {array.shape}")
    unread += [f"{key!r}, which is pickled" for key in arrays.pickled]
    if unread:
        note += f"; not read: {', '.join(unread)}"
    return [note]


def _are_numbers(values: np.ndarray, count: int) -> bool:
    """Whether there is an integer for each of `count` samples."""
    return values.dtype.kind in "iu" and values.shape == (count,)


def _first_key(keys: Mapping[str, str], kinds: Sequence[str]) -> str | None:
    """The key of the first of `kinds` that there is."""
    for kind in kinds:
        if kind in keys:
            return keys[kind]
    return None


def _without_split(name: str) -> str:
    """The name less the words that tell the split: y_train gives y, test-labels gives labels."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "_".join(word for word in words if splits.from_name(word) is None)


def _idx_stacks(path: str) -> list[Stack]:
    """Images, with labels from the label file in the same folder. A label file is no stack."""
    images = load(path)["data"]
    if images.ndim == 1:
        return []

    label_path = path.replace("images-idx3", "labels-idx1")
    if label_path == path or not Path(label_path).exists():
        return [Stack("", len(images), labels=None)]
    label_name = Path(label_path).name
    labels = columns.read_labels(label_name, load(label_path)["data"], len(images))
    return [Stack("", len(images), labels=labels.names, label_array=label_name, notes=labels.notes)]


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
