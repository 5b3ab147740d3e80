"""Arrays: .npy, .npz and .h5, whole files or rows of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.data import arrays, hdf5
from core.data.sources import Item
from core.errors import BadSample, one_line
from modalities.point.formats.cloud import Cloud, is_plain, join_columns, open_binary

MAPPED = 2**24  # bytes of a file, from which on its points stay on disk: each map needs a handle


def read_npy(item: Item) -> Cloud:
    """A .npy, or a row of an array file. The points of a large file stay on disk until they are drawn."""
    if not is_plain(item):
        return Cloud(_plain(item.array()))
    open_binary(item).close()
    is_large = Path(item.path).stat().st_size > MAPPED
    try:
        return Cloud(_plain(np.load(item.path, mmap_mode="r" if is_large else None, allow_pickle=False)))
    except ValueError as error:
        raise BadSample(f"is no readable array: {one_line(error)}") from error


def read_npz(item: Item) -> Cloud:
    """The array of a .npz that is called points or the like, else the biggest."""
    return Cloud(_plain(item.array()))


def read_hdf5(item: Item) -> Cloud:
    """The only cloud of a .h5, in the array that is called data, points or the like, else the biggest."""
    source = item.path
    if not is_plain(item):
        source = open_binary(item)
    content = hdf5.load(source)
    if not content:
        raise BadSample("holds no array")
    return Cloud(_plain(np.asarray(content[arrays.main_array(content)])))


def read_named(item: Item, names: Sequence[str]) -> Cloud:
    """Several arrays (N, …) of one .npz or .h5 side by side: the first has x, y, z, the others are further channels.

    These become shares of the largest value of their type where they are whole numbers (colours, normals).
    """
    first, *further = names
    parts = [_plain(_named(item, first))]
    for name in further:
        values = _named(item, name)
        if values.dtype.kind in "iu":
            values = values / np.float32(np.iinfo(values.dtype).max)
        parts.append(values.reshape(len(values), -1))

    lengths = {name: len(part) for name, part in zip(names, parts, strict=True)}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise BadSample(f"modality.reader.arrays: of its arrays {text} have unlike lengths; each needs a row a point")
    return Cloud(np.concatenate(parts, axis=1))


def _named(item: Item, name: str) -> np.ndarray:
    """Raises: BadSample where there is no such array, naming it and the setting."""
    try:
        if is_plain(item) and hdf5.is_hdf5(item.path):
            return np.asarray(hdf5.load(item.path)[name])
        return item.array(name)
    except (BadSample, KeyError) as error:
        raise BadSample(f"modality.reader.arrays: {name!r} cannot be read from it ({one_line(error)})") from error


def _plain(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order; columns by name (x, y, z, …) side by side."""
    if array.dtype.names:
        columns: Mapping[str, np.ndarray] = {name: array[name] for name in array.dtype.names}
        return join_columns(dict(columns), "the array")
    if array.dtype.isnative:
        return array
    return array.astype(array.dtype.newbyteorder("="))
