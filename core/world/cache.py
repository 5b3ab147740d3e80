"""A folder of files that are made once: atomic, resumable, safe for several processes at a time."""

import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from core.errors import UserError
from core.files import write_atomic
from core.world.workers import map_parallel

Make = Callable[[Sequence[int]], Iterable[Mapping[str, bytes]]]  # indices -> contents of their files by suffix
STALE = 3600.0  # seconds after which a half-written file belongs to no living process


class Cache:
    """The samples of one kind and one split: sample i is the files `{i:06d}{suffix}`, one for each suffix.

    Suffixes are written in their order. A file gets its name only when it is complete, so a file with a
    name is never made again, unless it is empty (after a power failure a file can lose its content).
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]):
        self.folder = folder
        self.suffixes = suffixes

    def path(self, index: int, suffix: str) -> Path:
        return self.folder / f"{index:06d}{suffix}"

    def missing(self, count: int) -> list[int]:
        """Indices below `count` of samples without one of their files."""
        if not self.folder.is_dir():
            return list(range(count))

        present: set[str] = set()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                # Half-written files are passed over: another process may rename one at any moment.
                if not entry.name.startswith(".") and entry.stat().st_size:
                    present.add(entry.name)

        missing = []
        for index in range(count):
            names = {self.path(index, suffix).name for suffix in self.suffixes}
            if not names <= present:
                missing.append(index)
        return missing

    def fill(self, count: int, make: Make, chunk_size: int) -> None:
        """Makes the missing ones of the first `count` samples, `chunk_size` at a time.

        Raises: UserError where the folder cannot be written to.
        """
        try:
            missing = self.missing(count)
            if missing:
                self._fill(missing, make, chunk_size)
        except OSError as error:
            raise UserError(
                f"cannot keep generated samples in {self.folder}: {error.strerror or error}. Set data.source.root, "
                "or the environment variable LACUNA_CACHE, to a folder that can be written to and has room."
            ) from error

    def _fill(self, missing: Sequence[int], make: Make, chunk_size: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_stale()

        # Processes that fill the same folder start at different places, and skip samples already there.
        chunks = [missing[start : start + chunk_size] for start in range(0, len(missing), chunk_size)]
        random.Random(os.getpid()).shuffle(chunks)

        # Closing ends the workers at once, also on an error.
        counts = map_parallel(partial(self._make, make), chunks)
        with _progress(len(missing), self.folder) as advance, closing(counts):
            for count in counts:
                advance(count)

    def _make(self, make: Make, chunk: Sequence[int]) -> int:
        """Makes the samples that are still missing; returns the length of the chunk, for progress."""
        missing = [index for index in chunk if not self._is_complete(index)]
        for index, contents in zip(missing, make(missing), strict=True):
            for suffix in self.suffixes:
                write_atomic(self.path(index, suffix), contents[suffix], durable=False)
        return len(chunk)

    def _is_complete(self, index: int) -> bool:
        for suffix in self.suffixes:
            path = self.path(index, suffix)
            if not path.exists() or not path.stat().st_size:
                return False
        return True

    def _remove_stale(self) -> None:
        """Removes files that killed processes left half written."""
        for path in self.folder.glob(".*.part"):
            with suppress(FileNotFoundError):  # another process finished or removed it
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()


@contextmanager
def _progress(count: int, folder: Path) -> Iterator[Callable[[int], None]]:
    """A progress bar in a terminal, else a line before and after; on stderr, since stdout is for results."""
    if sys.stderr.isatty():
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("making samples", total=count)
            yield lambda done: bar.advance(task, done)
        return

    print(f"making {count} samples in {folder}", file=sys.stderr, flush=True)
    start = time.monotonic()
    yield lambda done: None
    print(f"made {count} samples in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
