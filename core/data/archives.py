"""Tar and zip files read in place: `list_members` once, then single members.

A member of an uncompressed tar is a span of bytes. A compressed tar allows no random access (reaching one
member means inflating all before it), so it is inflated once into the cache folder, `LACUNA_CACHE` (default
~/.cache/lacuna). The copy is used again as long as the archive's size and time of change stay the same; it
lies on disk, so that any size works and all workers share it. A zip needs none of this.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from pathlib import Path

from core.errors import UserError
from core.files import cache_folder, open_atomic

DECOMPRESSORS = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
COPY_BUFFER = 1 << 20  # bytes
# Raised by damaged archives.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, EOFError, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive."""

    name: str
    path: str  # the plain file that holds its bytes: the archive, or the inflated copy of a compressed tar
    _: KW_ONLY
    span: tuple[int, int] | None = None  # offset and size in bytes; None in a zip

    def read(self) -> bytes:
        """The member's bytes. Raises: OSError, and zipfile's errors, where the archive is damaged."""
        if self.span is None:
            return read_zip(self.path, self.name)
        return read_span(self.path, self.span)


def is_zip(path: str) -> bool:
    return path.lower().endswith(".zip")


def is_archive(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def list_members(path: str) -> list[Member]:
    """All files in the archive, in its order. Raises: UserError where it is damaged."""
    try:
        return _zip_members(path) if is_zip(path) else _tar_members(path)
    except DAMAGE as error:
        raise UserError(
            f"data.root: the archive {path} cannot be read ({error}). Is the download complete? "
            "Fetch it again, or unpack it yourself and give data.root the folder."
        ) from error


def read_span(path: str, span: tuple[int, int]) -> bytes:
    """Bytes of a tar's member, by offset and size. Raises: OSError where the file is too short."""
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
    """One handle per process: forked workers that share one would move each other's place in the file."""
    return zipfile.ZipFile(path)


def _zip_members(path: str) -> list[Member]:
    with zipfile.ZipFile(path) as archive:
        return [Member(entry.filename, path) for entry in archive.infolist() if not entry.is_dir()]


def _tar_members(path: str) -> list[Member]:
    plain = _inflate(path)
    members = []
    with tarfile.open(plain, "r:") as archive:
        for entry in archive:
            if entry.isreg():
                members.append(Member(entry.name, plain, span=(entry.offset_data, entry.size)))
    return members


def _inflate(path: str) -> str:
    """Path of the plain tar: the file itself, or its copy in the cache folder."""
    decompress = DECOMPRESSORS.get(Path(path).suffix.lower())
    if decompress is None:
        return path

    # The copy's name stands for the archive as it is now: another size or time of change makes another copy.
    status = os.stat(path)
    identity = f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"
    copy = _cache_folder() / f"{hashlib.sha256(os.fsencode(identity)).hexdigest()[:24]}.tar"

    if not copy.exists():
        with open_atomic(copy) as plain, decompress(path, "rb") as compressed:
            shutil.copyfileobj(compressed, plain, COPY_BUFFER)
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
