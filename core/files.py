"""Files that are written whole or not at all, and the folder where Lacuna keeps generated ones."""

import errno
import json
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import UserError


def printable(name: str) -> str:
    """A file's name as text that every terminal takes: bytes that are not UTF-8 as "\\xe9", a new line as "\\n"."""
    if name.isascii() and name.isprintable():
        return name

    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    characters = []
    for character in text:
        is_control = unicodedata.category(character) in ("Cc", "Zl", "Zp")
        characters.append(character.encode("unicode_escape").decode() if is_control else character)
    return "".join(characters)


def cache_folder(name: str) -> Path:
    """`$LACUNA_CACHE/<name>`, by default `~/.cache/lacuna/<name>`; it need not exist yet."""
    root = os.environ.get("LACUNA_CACHE") or "~/.cache/lacuna"
    return Path(root).expanduser() / name


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turns an OSError about an unwritable or full disk into a UserError about `path`."""
    try:
        yield
    except OSError as error:
        remedy = "choose another run_dir="
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "free some space and run the same command again, it resumes; or choose another run_dir="
        raise UserError(f"Cannot write {path}: {error.strerror or error}; {remedy}.") from error


@contextmanager
def open_atomic(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Opens a stream whose content appears under `path` at once when the block ends, and never in part.

    Several processes may write the same path at the same time. `durable`: the content is on the disk before it gets its
    name, so that a power failure cannot leave an empty file; it costs a few milliseconds.
    Raises: OSError.
    """
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        with open(part, "wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())

        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_atomic(path: Path, content: bytes | str, durable: bool = True) -> None:
    """Writes a file by `open_atomic`; text as UTF-8. Raises: OSError."""
    with open_atomic(path, durable) as stream:
        # Text may hold paths whose bytes are not UTF-8.
        stream.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Writes plain data as JSON, atomically. Raises: UserError where the disk refuses."""
    with explain_write_errors(path):
        write_atomic(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def flush_to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
