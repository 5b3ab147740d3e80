"""A video as numbered frames, wherever they come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor


class Video(ABC):
    """An open video: frames 0 to `frames` - 1.

    Open it where it is read and close it: it cannot be pickled, forked or shared between threads.
    """

    frames: int  # at least 1
    fps: float | None  # mean frame rate; None where the file has none

    @abstractmethod
    def _read(self, indices: list[int]) -> Tensor:
        """Frames `indices` (ascending, unique, in range) as uint8 (n, H, W, 3)."""

    def get(self, indices: Sequence[int]) -> Tensor:
        """These frames in this order, repeats allowed: uint8 RGB (n, H, W, 3).

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
    """A decoded video in memory: uint8 (T, H, W, 3)."""

    def __init__(self, pictures: Tensor, fps: float | None = None):
        self.pictures, self.fps, self.frames = pictures, fps, len(pictures)
        self.nbytes = pictures.nbytes

    def _read(self, indices: list[int]) -> Tensor:
        return self.pictures[indices]

    def close(self) -> None:
        """Does nothing: no file is open."""


class FileVideo(Video):
    """A video in a file that `opener` opens only while frames are read."""

    nbytes = 0

    def __init__(self, opener: Callable[[], Video], frames: int, fps: float | None):
        self.opener, self.frames, self.fps = opener, frames, fps

    def _read(self, indices: list[int]) -> Tensor:
        with self.opener() as video:
            return video.get(indices)

    def close(self) -> None:
        """Does nothing: the file is closed after every read."""
