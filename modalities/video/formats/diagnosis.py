"""Faults of video files that their bytes show."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from core.errors import BadSample


class Box(NamedTuple):
    """A top-level box of an MP4: its name, and whether the file reaches to its end."""

    name: bytes
    complete: bool


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[BinaryIO]:
    """The bytes of `source` as a file. Raises BadSample when it is empty or cannot be read."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115
    except OSError as error:
        raise BadSample(f"cannot be read: {error}") from error

    with file:
        if not file.read(1):
            raise BadSample("the file is empty (0 bytes)")
        file.seek(0)
        yield file


def diagnosis(source: str | Path | bytes) -> str:
    """The fault of a file that FFmpeg cannot open, in words."""
    with opened(source) as file:
        head = file.read(64)
        if head[4:8] == b"ftyp" and Box(b"moov", True) not in _boxes(file):
            return "an MP4 without a whole table of frames (moov), as left by a recording or download that was cut off"

    if head.isascii() and "".join(head.decode().split()).isprintable():
        return f"the file holds text: {head[:40].decode()!r}"
    return "no known video format, or damaged at the start"


def is_cut(source: str | Path | bytes) -> bool:
    """Whether the pictures of an MP4 (boxes `mdat`) go on behind its end."""
    with opened(source) as file:
        return Box(b"mdat", False) in _boxes(file)


def _boxes(file: BinaryIO) -> list[Box]:
    """The top-level boxes of an MP4.

    A box starts with its size in 4 bytes and its name in 4; size 1 stands for 8 more bytes of size, size 0
    for the rest of the file (ISO/IEC 14496-12).
    """
    boxes, position = [], 0
    end = file.seek(0, io.SEEK_END)

    while position < end:
        file.seek(position)
        head = file.read(16)
        size_field = head[8:] if head[:4] == b"\0\0\0\1" else head[:4]
        size = int.from_bytes(size_field, "big") or end - position

        position += max(size, 8)
        boxes.append(Box(head[4:8], complete=position <= end))

    return boxes
