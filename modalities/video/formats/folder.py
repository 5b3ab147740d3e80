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
    Raises: BadSample for a folder without pictures, and for pictures that cannot be read or do not fit together.
    """

    fps = None

    def __init__(self, folder: Path, extensions: Sequence[str], keeps_alpha: bool = False):
        self.keeps_alpha = keeps_alpha
        try:
            paths = [path for path in folder.iterdir() if path.suffix.lower() in extensions and path.name[0] != "."]
        except OSError as error:
            raise BadSample(f"cannot be read: {error}") from error
        if not paths:
            raise BadSample("a folder without pictures")

        self.paths = sorted(paths, key=_order)
        self.frames = len(paths)

    def _read(self, indices: list[int]) -> Tensor:
        pictures = [self._picture(self.paths[index]) for index in indices]
        channels = max(len(picture) for picture in pictures)
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
    return (-1 if place is None else place, path.name)
