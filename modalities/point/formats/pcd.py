""".pcd of the Point Cloud Library: ascii, binary and binary_compressed.

Source: pointclouds.org, "The PCD (Point Cloud Data) file format".
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from core.data.sources import Item
from core.errors import BadSample
from modalities.point.formats.cloud import ORGANISED, Cloud, join_columns, open_binary

MOST_HEADER = 64  # lines
PADDING = "_"  # the name of fields that hold nothing
PACKED = ("rgb", "rgba")  # four bytes in one number: blue, green, red, opacity


@dataclass(frozen=True, kw_only=True)
class Header:
    """Fields of a point in their order; `organised`: points are a grid, with NaN where nothing was measured."""

    names: Sequence[str]
    types: Sequence[np.dtype]
    counts: Sequence[int]
    points: int
    encoding: str
    organised: bool

    @property
    def dtype(self) -> np.dtype:
        """One point. Fields of the same name, and padding, are told apart by their numbers."""
        fields = []
        for number, (kind, count) in enumerate(zip(self.types, self.counts, strict=True)):
            fields.append((str(number), kind, (count,)))
        return np.dtype(fields)


def read(item: Item) -> Cloud:
    """x, y, z, then the other fields, a column for each of their values; packed colours as red, green, blue."""
    with open_binary(item) as stream:
        header = _read_header(stream)
        if header.encoding == "ascii":
            values = _ascii(stream, header)
        elif header.encoding == "binary":
            values = _binary(stream, header)
        else:
            values = _compressed(stream, header)

    columns: dict[str, np.ndarray] = {}
    for number, name in enumerate(header.names):
        if name != PADDING:
            columns |= _columns(name, values[str(number)])
    points = join_columns(columns, "the file")
    if not header.organised:
        return Cloud(points)

    is_point = np.isfinite(points[:, :3]).all(1)
    if is_point.all():
        return Cloud(points)
    return Cloud(points[is_point], notes=(ORGANISED,))


def _read_header(stream: BinaryIO) -> Header:
    entries: dict[str, list[str]] = {}
    for _ in range(MOST_HEADER):
        line = stream.readline().decode("latin-1").partition("#")[0].split()
        if line:
            entries[line[0].upper()] = line[1:]
        if "DATA" in entries:
            break
    for key in ("FIELDS", "SIZE", "TYPE", "DATA"):
        if not entries.get(key):
            raise BadSample(f"its header has no {key}: it is no PCD, or is cut")

    names, counts = entries["FIELDS"], list(map(int, entries.get("COUNT", ["1"] * len(entries["FIELDS"]))))
    sizes, kinds = entries["SIZE"], entries["TYPE"]
    if len({len(names), len(sizes), len(kinds), len(counts)}) > 1:
        raise BadSample("its header's FIELDS, SIZE, TYPE and COUNT are of unlike length")
    types = [np.dtype(f"<{kind.lower()}{size}") for kind, size in zip(kinds, sizes, strict=True)]

    width, height = int(_entry(entries, "WIDTH", "0")), int(_entry(entries, "HEIGHT", "1"))
    encoding = entries["DATA"][0].lower()
    if encoding not in ("ascii", "binary", "binary_compressed"):
        raise BadSample(f"its header has DATA {encoding}: ascii, binary and binary_compressed are read")
    return Header(
        names=names,
        types=types,
        counts=counts,
        points=int(_entry(entries, "POINTS", str(width * height))),
        encoding=encoding,
        organised=height > 1,
    )


def _entry(entries: Mapping[str, Sequence[str]], key: str, default: str) -> str:
    return next(iter(entries.get(key, [])), default)


def _columns(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of one field (N, count)."""
    if name.lower() in PACKED and values.dtype.itemsize == 4 and values.shape[1] == 1:
        parts = np.ascontiguousarray(values[:, 0]).view(np.uint8).reshape(-1, 4)
        return {"red": parts[:, 2], "green": parts[:, 1], "blue": parts[:, 0]}
    if values.shape[1] == 1:
        return {name: values[:, 0]}
    return {f"{name}_{number}": values[:, number] for number in range(values.shape[1])}


def _ascii(stream: BinaryIO, header: Header) -> np.ndarray:
    """A line for each point."""
    values = np.zeros(header.points, header.dtype)
    width = sum(header.counts)
    rows = np.loadtxt(stream, ndmin=2, max_rows=header.points, dtype=np.float64)
    if rows.shape != (header.points, width):
        raise BadSample(f"is cut: it has {len(rows)} of {header.points} points, {width} numbers each")

    start = 0
    for number, count in enumerate(header.counts):
        values[str(number)] = rows[:, start : start + count]
        start += count
    return values


def _binary(stream: BinaryIO, header: Header) -> np.ndarray:
    content = stream.read(header.points * header.dtype.itemsize)
    _check_size(len(content), header)
    return np.frombuffer(content, header.dtype)


def _compressed(stream: BinaryIO, header: Header) -> np.ndarray:
    """All values of the first field, then of the next, packed by LZF."""
    sizes = stream.read(8)
    if len(sizes) < 8:
        raise BadSample("is cut after its header")
    packed_size, size = struct.unpack("<II", sizes)
    if size != header.points * header.dtype.itemsize:
        raise BadSample(f"holds {size} bytes: its header tells {header.points} points")
    packed = stream.read(packed_size)
    if len(packed) < packed_size:
        raise BadSample(f"is cut: it has {len(packed)} of {packed_size} bytes")
    content = unpack(packed, size)

    values, start = np.zeros(header.points, header.dtype), 0
    for number, (kind, count) in enumerate(zip(header.types, header.counts, strict=True)):
        column = np.frombuffer(content, kind, header.points * count, start)
        values[str(number)] = column.reshape(header.points, count)
        start += column.nbytes
    return values


def _check_size(size: int, header: Header) -> None:
    count = size // max(1, header.dtype.itemsize)
    if count < header.points:
        raise BadSample(f"is cut: it has {count} of {header.points} points")


def unpack(packed: bytes, size: int) -> bytes:
    """`size` bytes out of LZF: literal runs, and copies of earlier bytes.

    Control byte c < 32: c + 1 literal bytes follow. Else a copy of (c >> 5) + 2 bytes, where 7 is extended by the
    next byte, from ((c & 31) << 8) + next byte + 1 behind the end. Raises: BadSample for damaged data.
    """
    result, place = bytearray(), 0
    try:
        while place < len(packed):
            control = packed[place]
            place += 1
            if control < 32:
                result += packed[place : place + control + 1]
                place += control + 1
                continue

            length = control >> 5
            if length == 7:
                length += packed[place]
                place += 1
            distance = ((control & 31) << 8) + packed[place] + 1
            place += 1
            _repeat(result, length + 2, distance)
    except IndexError as error:
        raise BadSample("its compressed data are damaged") from error

    if len(result) != size:
        raise BadSample(f"its compressed data are damaged: {len(result)} of {size} bytes")
    return bytes(result)


def _repeat(result: bytearray, length: int, distance: int) -> None:
    """Appends `length` bytes from `distance` before the end, which may overlap with themselves."""
    start = len(result) - distance
    if start < 0:
        raise IndexError(start)
    piece = result[start : start + length]
    while len(piece) < length:
        piece += piece[: length - len(piece)]
    result += piece
