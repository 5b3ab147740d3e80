"""A video as numbered frames, wherever they come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
from torch import Tensor

from core.data.sources import Part
from core.errors import BadSample

NEARLY = 1e-6  # seconds, for times written with few digits


class Video(ABC):
    """An open video: frames 0 to `frames` - 1.

    Open it where it is read and close it: it cannot be pickled, forked or shared between threads.
    """

    frames: int  # at least 1
    fps: float | None  # mean frame rate; None where the file has none
    times: np.ndarray | None = None  # seconds from the first frame, where frames do not follow at a constant rate
    lost: int = 0  # frames of a damaged file that are missing or not exact, among the numbered ones or behind them

    @abstractmethod
    def _read(self, indices: list[int]) -> Tensor:
        """Frames `indices` (ascending, unique, in range) as uint8 (n, H, W, C)."""

    def get(self, indices: Sequence[int]) -> Tensor:
        """These frames in this order, repeats allowed: uint8 (n, H, W, C), from files of films RGB.

        Raises: BadSample when one of them cannot be decoded, IndexError when there is no such frame.
        """
        unique = sorted(set(indices))
        if unique[0] < 0 or unique[-1] >= self.frames:
            raise IndexError(f"frames {unique[0]} to {unique[-1]} of a video of {self.frames}")

        pictures = self._read(unique)
        if unique == list(indices):
            return pictures
        return pictures[np.searchsorted(unique, indices)]

    @abstractmethod
    def close(self) -> None:
        """Frees the file; no frame can be read afterwards."""

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class MemoryVideo(Video):
    """A decoded video in memory: uint8 (T, H, W, C)."""

    def __init__(self, pictures: Tensor, fps: float | None = None, times: np.ndarray | None = None):
        self.pictures, self.fps, self.times, self.frames = pictures, fps, times, len(pictures)
        self.nbytes = pictures.nbytes

    def _read(self, indices: list[int]) -> Tensor:
        return self.pictures[indices]

    def close(self) -> None:
        """Does nothing: no file is open."""


class FileVideo(Video):
    """A video in a file that `opener` opens only while frames are read; `video` is the same, opened once before."""

    nbytes = 0

    def __init__(self, opener: Callable[[], Video], video: Video):
        self.opener = opener
        self.frames, self.fps, self.times, self.lost = video.frames, video.fps, video.times, video.lost

    def _read(self, indices: list[int]) -> Tensor:
        with self.opener() as video:
            return video.get(indices)

    def close(self) -> None:
        """Does nothing: the file is closed after every read."""


class PartVideo(Video):
    """Frames `start` to `end` - 1 of another video, which it closes."""

    def __init__(self, video: Video, start: int, end: int):
        self.video, self.start = video, start
        self.frames, self.fps, self.lost = end - start, video.fps, video.lost
        if video.times is not None:
            self.times = video.times[start:end] - video.times[start]

    def _read(self, indices: list[int]) -> Tensor:
        return self.video.get([self.start + index for index in indices])

    def close(self) -> None:
        self.video.close()


def cut(video: Video, part: Part) -> PartVideo:
    """The frames of a part: those shown from its start on, before its end, which may lie beyond the video's.

    Raises: BadSample where there are none, or where seconds are given and the frame rate is not known.
    """
    ends = [_frame_at(video, part.start, part.unit), video.frames]
    if part.end is not None:
        ends[1] = min(ends[1], _frame_at(video, part.end, part.unit))

    start, end = max(ends[0], 0), ends[1]
    if start >= end:
        raise BadSample(f"the part {part} holds none of its {video.frames} frames")
    return PartVideo(video, start, end)


def _frame_at(video: Video, place: float, unit: str) -> int:
    """The first frame that is shown at `place` or later."""
    if unit == "frames":
        return ceil(place)
    if video.times is not None:
        return int(np.searchsorted(video.times, place - NEARLY))
    if video.fps is None:
        raise BadSample("its frame rate is not known, which a part in seconds needs")
    return ceil((place - NEARLY) * video.fps)
