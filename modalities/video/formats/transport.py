"""MPEG transport streams with gaps: where they are, and the frames that are decoded exactly all the same.

The counters of the packets show gaps (ISO/IEC 13818-1, 2.4.3).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av import FFmpegError, Packet, VideoCodecContext, VideoFrame
from av.video.frame import PictureType

PACKET = 188  # bytes
SYNC = 0x47  # the first byte of every packet
LENGTHS = (PACKET, 192, 204)  # plain; after four bytes of time (M2TS); before error correction
TABLES = range(0x20)  # streams of tables, of which every piece begins with some (PAT, SDT)


class Gap(NamedTuple):
    """A place where packets are missing.

    `position`: the byte behind it. `in_frame`: the frame before it goes on behind it, and so is incomplete.
    `is_join`: two streams were joined here, nothing is lost.
    """

    position: int
    in_frame: bool
    is_join: bool


def gaps(source: str | Path | bytes, stream: int) -> list[Gap]:
    """The gaps of one stream by its number (PID), in order; none where the file is no transport stream."""
    content = _content(source)
    length, start = _framing(content)
    if length == 0:
        return []

    packets = content[start : start + (len(content) - start) // length * length].reshape(-1, length)
    heads = packets[:, :6].astype(np.int64)  # the only copy
    streams = (heads[:, 1] & 0x1F) << 8 | heads[:, 2]
    breaks = _breaks(heads, streams, stream)

    # The counters of tables jump too where another stream begins; these packets come just before.
    table_breaks: list[int] = []
    if breaks:
        for table in TABLES:
            table_breaks.extend(_breaks(heads, streams, table))
    rows = np.flatnonzero(streams == stream)
    result = []
    for row in breaks:
        previous = rows[np.searchsorted(rows, row) - 1]
        is_start = bool(heads[row, 1] & 0x40)
        is_join = is_start and any(previous < table <= row for table in table_breaks)
        result.append(Gap(start + int(row) * length, in_frame=not is_start, is_join=is_join))
    return result


def _content(source: str | Path | bytes) -> np.ndarray:
    if isinstance(source, bytes):
        return np.frombuffer(source, np.uint8)
    return np.memmap(source, np.uint8, "r")


def _framing(content: np.ndarray) -> tuple[int, int]:
    """Length of the packets and byte of the first; length 0 where there are none."""
    for length in LENGTHS:
        for start in range(min(length, len(content))):
            if len(content) > start + length and (content[start : start + 5 * length : length] == SYNC).all():
                return length, start
    return 0, 0


def _breaks(heads: np.ndarray, streams: np.ndarray, stream: int) -> list[int]:
    """Packets of a stream whose counter does not follow, or that are marked as broken or as not following."""
    has_payload = heads[:, 3] & 0x10 != 0
    rows = np.flatnonzero((streams == stream) & has_payload)
    counters = heads[rows, 3] & 0xF
    steps = np.diff(counters) % 16

    # A packet may be sent twice with the same number.
    jumps = np.isin(steps, (0, 1), invert=True)
    broken = heads[rows, 1] & 0x80 != 0
    return sorted({*(rows[1:][jumps]).tolist(), *rows[broken].tolist()})


def pieces(packets: Iterable[Packet], gaps: Sequence[Gap], notices_loss: bool) -> Iterator[tuple[list[Packet], bool]]:
    """The frames between gaps, as packets, without those that a gap cut; whether a piece begins at a join.

    `notices_loss`: the decoder notices that the end of a frame is missing. Where it does not, the frame
    before a gap is left out too.
    """
    piece: list[Packet] = []
    position, number, is_joined = 0, 0, False
    positions: list[int] = []  # of the packets of this piece; a frame without one lies with the frame before
    for packet in packets:
        if not packet.size:
            continue

        if packet.pos is not None:
            position = packet.pos
        while number < len(gaps) and gaps[number].position <= position:
            gap = gaps[number]
            yield _whole(piece, positions, gap, notices_loss), is_joined
            piece, positions, is_joined = [], [], gap.is_join
            number += 1
        piece.append(packet)
        positions.append(position)

    if number < len(gaps):  # inside the last frame
        piece = _whole(piece, positions, gaps[number], notices_loss)
    yield piece, is_joined


def decode_exactly(codec: VideoCodecContext, packets: Sequence[Packet]) -> Iterator[VideoFrame | None]:
    """The frames of a piece that are decoded without error, as are those they refer to;
    None where any is lost.

    `codec` must treat errors as such (`err_detect=explode`); it is flushed at the end.
    """
    is_whole = True  # so are the frames that the next ones refer to
    for packet in [*packets, None]:
        for frame in _decode(codec, packet):
            if frame is None or frame.is_corrupt:
                is_whole = False
            elif frame.pict_type == PictureType.I:
                is_whole = True
            yield frame if is_whole else None
    codec.flush_buffers()


def _decode(codec: VideoCodecContext, packet: Packet | None) -> Iterator[VideoFrame | None]:
    """The frames that come out as a packet goes in; behind an error the decoder starts anew, after a None."""
    try:
        yield from codec.decode(packet)
    except FFmpegError:
        with suppress(FFmpegError):
            yield from codec.decode(None)  # frames before the error
        codec.flush_buffers()
        yield None


def _whole(piece: list[Packet], positions: list[int], gap: Gap, notices_loss: bool) -> list[Packet]:
    """The piece before a gap without the frame that it cut, or may have cut."""
    if not piece or not (gap.in_frame or not (gap.is_join or notices_loss)):
        return piece
    end = positions.index(positions[-1])
    return piece[:end]
