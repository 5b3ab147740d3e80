"""Tar and zip files read in place: `index` once, then single members.

A member of an uncompressed tar is a span of bytes. A compressed tar allows no random access (reaching one member means
inflating all before it), so it is inflated once into the cache folder, `LACUNA_CACHE` (default ~/.cache/lacuna), and
found again there as long as its size and time of change stay the same; on disk, so that any size works and all workers
share it. A zip needs none of this.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from core.errors import UserError
from core.files import cache_folder, open_atomic

PACKED = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive: its name, the plain file that holds it, its place there (None in a zip)."""

    name: str
    path: str
    span: tuple[int, int] | None

    def read(self) -> bytes:
        return read_zip(self.path, self.name) if self.span is None else read_span(self.path, self.span)


def is_zip(path: str) -> bool:
    return path.lower().endswith(".zip")


def is_archive(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def index(path: str) -> list[Member]:
    """All files in the archive, in its order. Raises UserError when it is damaged."""
    try:
        if is_zip(path):
            with zipfile.ZipFile(path) as archive:
                return [Member(entry.filename, path, None) for entry in archive.infolist() if not entry.is_dir()]
        plain = _inflated(path)
        with tarfile.open(plain, "r:") as archive:
            return [Member(entry.name, plain, (entry.offset_data, entry.size)) for entry in archive if entry.isreg()]
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"data.root: the archive {path} cannot be read ({error}). Is the download complete? "
            "Fetch it again, or unpack it yourself and give data.root the folder."
        ) from error


def read_span(path: str, span: tuple[int, int]) -> bytes:
    offset, size = span
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise OSError(f"{path} ends before this member does")
    return content


def read_zip(path: str, member: str) -> bytes:
    return _open_zip(path, os.getpid()).read(member)


@lru_cache(maxsize=64)
def _open_zip(path: str, process: int) -> zipfile.ZipFile:
    """One handle per process: forked workers would move each other's place in the file."""
    return zipfile.ZipFile(path)


def _inflated(path: str) -> str:
    """Path of the plain tar: the file itself, or its copy in the cache folder."""
    opener = PACKED.get(Path(path).suffix.lower())
    if opener is None:
        return path
    status = os.stat(path)
    identity = f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"
    copy = _cache_folder() / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.tar"
    if not copy.exists():
        with open_atomic(copy) as plain, opener(path, "rb") as packed:
            shutil.copyfileobj(packed, plain, 1 << 20)
    return str(copy)


def _cache_folder() -> Path:
    folder = cache_folder("archives")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"compressed tars are unpacked once into {folder}, which cannot be written ({error}). "
            "Set LACUNA_CACHE to a folder with space, or unpack the archive and give data.root the folder."
        ) from error
    return folder
