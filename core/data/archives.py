"""Tar and zip files read in place: `open_contents` once, then single members.

A member of an uncompressed tar is a span of bytes. A compressed tar allows no random access (reaching one
member means inflating all before it), so it is inflated once into the cache folder, `LACUNA_CACHE` (default
~/.cache/lacuna). The copy is used again as long as the archive's size and time of change stay the same; it
lies on disk, so that any size works and all workers share it. A zip needs none of this.

The first bytes of a file tell its format, not its name: a `.tar` may be compressed, or a zip.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from core.errors import UserError
from core.files import cache_folder, open_atomic

EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # of a zip with files, and of an empty one
ZSTD_START = b"\x28\xb5\x2f\xfd"
DECOMPRESSORS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}  # by first bytes
END_MARK = 2 * tarfile.BLOCKSIZE  # zero bytes that end a tar, at least
COPY_BUFFER = 1 << 20  # bytes
MOST_LINKS = 40  # that lead to one file, as on Linux

LOST_LINK = "a link that leads to no file of the archive"
REPLACED = "replaced by a later member of the same name"
SPARSE = "a file with holes (sparse), which cannot be read in place: unpack the archive"
NESTED = "an archive inside an archive: unpack it"
ENCRYPTED = "encrypted: unpack the archive with its password"
DEVICE = "a device or pipe, no file"
DAMAGED = "damaged bytes between members: whatever they held is lost"


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


class Contents(NamedTuple):
    """The files in an archive by path, "/" between folders, in its order.

    `passed_over`: the reason and path of every one that is not among them. `notes`: on the whole archive.
    """

    members: dict[str, Member]
    passed_over: list[tuple[str, str]]
    notes: list[str]


def is_archive(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def is_zip(path: str) -> bool:
    """Whether an archive is a zip: by its name, or as a zip that is called .tar."""
    if path.lower().endswith(".zip"):
        return True
    return is_archive(path) and _starts_as_zip(path)


def open_contents(path: str) -> Contents:
    """All files in the archive. Raises: UserError where it is damaged."""
    try:
        start = _first_bytes(path)
        if start.startswith(ZSTD_START):
            raise ValueError("it is compressed with zstd, which is not read: unpack it with `tar --zstd -xf`")
        if start.startswith(ZIP_STARTS) or (is_zip(path) and not _is_tar(start)):
            return _zip_contents(path, start)
        return _tar_contents(path, start)
    except UserError:
        raise
    except Exception as error:  # zipfile, tarfile and the decompressors raise many kinds
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


def _first_bytes(path: str) -> bytes:
    """A tar's first header, or as much as there is."""
    with open(path, "rb") as file:
        return file.read(tarfile.BLOCKSIZE)


@lru_cache(maxsize=64)
def _starts_as_zip(path: str) -> bool:
    return os.path.isfile(path) and _first_bytes(path).startswith(ZIP_STARTS)


def _is_tar(start: bytes) -> bool:
    """Whether these first bytes are those of a tar, plain or compressed."""
    return start[257:262] == b"ustar" or start.startswith(tuple(DECOMPRESSORS))


def _zip_contents(path: str, start: bytes) -> Contents:
    members: dict[str, Member] = {}
    links: dict[str, str] = {}
    passed_over: list[tuple[str, str]] = []
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        # Of a zip that was cut, the directory of a zip inside it (an .npz) may be taken for its own.
        first = min((entry.header_offset for entry in entries), default=0)
        if first > 0 and start.startswith(ZIP_STARTS[0]):
            raise zipfile.BadZipFile("its directory does not list its first file")

        for entry in entries:
            if entry.is_dir():
                continue

            name = _path_of(entry.filename)
            if entry.flag_bits & 1:
                passed_over.append((ENCRYPTED, name))
            elif stat.S_ISLNK(entry.external_attr >> 16):
                links[name] = _link_target(name, os.fsdecode(archive.read(entry)))
            elif is_archive(name):
                passed_over.append((NESTED, name))
            else:
                if name in members:
                    passed_over.append((REPLACED, name))
                members[name] = Member(entry.filename, path)

    return Contents(members, passed_over + _follow_links(members, links), [])


def _tar_contents(path: str, start: bytes) -> Contents:
    """Zero blocks between members (tars that were joined) and damaged headers do not end the list."""
    plain = _inflate(path, start)
    members: dict[str, Member] = {}
    links: dict[str, str] = {}
    passed_over: list[tuple[str, str]] = []
    end: int | None = 0  # of the members so far
    with tarfile.open(plain, "r:", ignore_zeros=True) as archive, open(plain, "rb") as file:
        for entry in archive:
            if _is_damaged(file, end, entry.offset):
                passed_over.append((DAMAGED, f"from byte {end}"))
            end = _end_of(entry)

            name = _path_of(entry.name)
            if entry.isdir():
                continue
            if entry.issym():
                links[name] = _link_target(name, entry.linkname)
            elif not (entry.isreg() or entry.islnk()):
                passed_over.append((DEVICE, name))
            elif entry.issparse():
                passed_over.append((SPARSE, name))
            elif is_archive(name):
                passed_over.append((NESTED, name))
            else:
                member = Member(entry.name, plain, span=(entry.offset_data, entry.size))
                if entry.islnk():
                    member = members.get(_path_of(entry.linkname))
                if member is None:
                    passed_over.append((LOST_LINK, name))
                    continue
                if name in members:
                    passed_over.append((REPLACED, name))
                members[name] = member

        size = os.path.getsize(plain)
        if end == 0 and _has_content(file, 0, size):
            raise tarfile.ReadError("it has no header of a tar")
        notes = []
        if end is not None and _has_content(file, end, size):
            passed_over.append((DAMAGED, f"from byte {end}"))
        elif end is not None:
            notes = _end_notes(path, size - end)

    return Contents(members, passed_over + _follow_links(members, links), notes)


def _end_of(entry: tarfile.TarInfo) -> int | None:
    """The byte after a member's content, at whole blocks.

    None for sparse files, whose size in the tar is smaller.
    """
    if entry.issparse():
        return None
    if entry.isreg() or entry.type not in tarfile.SUPPORTED_TYPES:
        return entry.offset_data + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return entry.offset_data


def _is_damaged(file: BinaryIO, start: int | None, stop: int) -> bool:
    """Whether there are bytes between two members that are not the end of a tar, to which another is joined.

    An end is zero: two blocks, or more up to a whole record.
    """
    if start is None or start == stop:
        return False

    padding = stop - start
    is_end = padding == END_MARK or (padding > END_MARK and stop % tarfile.RECORDSIZE == 0)
    return not is_end or _has_content(file, start, stop)


def _end_notes(path: str, padding: int) -> list[str]:
    """A note where a tar's zero bytes at its end, `padding` of them, are fewer or more than a whole tar has."""
    if padding == 0:
        return [f"{path} has no end mark: it may be cut"]
    if padding > END_MARK + tarfile.RECORDSIZE:
        return [f"{path} ends in {padding} zero bytes, more than the end of a tar: members may be lost"]
    return []


def _has_content(file: BinaryIO, start: int, stop: int) -> bool:
    """Whether any byte from `start` to `stop` is not zero."""
    file.seek(start)
    while start < stop:
        chunk = file.read(min(COPY_BUFFER, stop - start))
        if not chunk or chunk.strip(b"\0"):
            return bool(chunk)
        start += len(chunk)
    return False


def _path_of(name: str) -> str:
    """A member's path with "/" between folders, which some Windows programs write as a backslash."""
    if "/" not in name:
        name = name.replace("\\", "/")
    return posixpath.normpath(name)


def _link_target(name: str, target: str) -> str:
    """The path that the link `name` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _follow_links(members: dict[str, Member], links: Mapping[str, str]) -> list[tuple[str, str]]:
    """Adds the member that each symbolic link leads to, over further links, under the link's path.

    Returns reason and path of links that lead to none.
    """
    lost = []
    for name, target in links.items():
        for _ in range(MOST_LINKS):
            if target not in links:
                break
            target = links[target]

        if target in members and target not in links:
            members.setdefault(name, members[target])
        else:
            lost.append((LOST_LINK, name))
    return lost


def _inflate(path: str, start: bytes) -> str:
    """Path of the plain tar: the file itself, or its copy in the cache folder."""
    decompress = None
    for signature, opener in DECOMPRESSORS.items():
        if start.startswith(signature):
            decompress = opener
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
