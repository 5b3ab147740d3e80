"""The identity of a set of samples, wherever it lies: their names, sizes and a part of their contents."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.data.sources import Item

BLOCK = 64 * 1024  # bytes read at once
READ = 64 * 2**20  # bytes read in all, about
KEYS = 2**20  # samples whose keys are compared; of more, evenly spread
PIECES = 1024  # files, or members of archives, of which anything is read


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """`names`: hash of the keys in their order. `contents`: of all sizes, and of bytes spread over the samples."""

    samples: int
    names: str
    contents: str

    def difference(self, now: "Fingerprint") -> str | None:
        """In words, "14 samples, now 10"; None where the samples are the same."""
        if now.samples != self.samples:
            return f"{self.samples} samples, now {now.samples}"
        if now.names != self.names:
            return f"{self.samples} samples as before, but with other names"
        if now.contents != self.contents:
            return f"{self.samples} samples of the same names, but with other contents"
        return None


def fingerprint(splits: Sequence[Sequence[Item]], root: str) -> Fingerprint:
    """Of the samples of all splits under `root`, whose own name is no part of it.

    Up to `PIECES` files of all are read, evenly spread, and up to `READ` bytes of them: small data sets
    whole, of large ones enough to see other contents of the same sizes almost everywhere.
    """
    names = hashlib.sha256()
    pieces: dict[tuple[str, tuple[int, int] | None], None] = {}
    for items in splits:
        names.update(_encoded(str(len(items))))
        for index in range(0, len(items), -(-len(items) // KEYS) or 1):
            item = items[index]
            names.update(_encoded(_without_root(item.key, root)))
            pieces[item.path, item.span] = None

    contents = hashlib.sha256()
    stride = -(-len(pieces) // PIECES) or 1
    share = max(BLOCK, READ // max(1, min(len(pieces), PIECES)))
    for number, (path, span) in enumerate(pieces):
        most = share if number % stride == 0 else 0
        if os.path.isdir(path):
            _add_folder(contents, Path(path), most)
        else:
            _add_file(contents, path, span or (0, _size(path)), most)
    return Fingerprint(
        samples=sum(map(len, splits)),
        names=names.hexdigest()[:16],
        contents=contents.hexdigest()[:16],
    )


def _without_root(key: str, root: str) -> str:
    """Keys of graphs and of array files begin with the name of the file or folder that holds them all."""
    path = Path(root)
    for name in (path.name, path.stem):
        if name and key.startswith((f"{name}#", f"{name}::")):
            return key.removeprefix(name)
    return key


def _add_folder(digest: "hashlib._Hash", folder: Path, most: int) -> None:
    """The names in a folder; where it is read, its files too."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files:
        digest.update(_encoded(str(file.relative_to(folder))))
        if most:
            _add_file(digest, str(file), (0, _size(str(file))), max(BLOCK, most // len(files)))


def _add_file(digest: "hashlib._Hash", path: str, span: tuple[int, int], most: int) -> None:
    """The size of a file, or of a span of it, and at most about `most` bytes, spread evenly over it."""
    start, size = span
    digest.update(f"{size}\0".encode())
    if size <= 0 or not most:
        return

    count = min(-(-size // BLOCK), most // BLOCK)
    # A file that cannot be opened is a bad sample, which training skips and names.
    with suppress(OSError), open(path, "rb") as stream:
        for number in range(count):
            offset = 0
            if count > 1:
                offset = (size - BLOCK) * number // (count - 1)
            stream.seek(start + offset)
            digest.update(stream.read(min(BLOCK, size - offset)))


def _encoded(name: str) -> bytes:
    """A name and its end; names of files may hold bytes that are no text."""
    return f"{name}\0".encode(errors="surrogateescape")


def _size(path: str) -> int:
    """Bytes; -1 where there is no such file."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return -1
