"""A folder of files that are made once and kept: atomic, resumable, safe for several processes at a time."""

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
from core.world.workers import each

Make = Callable[[Sequence[int]], Iterable[Mapping[str, bytes]]]  # of each of these samples: contents of files by suffix
HOUR = 3600.0


class Cache:
    """The samples of one kind and one split: sample i is the files `{i:06d}{suffix}`, one for each suffix.

    Suffixes are written in their order. A file gets its name only when it is whole, so whatever has a name is never
    made again; an empty one is (after a power failure a file can lose its content).
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]):
        self.folder = folder
        self.suffixes = suffixes

    def path(self, index: int, suffix: str) -> Path:
        return self.folder / f"{index:06d}{suffix}"

    def missing(self, count: int) -> list[int]:
        """Which of the first `count` samples lack a file."""
        if not self.folder.is_dir():
            return list(range(count))
        with os.scandir(self.folder) as entries:
            # Half-written files are passed over: another process may rename one at any moment.
            present = {entry.name for entry in entries if not entry.name.startswith(".") and entry.stat().st_size}
        return [i for i in range(count) if any(self.path(i, suffix).name not in present for suffix in self.suffixes)]

    def fill(self, count: int, make: Make, together: int) -> None:
        """Makes what is missing of the first `count` samples, `together` at a time.

        Raises: UserError where the folder cannot be written to.
        """
        try:
            missing = self.missing(count)
            if missing:
                self._fill(missing, make, together)
        except OSError as error:
            raise UserError(
                f"cannot keep generated samples in {self.folder}: {error.strerror or error}. Set data.root, or the "
                "environment variable LACUNA_CACHE, to a folder that can be written to and has room."
            ) from error

    def _fill(self, missing: Sequence[int], make: Make, together: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        parts = [missing[start : start + together] for start in range(0, len(missing), together)]
        # Processes that fill the same folder start at different places and skip what another one has made meanwhile.
        random.Random(os.getpid()).shuffle(parts)
        with _progress(len(missing), self.folder) as advance, closing(each(partial(self._make, make), parts)) as made:
            for done in made:
                advance(done)

    def _make(self, make: Make, part: Sequence[int]) -> int:
        lacking = [i for i in part if not all(_kept(self.path(i, suffix)) for suffix in self.suffixes)]
        for index, contents in zip(lacking, make(lacking), strict=True):
            for suffix in self.suffixes:
                write_atomic(self.path(index, suffix), contents[suffix], durable=False)
        return len(part)

    def _sweep(self) -> None:
        """Removes what killed processes left half written."""
        for path in self.folder.glob(".*.part"):
            with suppress(FileNotFoundError):  # another process finished or removed it
                if time.time() - path.stat().st_mtime > HOUR:
                    path.unlink()


def _kept(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@contextmanager
def _progress(count: int, folder: Path) -> Iterator[Callable[[int], None]]:
    """A progress bar in a terminal, else a line before and a line after; on stderr, since stdout is for results."""
    if sys.stderr.isatty():
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("making samples", total=count)
            yield lambda done: bar.advance(task, done)
        return
    print(f"making {count} samples in {folder}", file=sys.stderr, flush=True)
    start = time.monotonic()
    yield lambda done: None
    print(f"made {count} samples in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
