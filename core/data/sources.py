"""A sample before it is read (`Item`), and where samples come from (`Source`)."""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from core.data import archives, arrays
from core.data.account import Account
from core.errors import BadSample, UserError


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a file along time: [start, end) in seconds or frames from 0; `end` None: to the end."""

    start: float
    end: float | None
    unit: Literal["seconds", "frames"]

    def __str__(self) -> str:
        """Short, for keys: "1.5-4s", "30-90f"."""
        end = "" if self.end is None else f"{self.end:g}"
        return f"{self.start:g}-{end}{self.unit[0]}"


@dataclass(frozen=True, slots=True)
class Item:
    """One sample, not yet read: a file or part of one, a member of a tar or zip, or a row of an array file."""

    key: str  # unique in its source, stable, readable: "dogs/1.jpg", "videos.tar::a.mp4", "array.npy#17"
    path: str  # the file that holds it
    _: KW_ONLY
    member: str | None = None  # its name inside the archive at `path`, or the row of the array file ("17")
    # Class numbers {"label": 3}, or several answers {"label": (1, 0, -1)}, -1 unknown; empty: unlabelled.
    labels: Mapping[str, int | tuple[float, ...]] = field(default_factory=dict)
    aux: Mapping[str, str] = field(default_factory=dict)  # its further files: {"object": "…/17.object.npy"}
    group: str | None = None  # samples of one group (scene, person) belong on one side of a split
    span: tuple[int, int] | None = None  # offset and size of a member of a tar, in bytes
    part: Part | None = None  # the stretch that is the sample (`Reader.reads_parts`); None: the whole file

    @property
    def suffix(self) -> str:
        """Lower-case extension of the sample itself, with dot; ".npy" for a row of an array file."""
        if self.is_row:
            return ".npy"
        return PurePosixPath(self.member or self.path).suffix.lower()

    @property
    def is_row(self) -> bool:
        """Whether the sample is a row of an array file."""
        return self.member is not None and self.span is None and not archives.is_zip(self.path)

    def open(self) -> bytes:
        """The sample's raw bytes; a row as a .npy file. Raises: BadSample where there are none to read."""
        if self.is_row:
            buffer = io.BytesIO()
            np.save(buffer, self.array(), allow_pickle=False)
            return buffer.getvalue()

        try:
            content = self._bytes()
        except Exception as error:  # a damaged archive or disk raises anything; one file must not end a run
            raise BadSample(f"cannot be read: {error}") from error

        if not content:
            raise BadSample("the file is empty (0 bytes)")
        return content

    def array(self, name: str | None = None) -> np.ndarray:
        """A copy of the sample as an array: its row, the content of its .npy file, or one array of its .npz.

        `name`: which array of a .npz; None: the biggest. Never unpickles.
        Raises: BadSample where it is no array.
        """
        try:
            if self.member is not None and self.is_row:
                return arrays.read_row(self.path, self.member, name)
            return arrays.parse(self.open(), name)
        except BadSample:
            raise
        except Exception as error:
            raise BadSample(f"is no readable array: {error}") from error

    def _bytes(self) -> bytes:
        if self.member is None:
            return Path(self.path).read_bytes()
        if self.span is not None:
            return archives.read_span(self.path, self.span)
        return archives.read_zip(self.path, self.member)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting that the data at hand decide where the user does not, and why."""

    key: str  # as it would be typed: "batch_size"
    value: Any
    _: KW_ONLY
    reason: str

    @property
    def override(self) -> str:
        """As it would be typed: "modality.size=[64,64]"."""
        return f"{self.key}={self.value}".replace(" ", "")


class Source(ABC):
    """Where items come from; the config group `data`.

    `classes`: names of the classes of each label ({"label": ["cat", "dog"]}), the same for every split;
    available after the first call of `items`. `questions`: names of the yes/no questions of each label that
    has several, likewise. `held_out`: how the items of "test" are new to a method, for reports. `keep_last`:
    the last, smaller batch of an epoch counts too. `split_is_drawn`: whether the items of "test" are drawn at
    random, because the data mark none.
    """

    classes: dict[str, list[str]]
    questions: Mapping[str, list[str]] = MappingProxyType({})
    held_out: str = "samples that training does not read"
    keep_last: bool = False
    split_is_drawn: bool = False

    @abstractmethod
    def items(self, split: str) -> Sequence[Item]:
        """The items of "train" or "test", sorted by key. Raises: UserError where data cannot be read."""

    def defaults(self) -> Sequence[Setting]:
        """Settings that follow from the data, for runs whose user gives others no value. Raises: UserError."""
        return ()

    def account(self) -> Account:
        """What is read and what is left out; sources that leave anything out say so here."""
        samples = {}
        for split in ("train", "test"):
            with suppress(UserError):
                samples[split] = len(self.items(split))
        return Account(samples=samples, split_by=self.held_out, classes=self.classes)
