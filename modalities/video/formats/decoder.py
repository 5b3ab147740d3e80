"""Video decoders behind one small interface: `open_video`. Nothing else imports a decoder."""

import io
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import ModuleType
from typing import Literal, NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from torch import Tensor

from core.errors import BadSample, UserError
from modalities.video.formats.diagnosis import diagnosis, is_cut, opened
from modalities.video.formats.frames import Video
from modalities.video.formats.transport import Gap, decode_exactly, pieces
from modalities.video.formats.transport import gaps as find_gaps

Decoder = Literal["pyav", "decord"]
# Containers whose time stamps and key frames can be trusted. Not AVI: it has no display order, and FFmpeg's
# guess of it is wrong for B-frames.
STAMPED = ("mov", "matroska")
MARKED = ("h264", "hevc")  # codecs that mark frames which no other frame refers to, one packet per frame
RGB = ("rgb24", "gbrp")  # pixel formats that come as 8-bit RGB arrays by themselves
RAISED = (av.FFmpegError, OSError, ValueError, MemoryError)  # by PyAV, for bad files
MOST_LOST = 10_000  # frames that one gap is taken for; a larger jump is one of the clock
INDEXES = 4096  # files whose index is remembered in a process, a few kB each
# Titles and the like that are not UTF-8 are an error in PyAV up to 18, unless it is set to ignore them.
LENIENT = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}

# One bad file makes FFmpeg write thousands of lines; errors still come as exceptions.
av.logging.set_level(None)


def open_video(source: str | Path | bytes, decoder: Decoder = "pyav") -> Video:
    """Opens a file, or the bytes of one.

    Raises: BadSample with the reason; UserError where the decoder is missing.
    """
    with opened(source):
        pass  # it exists and is not empty

    if decoder == "pyav":
        return PyAVVideo(source)
    if decoder == "decord":
        return DecordVideo(source)
    raise UserError(f"modality.reader.decoder: there is no video decoder {decoder!r}; use pyav or decord.")


class Index(NamedTuple):
    """Names of all shown frames, ascending, and of the key frames among them.

    A frame's name is its time stamp; without keys, where stamps cannot be trusted, its number in decoding
    order. `gaps`: of an MPEG-TS. `lost`: frames that are missing or not exact.
    """

    frames: array
    keys: array
    gaps: tuple[Gap, ...] = ()
    lost: int = 0


_indexes: dict[tuple, Index] = {}  # least recently used first


class PyAVVideo(Video):
    """FFmpeg with an index of all packets: exact frames, or BadSample.

    Decodes in one thread and applies quarter turns and mirroring.

    A frame is identified by its time stamp; where that frame is not decoded, no other takes its place.
    Where time stamps or key frames cannot be trusted (AVI, MPEG-TS, …) decoded frames are counted from
    the first one on. Behind a gap in an MPEG-TS decoding starts anew, and what cannot be decoded
    exactly is a lost frame.

    The film is the stream that has most frames: pictures of a cover and the like are passed over.
    """

    def __init__(self, source: str | Path | bytes):
        self._source = source
        # One for all frames keeps its tables: a quarter of the time of a clip.
        self._convert = VideoReformatter()
        with _decoder_errors("PyAV", *RAISED):
            self._container = _container(source)
        try:
            with _decoder_errors("PyAV", *RAISED):
                self._film = _film(self._container, source)
                self._select()
                self._index = self._cached_index()
        except Exception:
            self.close()
            raise

        self.frames, self.lost = len(self._index.frames), self._index.lost
        self.fps = float(self._stream.average_rate or 0) or None
        if self._index.keys:
            self.times = _variable_times(np.array(self._index.frames) * float(self._stream.time_base))

    def close(self) -> None:
        self._container.close()

    def _reopen(self) -> None:
        """From the start of the file, with a decoder that has seen nothing."""
        self.close()
        self._container = _container(self._source)
        self._select()

    def _select(self) -> None:
        self._stream = self._container.streams[self._film]
        self._stream.codec_context.thread_count = 1

    def _cached_index(self) -> Index:
        """The index of the file, from memory where it has been opened before."""
        if isinstance(self._source, bytes):
            return self._scan()

        stat = Path(self._source).stat()
        name = (str(self._source), stat.st_mtime_ns, stat.st_size)
        index = _indexes.pop(name, None) or self._scan()
        _indexes[name] = index
        if len(_indexes) > INDEXES:
            del _indexes[next(iter(_indexes))]
        return index

    def _scan(self) -> Index:
        """Reads all packets; decodes only where time stamps cannot be trusted.

        Raises: BadSample for a file that is cut off, damaged or without frames.
        """
        kind = self._container.format.name
        if kind.startswith("mov") and is_cut(self._source):
            raise BadSample("is cut off: an MP4 that lists more frames than it holds")
        if kind == "mpegts":
            return self._scan_transport()

        times, keys = array("q"), array("q")
        trusted, incomplete = kind.startswith(STAMPED), None
        for number, packet in enumerate(self._container.demux(self._stream)):
            if not packet.size:  # the end
                continue
            if incomplete is not None:
                raise BadSample(f"is damaged: frame {incomplete} is incomplete")
            if packet.is_corrupt:  # the last frame of a recording that was cut off
                incomplete = number
                continue

            trusted &= packet.pts is not None
            if trusted and not packet.is_discard:
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)

        has_unique_times = len(set(times)) == len(times)
        if not (trusted and keys and has_unique_times):
            count = sum(1 for _ in self._walk(stamped=False))
            times, keys = array("q", range(count)), array("q")
        if not times:
            raise BadSample("holds no frames")
        return Index(array("q", sorted(times)), array("q", sorted(keys)))

    def _scan_transport(self) -> Index:
        """Decodes all of an MPEG-TS."""
        gaps = tuple(find_gaps(self._source, self._stream.id))
        packets = 0
        if any(not gap.is_join for gap in gaps):
            packets = sum(1 for packet in self._container.demux(self._stream) if packet.size)

        numbers = [number for number, _ in self._walk_transport(gaps)]
        if not numbers:
            raise BadSample("holds no frames that can be decoded exactly")
        count = numbers[-1] + 1
        lost = max(count, packets) - len(numbers)
        return Index(array("q", range(count)), array("q"), gaps=gaps, lost=lost)

    def _read(self, indices: list[int]) -> Tensor:
        names = [self._index.frames[index] for index in indices]
        with _decoder_errors("PyAV", *RAISED):
            pictures = self._jump(names)  # none where frames have no time stamps
            if len(pictures) < len(names):  # also where a jump led too far
                pictures = self._pick(self._walk(stamped=bool(self._index.keys)), set(names))

        for index, name in zip(indices, names, strict=True):
            if name not in pictures and self.lost:
                raise BadSample(f"frame {index} of {self.frames} is lost: {self.lost} are missing or damaged")
            if name not in pictures:
                raise BadSample(f"frame {index} of {self.frames} cannot be decoded: the decoder skips it")
        ordered = [pictures[name] for name in names]
        if any(picture.shape != ordered[0].shape for picture in ordered):
            raise BadSample("its frame size changes on the way")
        return torch.from_numpy(np.stack(ordered))

    def _jump(self, times: list[int]) -> dict[int, np.ndarray]:
        """Pictures by time stamp, decoded from the last key frame before each time."""
        pictures = {}
        for key, group in groupby(times, lambda time: bisect_right(self._index.keys, time)):
            if key:
                self._container.seek(self._index.keys[key - 1], stream=self._stream)
                stamps = set(group)
                pictures |= self._pick(self._decode(stamps), stamps)
        return pictures

    def _walk(self, stamped: bool) -> Iterator[tuple[int, av.VideoFrame]]:
        """All frames by name from the start of the file, which is opened anew."""
        if self._container.format.name == "mpegts":
            yield from self._walk_transport(self._index.gaps)
            return

        self._reopen()
        for number, frame in enumerate(self._decode_all()):
            if stamped:
                number = frame.pts
            yield number, frame

    def _walk_transport(self, gaps: Sequence[Gap]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames of an MPEG-TS by number, from its start, as far as they are decoded exactly.

        In a file with gaps time stamps give the numbers, so that lost frames are counted too.
        """
        self._reopen()
        codec, ticks = self._stream.codec_context, 0.0
        codec.options = {"err_detect": "explode"}
        if gaps and self._stream.average_rate:
            ticks = float(1 / self._stream.average_rate / self._stream.time_base)

        number, origin = -1, None  # of the last frame; time stamp of frame 0
        packets = self._container.demux(self._stream)
        for piece, is_joined in pieces(packets, gaps, notices_loss=codec.name == "h264"):
            if is_joined:  # another clock
                origin = None
            for frame in decode_exactly(codec, piece):
                if frame is None:
                    continue

                number += 1
                if ticks and None not in (origin, frame.pts):
                    place = round((frame.pts - origin) / ticks)
                    if number < place < number + MOST_LOST:
                        number = place
                if frame.pts is not None:
                    origin = frame.pts - number * ticks
                yield number, frame

    def _decode_all(self) -> Iterator[av.VideoFrame]:
        """Frames from the container's position on, without the incomplete last one of a file cut off."""
        for packet in self._container.demux(self._stream):
            if not packet.is_corrupt:
                yield from packet.decode()

    def _decode(self, times: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames by time stamp, from the container's position on.

        Skips frames outside `times` that no other frame refers to: a quarter of the work at stride 4.
        """
        codec = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                continue
            if codec.name in MARKED:
                codec.skip_frame = "NONREF"
                if packet.pts in times:
                    codec.skip_frame = "DEFAULT"
            for frame in packet.decode():
                yield frame.pts, frame

    def _pick(self, frames: Iterable[tuple[int, av.VideoFrame]], names: set[int]) -> dict[int, np.ndarray]:
        """Pictures of the frames with these names, as far as `frames` has them.

        Raises: BadSample for a damaged frame, and for those up to the next key frame, which may refer to it.
        """
        pictures, last, damage = {}, max(names), None
        for name, frame in frames:
            if frame.is_corrupt:
                damage = frame.time
            elif frame.key_frame:
                damage = None
            if name in names and damage is not None:
                raise BadSample(f"the frame at {damage:.3f} s is damaged")
            if name in names:
                pictures[name] = self._picture(frame)
            if name is not None and name >= last:
                break
        return pictures

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        if frame.format.name not in RGB:
            frame = self._convert.reformat(frame, format="rgb24", threads=1)

        picture = frame.to_ndarray()
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return picture
        return _upright(picture, np.frombuffer(matrix, np.int32))


class DecordVideo(Video):
    """decord, for recipes that must read as they were published.

    It silently gives wrong frames of open GOPs, HEVC, AVI with B-frames, MPEG-TS and edited MP4s: prefer
    PyAV.
    """

    def __init__(self, source: str | Path | bytes):
        try:
            import decord
        except ImportError as error:
            raise UserError(
                "modality.reader.decoder=decord: decord is not installed. Install it by "
                '`pip install "lacuna-ssl[video]"`, or set modality.reader.decoder=pyav.'
            ) from error

        decord.logging.set_level(decord.logging.QUIET)
        self._video = self._copy = None
        try:
            self._open(source, decord)
        except Exception:
            self.close()
            raise

    def _open(self, source: str | Path | bytes, decord: ModuleType) -> None:
        with _decoder_errors("PyAV", *RAISED), _container(source) as container:
            _film(container, source)  # decord would print a line about each file that it cannot open

        path = source
        if isinstance(source, bytes):  # decord crashes the process on some damaged files in memory
            self._copy = NamedTemporaryFile()  # noqa: SIM115
            self._copy.write(source)
            self._copy.flush()
            path = self._copy.name

        with _decoder_errors("decord", Exception):
            self._video = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            self.frames = len(self._video)
            self.fps = float(self._video.get_avg_fps()) or None
        if not self.frames:
            raise BadSample("holds no frames")

    def close(self) -> None:
        self._video = None
        if self._copy:
            self._copy.close()

    def _read(self, indices: list[int]) -> Tensor:
        with _decoder_errors("decord", Exception):
            return torch.from_numpy(self._video.get_batch(indices).asnumpy())


@contextmanager
def _decoder_errors(decoder: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turns a decoder's exceptions of these kinds into BadSample."""
    try:
        yield
    except BadSample:
        raise
    except kinds as error:
        text = " ".join(str(error).split())
        raise BadSample(f"{decoder} cannot decode it: {type(error).__name__}: {text[:300]}") from error


def _container(source: str | Path | bytes) -> InputContainer:
    """The file opened by FFmpeg. Raises BadSample where it cannot, or where nothing in it can be decoded."""
    try:
        file: io.BytesIO | str = str(source)
        if isinstance(source, bytes):
            file = io.BytesIO(source)
        container = av.open(file, **LENIENT)
    except av.error.InvalidDataError as error:
        raise BadSample(f"FFmpeg cannot open it ({error.strerror}): {diagnosis(source)}") from error

    if not container.streams.video:
        kinds = ", ".join(stream.type for stream in container.streams)
        container.close()
        raise BadSample(f"holds no video stream (streams: {kinds or 'none'})")
    return container


def _film(container: InputContainer, source: str | Path | bytes) -> int:
    """Index of the video stream with most frames, the first of several; covers and thumbnails are none."""
    streams = []
    for stream in container.streams.video:
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails):
            streams.append(stream)
    if not streams:
        raise BadSample("holds a cover picture and no film")

    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:  # decoding it could crash the process
        raise BadSample(f"FFmpeg has no codec for its video stream: {diagnosis(source)}")
    if len(streams) == 1:
        return streams[0].index

    counts = dict.fromkeys((stream.index for stream in streams), 0)
    with _container(source) as copy:
        for packet in copy.demux([copy.streams[index] for index in counts]):
            counts[packet.stream_index] += packet.size > 0
    return max(counts, key=counts.__getitem__)


def _variable_times(times: np.ndarray) -> np.ndarray | None:
    """Seconds from the first frame; None where the rate is constant: no frame is off by half an interval."""
    times = times - times[0]
    if len(times) < 3:
        return None
    places = np.linspace(0, times[-1], len(times))
    if np.abs(times - places).max() <= places[1] / 2:
        return None
    return times


def _upright(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The picture in its display orientation.

    `matrix` holds nine numbers: x' = m0 x + m3 y + m6, y' = m1 x + m4 y + m7.
    """
    x, y = matrix[0], matrix[4]
    if abs(matrix[1]) > abs(matrix[0]):  # a quarter turn
        picture = picture.swapaxes(0, 1)
        x, y = matrix[3], matrix[1]

    if y < 0:
        picture = picture[::-1]
    if x < 0:
        picture = picture[:, ::-1]
    return picture
