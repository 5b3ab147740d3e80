"""A cloud as its file holds it, and steps that every format shares."""

import io
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from core.data.sources import Item
from core.errors import BadSample

AXES = ("x", "y", "z")
COLOURS = ("red", "green", "blue", "alpha", "r", "g", "b", "a")
ORGANISED = "a grid of measurements, of which those without a point (NaN) are left out"
MOST_SWAPPED = 12  # rows of an array that are channels where it has more columns
CHECKED = 2**20  # points that are checked at once


@dataclass(frozen=True)
class Cloud:
    """Points (N, 3 + C): x, y, z, then further channels in the file's order, numbers of any type.

    They may be a memory map. `notes`: choices that were made in reading, in the same words for all such files.
    """

    points: np.ndarray
    _: KW_ONLY
    notes: Sequence[str] = ()


def open_binary(item: Item) -> BinaryIO:
    """The bytes of an item: an open file, or the member of an archive in memory."""
    if not is_plain(item):
        return io.BytesIO(item.open())
    if not Path(item.path).stat().st_size:
        raise BadSample("the file is empty (0 bytes)")
    return open(item.path, "rb")


def is_plain(item: Item) -> bool:
    """Whether an item is a whole file of its own."""
    return item.member is None and Path(item.path).is_file()


def join_columns(columns: dict[str, np.ndarray], where: str) -> np.ndarray:
    """Points (N, 3 + C) of columns (N,) by name: x, y, z, then the others in their order.

    Colours of whole numbers become shares of the largest of their type. Raises: BadSample without x, y and z.
    """
    names = axes_first(list(columns))
    if names is None:
        raise BadSample(f"{where} has {', '.join(columns) or 'no columns'}: a cloud needs x, y and z")

    kinds = [columns[name].dtype for name in AXES if name in columns]
    dtype = np.result_type(np.float32, *kinds)
    points = np.empty((len(columns[names[0]]), len(names)), dtype)
    for number, name in enumerate(names):
        points[:, number] = columns[name]
        if name.lower() in COLOURS and columns[name].dtype.kind == "u":
            points[:, number] /= np.iinfo(columns[name].dtype).max
    return points


def axes_first(names: Sequence[str]) -> list[str] | None:
    """The names with x, y and z, in either case, before all others; None where one of them is missing."""
    by_name = {name.strip().lower(): name for name in reversed(names)}
    if not all(axis in by_name for axis in AXES):
        return None
    axes = [by_name[axis] for axis in AXES]
    return axes + [name for name in names if name not in axes]


def checked(cloud: Cloud) -> Cloud:
    """The cloud, where it has at least two points, of at least three finite numbers. Raises: BadSample."""
    points = cloud.points
    needed = "a cloud is (points, 3 + channels), of numbers"
    if points.dtype.kind not in "fiu":
        raise BadSample(f"holds values of type {points.dtype}: {needed}")
    if points.ndim == 3 and len(points) > 1 and points.shape[2] >= 3:
        raise BadSample(f"holds {len(points)} clouds, {points.shape}: data.source.rows=true reads each as a sample")
    if points.ndim == 3 and len(points) == 1:
        points = points[0]
    if points.ndim == 2 and 3 <= len(points) <= MOST_SWAPPED < points.shape[1]:
        raise BadSample(f"holds an array of shape {points.shape}, whose axes are swapped: {needed}")
    if points.ndim != 2 or points.shape[1] < 3:
        raise BadSample(f"holds an array of shape {points.shape}: {needed}")
    if len(points) < 2:
        raise BadSample(f"holds {len(points) or 'no'} point: two or more are needed")

    _check_finite(points)
    return Cloud(points, notes=cloud.notes)


def _check_finite(points: np.ndarray) -> None:
    """Raises: BadSample where a number is NaN or infinite."""
    if points.dtype.kind != "f":
        return

    count, first = 0, -1
    for start in range(0, len(points), CHECKED):
        rows = np.flatnonzero(~np.isfinite(points[start : start + CHECKED]).all(1))
        if len(rows) and not count:
            first = start + int(rows[0])
        count += len(rows)
    if count:
        raise BadSample(
            f"{count} of its {len(points)} points are not finite (NaN or inf), the first is number {first}: "
            "remove them from the file"
        )
