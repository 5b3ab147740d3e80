"""What is wrong with a video file, as far as a look at its bytes tells."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from core.errors import BadSample


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[BinaryIO]:
    """The bytes of `source`. Raises BadSample when they cannot be read or are none."""
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
    """In words."""
    with opened(source) as file:
        head = file.read(64)
        if head[4:8] == b"ftyp" and (b"moov", True) not in _boxes(file):
            return "an MP4 without a whole table of frames (moov), as left by a recording or download that was cut off"
    if head.isascii() and "".join(head.decode().split()).isprintable():
        return f"the file holds text: {head[:40].decode()!r}"
    return "no video format it knows, or damaged at the start"


def is_cut(source: str | Path | bytes) -> bool:
    """Whether the pictures of an MP4 (boxes `mdat`) go on behind its end."""
    with opened(source) as file:
        return (b"mdat", False) in _boxes(file)


def _boxes(file: BinaryIO) -> list[tuple[bytes, bool]]:
    """The top-level boxes of an MP4: name, and whether all of it is there."""
    boxes, position, end = [], 0, file.seek(0, io.SEEK_END)
    while position < end:
        file.seek(position)
        head = file.read(16)
        size = int.from_bytes(head[8:] if head[:4] == b"\0\0\0\1" else head[:4], "big") or end - position
        position += max(size, 8)
        boxes.append((head[4:8], position <= end))
    return boxes
