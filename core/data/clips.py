"""Folders of numbered pictures, each of which is one clip: `clip_0001/00001.jpg`, `00002.jpg`, …"""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

NUMBER = re.compile(r"\d+(?=\D*$)")  # the last one in a name


class ClipFolders:
    """Which folders are clips: those that hold pictures, at least two, each with a number
    of its own in its name.

    `extensions`: of pictures; without any no folder is a clip.
    """

    def __init__(self, extensions: Sequence[str] = ()):
        self.extensions = tuple(extensions)
        self._numbers: dict[str, list[int] | None] = {}

    def __contains__(self, path: str | None) -> bool:
        return path is not None and self.numbers(path) is not None

    def numbers(self, path: str) -> list[int] | None:
        """The numbers of a clip's pictures, ascending; None where the path is no clip."""
        path = os.path.normpath(path)
        if path not in self._numbers:
            self._numbers[path] = self._read(path)
        return self._numbers[path]

    def in_place_of_pictures(self, files: Sequence[Path]) -> list[Path]:
        """The files, with a clip's folder where its first picture stood, in place of all of its pictures."""
        result: dict[Path, None] = {}  # an ordered set
        for file in files:
            is_frame = self.is_picture(file.name) and str(file.parent) in self
            result[file.parent if is_frame else file] = None
        return list(result)

    def is_picture(self, name: str) -> bool:
        return bool(self.extensions) and name.lower().endswith(self.extensions)

    def _read(self, path: str) -> list[int] | None:
        if not self.extensions or not os.path.isdir(path):
            return None

        numbers = []
        for name in os.listdir(path):
            if self.is_picture(name) and not name.startswith("."):
                numbers.append(number(name))
        if len(numbers) < 2 or None in numbers or len(set(numbers)) < len(numbers):
            return None
        return sorted(numbers)


def number(name: str) -> int | None:
    """The last number in a picture's name, without its extension."""
    match = NUMBER.search(os.path.splitext(name)[0])
    return None if match is None else int(match[0])


def has_gaps(numbers: Sequence[int]) -> bool:
    """Whether pictures are missing: the steps between their numbers differ."""
    steps = {after - before for before, after in pairwise(numbers)}
    return len(steps) > 1
