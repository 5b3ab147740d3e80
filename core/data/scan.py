"""Finds the samples under a root: what each is called, where it lies, and what names and tables say about it."""

import difflib
import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from core.data import archives, arrays, splits, tables
from core.errors import UserError

BESIDE = {".object.npy": "object"}  # files that belong to the sample of the same stem, and their names in Item.aux
PROBED = 100  # paths of a list that are looked up before it is believed


@dataclass(slots=True)
class Found:
    """One sample as found. `folders` may name its class; `places`, folders and archives, its split."""

    key: str
    path: str
    member: str | None = None
    span: tuple[int, int] | None = None
    folders: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)  # class name by label, where a table or array tells it
    split: str | None = None
    group: str | None = None
    aux: dict[str, str] = field(default_factory=dict)


class Scan:
    """One look through a root for files with one of `extensions`.

    `labels`, `group`: columns of tables, None for the usual names. `rows`: whether array files hold many samples along
    their first axis; None decides (`_hold_rows`).
    """

    def __init__(self, extensions: Sequence[str], labels: Sequence[str] | None, group: str | None, rows: bool | None):
        self.extensions, self.labels, self.group, self.rows = tuple(extensions), labels, group, rows
        self.passed_over = Counter()  # files that were not read, by extension

    def look(self, root: str) -> list[Found]:
        """Every sample under `root`. Raises UserError when there is none, and says why."""
        path = Path(root).expanduser()
        try:
            found = list(self._root(path))
        except OSError as error:
            what = error.filename or root
            raise UserError(f"data.root: {what} cannot be read: {error.strerror or error}.") from error
        if not found:
            raise UserError(f"data.root: {root} holds no sample. {self._what_there_is()}")
        return found

    def _root(self, path: Path) -> Iterable[Found]:
        if path.is_dir():
            return self._folder(path)
        if path.is_file():
            if path.suffix.lower() in tables.EXTENSIONS:
                return self._table(path, must_exist=True)
            is_container = archives.is_archive(path.name) or (arrays.is_array(path.name) and self.rows is not False)
            return self._container(path, path.name) if is_container else self._loose(path, path.name)
        if not glob.has_magic(str(path)):
            raise UserError(f"data.root: {path} does not exist.{_similar(path)}")
        base = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        return self._files(base, dict.fromkeys(file for match in matches for file in _walk(match)))

    def _folder(self, folder: Path) -> list[Found]:
        listed = [table for table in sorted(folder.glob("*.[ct]sv")) if tables.has_paths(table)]
        listed = [table for table in listed if splits.mark(table.stem)] or listed  # all.csv repeats train.csv, test.csv
        found = [entry for table in listed for entry in self._table(table, must_exist=False)]
        return found or self._files(folder, _walk(folder))

    def _files(self, base: Path, files: Iterable[Path]) -> list[Found]:
        """Loose samples if there are any (an archive beside them is taken for their copy), else what archives hold."""
        files = list(files)
        packed = {file for file in files if archives.is_archive(file.name)}
        stacked = [file for file in files if self._is_known(file.name) and arrays.is_array(file.name)]
        packed.update(stacked if self._hold_rows(stacked) else (), (file for file in files if arrays.is_idx(file.name)))
        found = [entry for file in files if file not in packed for entry in self._loose(file, _name(file, base))]
        if found:
            self._attach(found, {str(file) for file in files if file.name.lower().endswith(tuple(BESIDE))})
            self.passed_over.update(file.suffix for file in packed)
            return found
        return [entry for file in files if file in packed for entry in self._container(file, _name(file, base))]

    def _hold_rows(self, files: list[Path]) -> bool:
        """One array file alone, files named by split, and files with a label for each row hold many samples each."""
        if self.rows is not None or not files:
            return bool(self.rows)
        return len(files) == 1 or all(splits.mark(file.stem) for file in files) or arrays.has_labels(str(files[0]))

    def _is_known(self, name: str) -> bool:
        return name.lower().endswith(self.extensions) and not name.lower().endswith(tuple(BESIDE))

    def _loose(self, file: Path, name: str) -> Iterator[Found]:
        if self._is_known(name):
            folders = PurePosixPath(name).parts[:-1]
            yield Found(name, str(file), folders=folders, places=folders)
        else:
            self.passed_over[file.suffix.lower() or file.name] += 1

    def _attach(self, found: list[Found], beside: set[str]) -> None:
        for entry in found if beside else ():
            stem = os.path.splitext(entry.path)[0]
            entry.aux = {kind: stem + ending for ending, kind in BESIDE.items() if stem + ending in beside}

    def _container(self, file: Path, name: str) -> Iterator[Found]:
        return self._archive(file, name) if archives.is_archive(name) else self._rows(file, name)

    def _archive(self, file: Path, name: str) -> Iterator[Found]:
        above = PurePosixPath(name).parts
        members = {os.path.normpath(member.name): member for member in archives.index(str(file))}
        for inner, member in members.items():
            parts = PurePosixPath(inner).parts
            if any(_is_hidden(part) for part in parts):
                continue
            if not self._is_known(inner):
                self.passed_over[PurePosixPath(inner).suffix.lower() or inner] += 1
                continue
            told = members.get(os.path.splitext(inner)[0] + ".cls")  # webdataset: 12.jpg, 12.cls
            names = {"label": told.read().decode().strip()} if told else {}
            folders = above[:-1] + parts[:-1]
            yield Found(f"{name}::{inner}", member.path, member.name, member.span, folders, above + parts[:-1], names)

    def _rows(self, file: Path, name: str) -> Iterator[Found]:
        above = PurePosixPath(name).parts
        for stack in arrays.stacks(str(file)):
            prefix = f"{stack.name}#" if stack.name else ""
            places = (*above, stack.name) if stack.name else above
            for row in range(stack.count):
                names = {"label": stack.labels[row]} if stack.labels else {}
                key = f"{name}::{prefix}{row}" if prefix else f"{name}#{row}"
                yield Found(key, str(file), f"{prefix}{row}", folders=above[:-1], places=places, names=names)

    def _table(self, table: Path, must_exist: bool) -> Iterator[Found]:
        rows = tables.read(table, self.labels, self.group)
        paths = [table.parent / row.path for row in rows]
        if not any(path.exists() for path in paths[:PROBED]):
            if must_exist:
                raise UserError(
                    f"data.root: {table} lists {paths[0]}, which does not exist, nor do the next ones. "
                    f"Paths are relative to the list's own folder, {table.parent}, or absolute."
                )
            return
        for row, path in zip(rows, paths, strict=True):
            name = _name(path, table.parent)
            for entry in self._archive(path, name) if archives.is_archive(name) else self._loose(path, name):
                entry.places = (table.stem, *entry.places)
                entry.names |= row.names
                entry.split, entry.group = row.split, row.group
                yield entry

    def _what_there_is(self) -> str:
        wanted = f"This modality reads {', '.join(self.extensions)}, also inside .tar, .tar.gz and .zip"
        if not self.passed_over:
            return f"It is empty. {wanted}."
        there = ", ".join(f"{count} {kind}" for kind, count in self.passed_over.most_common(8))
        return f"{wanted}; found: {there}."


def _walk(path: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All files under `path` in order of names (`path` itself if it is one); follows links, but not in circles."""
    if not path.is_dir():
        yield path
        return
    real = os.path.realpath(path)
    if real in above:
        return
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if _is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), (*above, real))
        else:
            yield Path(entry.path)


def _is_hidden(name: str) -> bool:
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


def _name(file: Path, base: Path) -> str:
    """Relative to `base` if it lies below, else in full."""
    file = Path(os.path.normpath(file))
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else file.as_posix()


def _similar(path: Path) -> str:
    if "://" in str(path) or ":/" in str(path):
        return " Remote places are not read: mount them, or download the data first."
    there = next((parent for parent in path.parents if parent.is_dir()), Path())
    close = difflib.get_close_matches(path.name, os.listdir(there), n=3)
    return f" {there} does" + (f", and holds {', '.join(close)}." if close else ".")
