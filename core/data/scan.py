"""Finds the samples under a root: key, path, and the names that folders and tables give them."""

import difflib
import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from core.data import archives, arrays, sidecars, splits, tables
from core.data.account import Leftovers
from core.data.clips import ClipFolders, has_gaps
from core.data.columns import Name
from core.data.lists import Listing, ListReader
from core.data.places import canonical
from core.data.sources import Part
from core.errors import UserError
from core.files import printable

# Endings of files that belong to the sample of the same stem, and their names in Item.aux.
AUX_FILES = {".object.npy": "object"}
MOST_KINDS = 8  # extensions that a message lists

# Reasons why files are no samples.
OTHER_KIND = "no file of this modality"
HIDDEN = "hidden"
COPY = "archives beside loose files, taken for copies of them"
UNLISTED = "in no list"


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
    names: dict[str, Name] = field(default_factory=dict)  # by label, from a table or array
    split: str | None = None
    group: str | None = None
    aux: dict[str, str] = field(default_factory=dict)
    part: Part | None = None


class Scan:
    """One look through a root for files with one of `extensions`.

    `labels`, `group`: columns of tables, None for the usual names. `rows`: whether array files hold many
    samples along their first axis; None decides (`_hold_rows`). `reads_parts`: whether samples may be parts
    of files. `sample_axes`: of a sample in an array file, channels apart; None: any number.
    `frame_extensions`: of pictures, of which folders of numbered ones are samples where no file is one.
    """

    def __init__(
        self,
        extensions: Sequence[str],
        labels: Sequence[str] | None,
        group: str | None,
        rows: bool | None,
        *,
        reads_parts: bool = False,
        sample_axes: int | None = None,
        frame_extensions: Sequence[str] = (),
    ):
        self.extensions, self.labels, self.group, self.rows = tuple(extensions), labels, group, rows
        self.sample_axes = sample_axes
        self._clips = ClipFolders(frame_extensions)
        self._tables: dict[Path, bool] = {}  # whether a text is a table, where samples are texts too
        self.leftovers = Leftovers()  # files that were not read
        self.label_sources: dict[str, dict[str, None]] = {}  # by label, in words; ordered sets
        self.notes: list[str] = []
        self._lists = ListReader(
            extensions=self.extensions,
            labels=labels,
            group=group,
            reads_parts=reads_parts,
            leftovers=self.leftovers,
            notes=self.notes,
            clips=self._clips,
        )

    def entries(self, root: str) -> list[Entry]:
        """Every sample under `root`. Raises: UserError with the reason where there is none."""
        try:
            entries = list(self._root(_expand(root)))
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
        several = _several(str(path))
        if several and not glob.glob(str(path), recursive=True):
            folder = Path(os.path.commonpath([part.parent for part in several]))
            pattern = f"'{folder / '*'}{several[0].suffix}'"
            raise UserError(
                f"data.root is one place, and {path} names {len(several)}: give a folder that holds them all "
                f"(data.root={folder}), or a glob (data.root={pattern})."
            )
        if not glob.has_magic(str(path)):
            raise UserError(f"data.root: {path} does not exist.{_similar(path)}")

        # Keys are relative to the part of the glob before its first wildcard.
        base = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        files: dict[Path, None] = {}  # an ordered set: several matches may lead to one file
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise UserError(f"data.root: nothing matches {path}.{_kinds(base)}")
        for match in matches:
            files.update(dict.fromkeys(self._walk(Path(match))))

        if files and all(map(self._is_table, files)):
            return self._list_entries(base, self._open_lists(list(files)))
        return self._files(base, self._with_clips(list(files)))

    def _file(self, path: Path) -> Iterable[Entry]:
        if self._is_table(path):
            listing = self._open_lists([path])
            self._lists.hint_at_siblings(*listing.lists)
            return self._list_entries(path.parent, listing)
        is_rows = arrays.is_array(path.name) and self._hold_rows([path])
        if archives.is_archive(path.name) or is_rows:
            return self._container(path, path.name)
        return self._loose(path, path.name)

    def _folder(self, folder: Path) -> list[Entry]:
        """The samples that lists in it name, if any, and the files of folders for which no list stands."""
        files = self._with_clips(list(self._walk(folder)))
        listing = self._lists.find(folder, files, self._is_sample)
        files = [file for file in files if file not in listing.passed_over]
        if not listing.lists:
            return self._files(folder, files)

        entries = list(self._list_entries(folder, listing))
        paths = {entry.path for entry in entries}
        lists = {file.path for file in listing.lists}
        for file in files:
            name = _name(file, folder)
            if file in lists or os.path.normpath(file) in paths or _is_aux(name):
                continue
            if listing.covers(file) and self._is_sample(str(file)):
                self._pass_over(UNLISTED, name)
            elif archives.is_archive(name):
                self._pass_over(COPY, name)
            else:
                entries.extend(self._loose(file, name))
        _attach_aux(entries, files)
        return entries

    def _open_lists(self, paths: list[Path]) -> Listing:
        """Raises: UserError where a list names no file that exists."""
        return Listing(lists=list(map(self._lists.open, paths)))

    def _list_entries(self, base: Path, listing: Listing) -> Iterator[Entry]:
        """The samples that lists name."""
        for file in listing.lists:
            for label, column in file.table.labels.items():
                self._label_from(label, f"{column} of {_name(file.path, base)}")
            self.notes.extend(f"{_name(file.path, base)}: {note}" for note in file.table.notes)

        folders_of = {}
        for file in listing.lists:
            folders_of[file.path] = PurePosixPath(_name(file.path, base)).parent.parts
        for row, file in self._lists.rows(listing.lists):
            path = Path(row.file or row.path)
            name = _name(path, base)
            above = folders_of[file.path]

            entries = self._loose(path, name)
            if archives.is_archive(name):
                entries = self._archive(path, name)
            for entry in entries:
                entry.containers = (*map(class_name, above), file.path.stem, *entry.containers)
                for label, value in row.names.items():
                    if isinstance(value, str):
                        value = class_name(value)
                    entry.names[label] = value
                entry.split, entry.group = row.split, row.group and class_name(row.group)
                if row.part is not None:
                    entry.key, entry.part = f"{entry.key}@{row.part}", row.part
                yield entry

    def _files(self, base: Path, files: Iterable[Path]) -> list[Entry]:
        """Loose samples, if any: archives in the same folder are taken for copies. Else those in archives."""
        files = list(files)
        containers = self._containers(files)

        loose: list[Entry] = []
        for file in files:
            if file not in containers and not _is_aux(file.name):
                loose.extend(self._loose(file, _name(file, base)))
        if loose:
            _attach_aux(loose, files)
            for file in containers:
                self._pass_over(COPY, _name(file, base))
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
        others = 0
        for file in files:
            if archives.is_archive(file.name) or arrays.is_idx(file.name):
                containers.add(file)
            elif self._is_readable(file.name) and arrays.is_array(file.name):
                array_files.append(file)
            else:
                others += self._is_sample(str(file))

        # An array file among samples of other kinds is one of them.
        is_one_of_many = len(array_files) == 1 and others > 0 and not self.rows
        if not is_one_of_many and self._hold_rows(array_files):
            containers.update(array_files)
        return containers

    def _hold_rows(self, files: list[Path]) -> bool:
        """Whether each array file holds many samples."""
        if self.rows is not None or not files:
            return bool(self.rows)

        if arrays.are_one_sample_each(map(str, files), self.sample_axes):
            if len(files) == 1:
                name = printable(files[0].name)
                remedy = "data.source.rows=true reads its rows as samples"
                self.notes.append(f"{name} is read as one sample; {remedy}")
            return False

        # One file alone does, files named by split do, and files with a label for each row.
        named_by_split = all(splits.from_name(file.stem) for file in files)
        return len(files) == 1 or named_by_split or arrays.has_rows(str(files[0]))

    def _is_readable(self, name: str) -> bool:
        return name.lower().endswith(self.extensions) and not _is_aux(name)

    def _is_sample(self, path: str) -> bool:
        return (self._is_readable(path) and not self._is_table(Path(path))) or path in self._clips

    def _with_clips(self, files: list[Path]) -> list[Path]:
        """The files; where none is a sample, folders of numbered pictures stand for the pictures in them."""
        if any(self._is_readable(file.name) for file in files):
            return files

        result = self._clips.in_place_of_pictures(files)
        folders = [str(path) for path in result if str(path) in self._clips]
        if folders:
            self.notes.append(f"folders of numbered pictures are read as one clip each: {len(folders)}")
        with_gaps = [folder for folder in folders if has_gaps(self._clips.numbers(folder) or [])]
        if with_gaps:
            fault = "lack pictures by their numbers"
            self.notes.append(f"of these, {len(with_gaps)} {fault}, such as {with_gaps[0]}")
        return result

    def _is_table(self, path: Path) -> bool:
        """Whether a file may be a list of samples rather than a sample.

        Where samples are text too, those are rows of numbers.
        """
        suffix = path.suffix.lower()
        if suffix not in tables.EXTENSIONS:
            return False
        if suffix not in self.extensions:
            return True

        if path not in self._tables:
            self._tables[path] = not tables.holds_numbers(path)
        return self._tables[path]

    def _pass_over(self, reason: str, name: str) -> None:
        kind = PurePosixPath(name).suffix.lower() or PurePosixPath(name).name
        self.leftovers.add(reason, printable(kind), printable(name))

    def _label_from(self, label: str, source: str) -> None:
        self.label_sources.setdefault(label, {})[source] = None

    def _loose(self, file: Path, name: str) -> Iterator[Entry]:
        """The entry of a file that is one sample; none where it is of another kind."""
        if self._is_sample(str(file)):
            folders = _parts(name)[:-1]
            yield Entry(printable(name), str(file), folders=folders, containers=folders)
        else:
            self._pass_over(OTHER_KIND, name)

    def _container(self, file: Path, name: str) -> Iterator[Entry]:
        if archives.is_archive(name):
            return self._archive(file, name)
        return self._rows(file, name)

    def _archive(self, file: Path, name: str) -> Iterator[Entry]:
        above = _parts(name)
        contents = archives.open_contents(str(file))
        self.notes.extend(contents.notes)
        for reason, path in contents.passed_over:
            self._pass_over(reason, f"{name}::{path}")

        visible = []
        for path in contents.members:
            if any(map(_is_hidden, _parts(path))):
                self._pass_over(HIDDEN, f"{name}::{path}")
            else:
                visible.append(path)

        samples = list(filter(self._is_readable, visible))
        labels = sidecars.read_labels(contents.members, samples)
        self.notes.extend(labels.notes)
        for label, source in labels.sources:
            self._label_from(label, source)
        for path in visible:
            if not self._is_readable(path) and path not in labels.used:
                self._pass_over(OTHER_KIND, f"{name}::{path}")

        for path in samples:
            member, parts = contents.members[path], _parts(path)
            yield Entry(
                printable(f"{name}::{path}"),
                member.path,
                member=member.name,
                span=member.span,
                folders=above[:-1] + parts[:-1],
                containers=above + parts[:-1],
                names=dict(labels.names.get(path, {})),
            )

    def _rows(self, file: Path, name: str) -> Iterator[Entry]:
        """One entry per row of the file's arrays; where they have names, keys and members carry them."""
        above = _parts(name)
        for stack in arrays.list_stacks(str(file)):
            self.notes.extend(stack.notes)
            key, member, containers = f"{printable(name)}#", "", above
            if stack.name:
                key, member, containers = f"{key[:-1]}::{stack.name}#", f"{stack.name}#", (*above, stack.name)
            for label in stack.label_names:
                self._label_from(label, f"{stack.label_array!r} in {printable(name)}")

            for row in range(stack.count):
                names = {}
                if stack.labels is not None:
                    names = dict(stack.labels[row])
                yield Entry(
                    f"{key}{row}",
                    str(file),
                    member=f"{member}{row}",
                    folders=above[:-1],
                    containers=containers,
                    names=names,
                )

    def _why_empty(self) -> str:
        readable = f"This modality reads {', '.join(self.extensions)}, also inside .tar, .tar.gz and .zip"
        if self._clips.extensions:
            readable += ", and folders of numbered pictures"
        kinds = self.leftovers.by_kind()
        if not kinds:
            return f"It is empty. {readable}."
        return " ".join([f"{readable}; found: {_counts(kinds)}.", *self.notes])

    def _walk(self, path: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
        """All files under `path` (or itself), in order of names; follows links, but not in circles."""
        if not path.is_dir():
            yield path
            return

        real = os.path.realpath(path)
        if real in above:
            return

        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if _is_hidden(entry.name):
                self._pass_over(HIDDEN, entry.name)
            elif entry.is_dir():
                yield from self._walk(Path(entry.path), (*above, real))
            else:
                yield Path(entry.path)


def class_name(name: str) -> str:
    """The name of a folder or class: one for every spelling of its accents."""
    return printable(canonical(name))


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


def _is_hidden(name: str) -> bool:
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


def _name(file: Path, base: Path) -> str:
    """The path relative to `base` if it lies below, else in full."""
    file, base = Path(os.path.normpath(file)), Path(os.path.normpath(base))
    if file == base:  # a clip that is the root itself
        return file.absolute().name
    if file.is_relative_to(base):
        file = file.relative_to(base)
    return file.as_posix()


def _parts(name: str) -> tuple[str, ...]:
    """Folders and name of a file, written with "/" or "\\", as names of classes or splits."""
    return tuple(map(class_name, PurePosixPath(name.replace("\\", "/")).parts))


def _expand(root: str) -> Path:
    """The root as a path: "~" is the home folder unless there is such a file; "\\" may stand for "/"."""
    path = Path(root)
    if not path.exists() and root.startswith("~"):
        with suppress(RuntimeError):  # "~name" of no user
            path = path.expanduser()
    if not path.exists() and Path(root.replace("\\", "/")).exists():
        path = Path(root.replace("\\", "/"))
    return path


def _several(root: str) -> list[Path]:
    """Paths in one text, in brackets or not, apart by commas or spaces, where two or more of them exist."""
    for separator in (",", " "):
        parts = [part.strip(" '\"") for part in root.strip("[]() ").split(separator)]
        paths = [Path(part) for part in parts if part]
        if len(paths) > 1 and all(path.exists() for path in paths):
            return paths
    return []


def _kinds(folder: Path) -> str:
    """For messages about a glob: the files of its folder by extension."""
    if not folder.is_dir():
        return f" There is no folder {folder}."
    counts = Counter(file.suffix or file.name for file in folder.iterdir() if file.is_file())
    return f" {folder} holds {_counts(counts) or 'no files'}; ** stands for folders of any depth."


def _counts(kinds: Counter[str]) -> str:
    """For messages: the most frequent kinds with their counts."""
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(MOST_KINDS))


def _similar(path: Path) -> str:
    """For messages: the nearest folder that exists, and its entries with a similar name."""
    if "://" in str(path) or ":/" in str(path):
        return " Remote places are not read: mount them, or download the data first."

    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    names = difflib.get_close_matches(path.name, os.listdir(folder), n=3)
    if not names:
        return f" {folder} does."
    return f" {folder} does, and holds {', '.join(names)}."
