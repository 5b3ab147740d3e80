"""Finds the samples under a root: key, path, and the names that folders and tables give them."""

import difflib
import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from core.data import archives, arrays, splits, tables
from core.errors import UserError

# Endings of files that belong to the sample of the same stem, and their names in Item.aux.
AUX_FILES = {".object.npy": "object"}
MOST_PROBES = 100  # paths of a list that are looked up before it is trusted
MOST_KINDS = 8  # extensions that a message lists


@dataclass(slots=True)
class Entry:
    """One sample under the root. `folders` may name its class; `containers` (archives too) its split."""

    key: str
    path: str
    _: KW_ONLY
    member: str | None = None
    span: tuple[int, int] | None = None
    folders: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)  # class name by label, from a table or array
    split: str | None = None
    group: str | None = None
    aux: dict[str, str] = field(default_factory=dict)


class Scan:
    """One look through a root for files with one of `extensions`.

    `labels`, `group`: columns of tables, None for the usual names. `rows`: whether array files hold many
    samples along their first axis; None decides (`_hold_rows`).
    """

    def __init__(
        self,
        extensions: Sequence[str],
        labels: Sequence[str] | None,
        group: str | None,
        rows: bool | None,
    ):
        self.extensions, self.labels, self.group, self.rows = tuple(extensions), labels, group, rows
        self.passed_over = Counter()  # files that were not read, by extension

    def entries(self, root: str) -> list[Entry]:
        """Every sample under `root`. Raises: UserError with the reason where there is none."""
        try:
            entries = list(self._root(Path(root).expanduser()))
        except OSError as error:
            path = error.filename or root
            raise UserError(f"data.root: {path} cannot be read: {error.strerror or error}.") from error

        if not entries:
            raise UserError(f"data.root: {root} holds no sample. {self._why_empty()}")
        return entries

    def _root(self, path: Path) -> Iterable[Entry]:
        """The entries of a folder, a file or a glob."""
        if path.is_dir():
            return self._folder(path)
        if path.is_file():
            return self._file(path)
        if not glob.has_magic(str(path)):
            raise UserError(f"data.root: {path} does not exist.{_similar(path)}")

        # Keys are relative to the part of the glob before its first wildcard.
        base = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        files: dict[Path, None] = {}  # an ordered set: several matches may lead to one file
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise UserError(f"data.root: nothing matches {path}.{_kinds(base)}")
        for match in matches:
            files.update(dict.fromkeys(_walk(Path(match))))
        return self._files(base, files)

    def _file(self, path: Path) -> Iterable[Entry]:
        if path.suffix.lower() in tables.EXTENSIONS:
            return self._table(path, must_exist=True)
        if archives.is_archive(path.name) or (arrays.is_array(path.name) and self.rows is not False):
            return self._container(path, path.name)
        return self._loose(path, path.name)

    def _folder(self, folder: Path) -> list[Entry]:
        """The samples of its tables, if any; else its files."""
        lists, by_split = [], []
        for table in sorted(folder.glob("*.[ct]sv")):
            if tables.has_paths(table):
                lists.append(table)
                if splits.from_name(table.stem):
                    by_split.append(table)

        entries: list[Entry] = []
        # An all.csv repeats train.csv and test.csv.
        for table in by_split or lists:
            entries.extend(self._table(table, must_exist=False))
        return entries or self._files(folder, _walk(folder))

    def _files(self, base: Path, files: Iterable[Path]) -> list[Entry]:
        """Loose samples, if any: archives in the same folder are taken for copies. Else those in archives."""
        files = list(files)
        containers = self._containers(files)

        loose: list[Entry] = []
        for file in files:
            if file not in containers:
                loose.extend(self._loose(file, _name(file, base)))
        if loose:
            _attach_aux(loose, files)
            for file in containers:
                self.passed_over[file.suffix] += 1
            return loose

        packed: list[Entry] = []
        for file in files:
            if file in containers:
                packed.extend(self._container(file, _name(file, base)))
        return packed

    def _containers(self, files: list[Path]) -> set[Path]:
        """The files that hold many samples each."""
        containers: set[Path] = set()
        array_files: list[Path] = []
        for file in files:
            if archives.is_archive(file.name) or arrays.is_idx(file.name):
                containers.add(file)
            if self._is_readable(file.name) and arrays.is_array(file.name):
                array_files.append(file)

        if self._hold_rows(array_files):
            containers.update(array_files)
        return containers

    def _hold_rows(self, files: list[Path]) -> bool:
        """Whether each array file holds many samples."""
        if self.rows is not None or not files:
            return bool(self.rows)

        # One file alone does, files named by split do, and files with a label for each row.
        named_by_split = all(splits.from_name(file.stem) for file in files)
        return len(files) == 1 or named_by_split or arrays.has_labels(str(files[0]))

    def _is_readable(self, name: str) -> bool:
        return name.lower().endswith(self.extensions) and not _is_aux(name)

    def _loose(self, file: Path, name: str) -> Iterator[Entry]:
        """The entry of a file that is one sample; none where it is of another kind."""
        if self._is_readable(name):
            folders = PurePosixPath(name).parts[:-1]
            yield Entry(name, str(file), folders=folders, containers=folders)
        else:
            self.passed_over[file.suffix.lower() or file.name] += 1

    def _container(self, file: Path, name: str) -> Iterator[Entry]:
        if archives.is_archive(name):
            return self._archive(file, name)
        return self._rows(file, name)

    def _archive(self, file: Path, name: str) -> Iterator[Entry]:
        above = PurePosixPath(name).parts
        members = {os.path.normpath(member.name): member for member in archives.list_members(str(file))}
        for path, member in members.items():
            parts = PurePosixPath(path).parts
            if any(map(_is_hidden, parts)):
                continue
            if not self._is_readable(path):
                self.passed_over[PurePosixPath(path).suffix.lower() or path] += 1
                continue

            # webdataset: 12.jpg has its label in 12.cls
            names = {}
            label = members.get(os.path.splitext(path)[0] + ".cls")
            if label is not None:
                names["label"] = label.read().decode().strip()
            yield Entry(
                f"{name}::{path}",
                member.path,
                member=member.name,
                span=member.span,
                folders=above[:-1] + parts[:-1],
                containers=above + parts[:-1],
                names=names,
            )

    def _rows(self, file: Path, name: str) -> Iterator[Entry]:
        """One entry per row of the file's arrays; where they have names, keys and members carry them."""
        above = PurePosixPath(name).parts
        for stack in arrays.list_stacks(str(file)):
            key, member, containers = f"{name}#", "", above
            if stack.name:
                key, member, containers = f"{name}::{stack.name}#", f"{stack.name}#", (*above, stack.name)

            for row in range(stack.count):
                names = {}
                if stack.labels is not None:
                    names["label"] = stack.labels[row]
                yield Entry(
                    f"{key}{row}",
                    str(file),
                    member=f"{member}{row}",
                    folders=above[:-1],
                    containers=containers,
                    names=names,
                )

    def _table(self, table: Path, must_exist: bool) -> Iterator[Entry]:
        """The samples that a table lists; none (if `must_exist`, an error) if its first paths are missing."""
        rows = tables.read(table, self.labels, self.group)
        paths = [table.parent / row.path for row in rows]
        if not any(path.exists() for path in paths[:MOST_PROBES]):
            if must_exist:
                raise UserError(
                    f"data.root: {table} lists {paths[0]}, which does not exist, nor do the next ones. "
                    f"Paths are relative to the list's own folder, {table.parent}, or absolute."
                )
            return

        for row, path in zip(rows, paths, strict=True):
            name = _name(path, table.parent)
            entries = self._archive(path, name) if archives.is_archive(name) else self._loose(path, name)
            for entry in entries:
                entry.containers = (table.stem, *entry.containers)
                entry.names |= row.names
                entry.split, entry.group = row.split, row.group
                yield entry

    def _why_empty(self) -> str:
        readable = f"This modality reads {', '.join(self.extensions)}, also inside .tar, .tar.gz and .zip"
        if not self.passed_over:
            return f"It is empty. {readable}."
        counts = ", ".join(f"{count} {kind}" for kind, count in self.passed_over.most_common(MOST_KINDS))
        return f"{readable}; found: {counts}."


def _attach_aux(entries: list[Entry], files: list[Path]) -> None:
    """Gives every entry those of the files that belong to it."""
    paths = {str(file) for file in files if _is_aux(file.name)}
    if not paths:
        return
    for entry in entries:
        stem = os.path.splitext(entry.path)[0]
        for ending, name in AUX_FILES.items():
            if stem + ending in paths:
                entry.aux[name] = stem + ending


def _is_aux(name: str) -> bool:
    return name.lower().endswith(tuple(AUX_FILES))


def _walk(path: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All files under `path` (itself if it is one), in order of names; follows links, but not in circles."""
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
    """The path relative to `base` if it lies below, else in full."""
    file, base = Path(os.path.normpath(file)), Path(os.path.normpath(base))
    if file.is_relative_to(base):
        file = file.relative_to(base)
    return file.as_posix()


def _kinds(folder: Path) -> str:
    """For messages about a glob: the files of its folder by extension."""
    if not folder.is_dir():
        return f" There is no folder {folder}."
    counts = Counter(file.suffix or file.name for file in folder.iterdir() if file.is_file())
    files = ", ".join(f"{count} {kind}" for kind, count in counts.most_common(MOST_KINDS))
    return f" {folder} holds {files or 'no files'}; ** stands for folders of any depth."


def _similar(path: Path) -> str:
    """For messages: the nearest folder that exists, and its entries with a similar name."""
    if "://" in str(path) or ":/" in str(path):
        return " Remote places are not read: mount them, or download the data first."

    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    names = difflib.get_close_matches(path.name, os.listdir(folder), n=3)
    if not names:
        return f" {folder} does."
    return f" {folder} does, and holds {', '.join(names)}."
