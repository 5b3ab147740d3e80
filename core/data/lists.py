"""Lists under a root: which files are lists, which samples they name, and what is wrong with them."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from core.data import splits, tables
from core.data.account import Leftovers
from core.data.clips import ClipFolders
from core.data.places import Places
from core.data.sources import Part
from core.data.tables import Row, Table
from core.errors import UserError

MOST_TABLES = 32  # in one folder; where there are more, only those named by a split or as below are lists
USUAL_NAMES = ("metadata", "labels", "annotations", "list", "index")
LEAST_SHARE = 0.5  # of the samples in its folders that a list names, unless it tells the split

MISSING = "listed, but missing"
REPEATED = "listed twice, alike in everything"
JOINED = "listed in several lists, whose columns are joined"
NO_LIST = "no list of samples"
OTHER_LIST = "lists that repeat samples of the lists named by split"
SMALL_LIST = "lists of less than half of the samples beside them"


@dataclass(frozen=True, kw_only=True)
class ListFile:
    """One list and its rows."""

    path: Path
    table: Table

    @property
    def split(self) -> str | None:
        """The split that its name tells."""
        return splits.from_name(self.path.stem)

    @property
    def tells_split(self) -> bool:
        """Whether its name or a column tells the split, as in no other list than one of samples."""
        return self.split is not None or any(row.split is not None for row in self.table.rows)

    @cached_property
    def files(self) -> set[str]:
        """The files that it names and that exist."""
        return {row.file for row in self.table.rows if row.file is not None}


class Listed(NamedTuple):
    """A row and its list."""

    row: Row
    list: ListFile

    def __str__(self) -> str:
        return f"{self.list.path.name}, line {self.row.number}: {self.row.path}"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The lists of a data set, the folders for whose samples they stand (`scopes`), and lists left aside."""

    lists: list[ListFile] = field(default_factory=list)
    scopes: set[str] = field(default_factory=set)
    passed_over: set[Path] = field(default_factory=set)

    def covers(self, file: Path) -> bool:
        """Whether the lists decide which samples of the file's folder count."""
        return any(lies_below(str(file), scope) for scope in self.scopes)


@dataclass(frozen=True, kw_only=True)
class ListReader:
    """Opens lists. `labels`, `group`: their columns to use, None for the usual names.

    `reads_parts`: whether samples may be parts of files. `leftovers`, `notes`: get whatever is left out or
    decided.
    `clips`: folders that are samples.
    """

    extensions: Sequence[str]
    labels: Sequence[str] | None
    group: str | None
    reads_parts: bool
    leftovers: Leftovers
    notes: list[str]
    clips: ClipFolders = field(default_factory=ClipFolders)

    def open(self, path: Path) -> ListFile:
        """A list that the user names. Raises: UserError where it is none, or names no file that exists."""
        places = Places(path.parent, None, self.extensions, self.clips)
        table = tables.read(path, self.labels, self.group, places)
        if all(row.file is None for row in table.rows):
            first = path.parent / table.rows[0].path
            raise UserError(
                f"data.root: {path} lists {first}, which does not exist, nor do the next ones. "
                f"Paths are relative to the list's own folder, {path.parent}, or absolute."
            )
        return ListFile(path=path, table=table)

    def hint_at_siblings(self, listing: ListFile) -> None:
        """Notes the lists of other splits beside one for training that is given alone: a folder takes them all."""
        path = listing.path
        if listing.split != "train" or any(row.split for row in listing.table.rows):
            return

        for other in sorted(path.parent.glob(f"*{path.suffix}")):
            is_pair = splits.by_folders([(path.stem,), (other.stem,)]) is not None
            if is_pair and tables.names_files(other, Places(path.parent, None, self.extensions, self.clips)):
                self.notes.append(
                    f"{other.name} beside {path.name} is not read: data.root={path.parent} takes both, and holds the "
                    f"samples of {other.name} out"
                )

    def find(self, root: Path, files: Sequence[Path], is_sample: Callable[[str], bool]) -> Listing:
        """The lists among the files of a folder: those most of whose paths lead to samples.

        Lists named by split (train.csv, val.csv) go before others in the same folder, such as an all.csv.
        Raises: UserError where the list for training names no sample, and one beside it does.
        """
        samples = [file for file in files if is_sample(str(file))]
        candidates: list[ListFile] = []
        without_samples: list[Path] = []  # named by a split
        for path in _likely(files, samples):
            listing = self._try(root, path, is_sample)
            if listing is not None:
                candidates.append(listing)
            elif splits.from_name(path.stem):
                without_samples.append(path)
                name = path.relative_to(root)
                self.notes.append(f"{name} names no sample that exists, and is not read as a list")
        _check_train(candidates, without_samples)

        have_splits = any(listing.split for listing in candidates)
        lists, scopes, passed_over = [], set(), set()
        for listing in candidates:
            scope = _scope(listing, root)
            reason = self._reason_against(listing, scope, samples, have_splits=have_splits)
            if reason is None:
                lists.append(listing)
                scopes.add(scope)
            else:
                passed_over.add(listing.path)
                self.leftovers.add(reason, listing.path.suffix.lower(), str(listing.path.relative_to(root)))
        return Listing(lists=lists, scopes=scopes, passed_over=passed_over)

    def _reason_against(
        self, listing: ListFile, scope: str, samples: Sequence[Path], *, have_splits: bool
    ) -> str | None:
        """Why a list is not the one of the samples in its folders; None: it is.

        Raises: UserError for a list that tells the split, but whose rows name a sample twice and differ.
        """
        if have_splits and not listing.split:
            return OTHER_LIST

        count = sum(lies_below(str(file), scope) for file in samples)
        if not listing.tells_split and len(listing.files) < LEAST_SHARE * count:
            self.notes.append(
                f"{listing.path.name} lists {len(listing.files)} of {count} samples: it is not taken for the "
                f"list of them; data.root={listing.path} takes it"
            )
            return SMALL_LIST

        try:
            replace(self, leftovers=Leftovers(), notes=[]).rows([listing])
        except UserError as error:
            if listing.tells_split:
                raise
            self.notes.append(f"{listing.path.name} is not read as a list: {error}")
            return NO_LIST
        return None

    def rows(self, lists: Sequence[ListFile]) -> list[Listed]:
        """The rows of the lists that name an existing file, each sample once.

        Raises: UserError where rows name the same sample, and differ.
        """
        first: dict[tuple[str, Part | None], Listed] = {}
        for listing in lists:
            for row in self._parts(listing):
                listed = Listed(row, listing)
                if row.file is None:
                    kind = os.path.splitext(row.path)[1].lower() or "no extension"
                    self.leftovers.add(MISSING, kind, str(listed))
                    continue

                earlier = first.setdefault((row.file, row.part), listed)
                if earlier is listed:
                    continue
                if earlier.list is not listing and _complete(earlier, listed):
                    self.leftovers.add(JOINED, "rows", str(listed))
                else:
                    _check_alike(earlier, listed)
                    self.leftovers.add(REPEATED, "rows", str(listed))
        return list(first.values())

    def _try(self, root: Path, path: Path, is_sample: Callable[[str], bool]) -> ListFile | None:
        """A file as a list; None where it is none. Raises: UserError for a damaged list by its name."""
        places = Places(path.parent, root, self.extensions, self.clips)
        if not tables.names_files(path, places):
            return None

        try:
            table = tables.read(path, self.labels, self.group, places)
        except UserError as error:
            if splits.from_name(path.stem) or self.labels is not None or self.group is not None:
                raise
            self.notes.append(f"{path.relative_to(root)} is not read as a list: {error}")
            return None

        listing = ListFile(path=path, table=table)
        if any(is_sample(file) for file in listing.files):
            return listing
        return None

    def _parts(self, listing: ListFile) -> list[Row]:
        """The rows; of whole files where the modality reads no parts.

        Raises: UserError where these would coincide.
        """
        rows = listing.table.rows
        if self.reads_parts or all(row.part is None for row in rows):
            return rows

        counts = Counter(row.file for row in rows if row.file is not None)
        path, count = counts.most_common(1)[0]
        if count > 1:
            raise UserError(
                f"data.root: {listing.path} lists parts of files (start and end), which this modality does not "
                f"read: {path} stands in {count} rows. Cut the files, or list each once."
            )
        name = listing.path.name
        self.notes.append(f"the parts (start and end) that {name} lists are not read: files are whole")
        return [replace(row, part=None) for row in rows]


def _likely(files: Iterable[Path], samples: Iterable[Path]) -> list[Path]:
    """Files that may be lists: text beside samples that belongs to none of them by its name."""
    stems = {file.stem for file in samples}
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix.lower() in tables.EXTENSIONS and file.stem not in stems:
            by_folder.setdefault(file.parent, []).append(file)

    likely: list[Path] = []
    for paths in by_folder.values():
        if len(paths) > MOST_TABLES:
            paths = list(filter(_has_usual_name, paths))[:MOST_TABLES]
        likely.extend(paths)
    return likely


def _check_train(lists: Sequence[ListFile], without_samples: Sequence[Path]) -> None:
    """Raises: UserError where only lists for evaluation name samples, beside one for training that names none."""
    splits_of_lists = {listing.split for listing in lists} - {None}
    if not splits_of_lists or "train" in splits_of_lists:
        return

    places = {(listing.path.parent, listing.path.suffix) for listing in lists if listing.split}
    for path in without_samples:
        if splits.from_name(path.stem) == "train" and (path.parent, path.suffix) in places:
            raise UserError(
                f"data.root: {path} names no sample that exists, so that the samples for evaluation, which are listed "
                f"beside it, would be trained on. Its paths must be relative to {path.parent}, or absolute; "
                "without it, move it away."
            )


def _has_usual_name(path: Path) -> bool:
    return splits.from_name(path.stem) is not None or path.stem.lower() in USUAL_NAMES


def lies_below(file: str, folder: str) -> bool:
    return folder == "." or os.path.normpath(file).startswith(os.path.join(folder, ""))


def _scope(listing: ListFile, root: Path) -> str:
    """The folder for whose samples a list stands: its own, or the root where it names files elsewhere."""
    folder = os.path.normpath(listing.path.parent)
    if all(lies_below(file, folder) for file in listing.files):
        return folder
    return os.path.normpath(root)


def _complete(earlier: Listed, listed: Listed) -> bool:
    """Joins a row of another list to an earlier one; False where they contradict each other."""
    before, row = earlier.row, listed.row
    if earlier.list.split != listed.list.split:
        return False
    for old, new in ((before.split, row.split), (before.group, row.group)):
        if None not in (old, new) and old != new:
            return False
    for label, name in row.names.items():
        if before.names.get(label, name) != name:
            return False

    before.names |= row.names
    before.split = before.split or row.split
    before.group = before.group or row.group
    return True


def _check_alike(earlier: Listed, listed: Listed) -> None:
    """Raises: UserError where two rows of one sample differ."""
    before, row = earlier.row, listed.row
    where = f"data.root: {row.path} stands in {_name_rows(earlier, listed)}"
    if (earlier.list.split, before.split) != (listed.list.split, row.split):
        path = listed.list.path
        raise UserError(f"{where}, so that {path} lists {row.path} twice, for different splits. Keep one.")

    if before.names != row.names:
        raise UserError(
            f"{where} with labels {_name_labels(before)}, {_name_labels(row)}: a sample is read once. Keep one "
            "row for each file, or list the parts by columns start and end (video)."
        )

    columns = _differing_columns(earlier, listed)
    if columns:
        raise UserError(
            f"{where}, which differ in {', '.join(columns)}: boxes, captions or parts in other columns than "
            "start and end are not read. Keep one row for each file."
        )
    if before.group != row.group:
        raise UserError(f"{where} with groups {before.group} and {row.group}. Keep one.")


def _differing_columns(earlier: Listed, listed: Listed) -> list[str]:
    """Names of the columns in which two rows of one list differ."""
    if earlier.list is not listed.list:
        return []

    header = listed.list.table.header
    columns = []
    for column, (before, after) in enumerate(zip(earlier.row.cells, listed.row.cells, strict=False)):
        if before.strip() != after.strip():
            title = f"column {column + 1}"
            if header:
                title = header[column]
            columns.append(title)
    return columns


def _name_labels(row: Row) -> str:
    return " ".join(map(str, row.names.values())) or "none"


def _name_rows(earlier: Listed, listed: Listed) -> str:
    path, lines = listed.list.path, (earlier.row.number, listed.row.number)
    if earlier.list is listed.list:
        return f"2 rows of {path} (lines {lines[0]} and {lines[1]})"
    return f"a row of {earlier.list.path} (line {lines[0]}) and one of {path} (line {lines[1]})"
