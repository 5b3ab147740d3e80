"""A folder of numbered pictures as a video: `clip_0001/00001.jpg`, `00002.jpg`, …"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.clips import number
from core.errors import BadSample
from modalities.image.formats.files import read_picture
from modalities.image.formats.picture import DEEP, on_black, to_bytes
from modalities.video.formats.frames import Video


class FrameFolder(Video):
    """The pictures of a folder in the order of their numbers; they must be of one size. It has no frame rate.

    `extensions`: of pictures. `keeps_alpha`: opacity stays a channel; else pictures are composited on black.
    Raises: BadSample for a folder without pictures, and for pictures that are unreadable or differ in size.
    """

    fps = None

    def __init__(self, folder: Path, extensions: Sequence[str], keeps_alpha: bool = False):
        self.keeps_alpha = keeps_alpha
        self.paths: list[Path] = []
        try:
            for path in sorted(folder.iterdir(), key=_order):
                if path.suffix.lower() in extensions and not path.name.startswith("."):
                    self.paths.append(path)
        except OSError as error:
            raise BadSample(f"cannot be read: {error}") from error

        self.frames = len(self.paths)
        if not self.frames:
            raise BadSample("a folder without pictures")

    def _read(self, indices: list[int]) -> Tensor:
        pictures = [self._picture(self.paths[index]) for index in indices]
        channels = max(map(len, pictures))
        for position, picture in enumerate(pictures):
            if len(picture) == 1:  # grey among colour
                pictures[position] = np.repeat(picture, channels, axis=0)

        shapes = {picture.shape for picture in pictures}
        if len(shapes) > 1:
            raise BadSample(f"its pictures have different shapes: {sorted(shapes)} (channels, height, width)")
        return torch.from_numpy(np.stack(pictures)).permute(0, 2, 3, 1)

    def close(self) -> None:
        """Does nothing: no file is open."""

    def _picture(self, path: Path) -> np.ndarray:
        """uint8 (C, h, w)."""
        try:
            picture = read_picture(path.read_bytes(), path.suffix.lower())
        except OSError as error:
            raise BadSample(f"{path.name} cannot be read: {error}") from error
        except BadSample as error:
            raise BadSample(f"{path.name} {error}") from error

        pixels = to_bytes(picture.values, DEEP)
        if picture.alpha and not self.keeps_alpha:
            return on_black(pixels)
        return pixels


def _order(path: Path) -> tuple[int, str]:
    """The number in the name, however many digits it has; pictures without one come first."""
    place = number(path.name)
    if place is None:
        place = -1
    return place, path.name
