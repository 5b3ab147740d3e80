"""Lists under a root: which files are lists, which samples they name, and what is wrong with them."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.data import splits, tables
from core.data.account import Leftovers
from core.data.clips import ClipFolders
from core.data.places import Places
from core.data.tables import Row, Table
from core.errors import UserError

MOST_TABLES = 32  # in one folder; where there are more, only those named by a split or as below are lists
USUAL_NAMES = ("metadata", "labels", "annotations", "list", "index")
LEAST_SHARE = 0.5  # of the samples in its folders that a list names, unless its name or a column tells the split

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
    def files(self) -> set[str]:
        """The files that it names and that exist."""
        return {row.file for row in self.table.rows if row.file is not None}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The lists of a data set, the folders for whose samples they stand (`scopes`), and lists that do not count."""

    lists: list[ListFile] = field(default_factory=list)
    scopes: set[str] = field(default_factory=set)
    passed_over: set[Path] = field(default_factory=set)

    def covers(self, file: Path) -> bool:
        """Whether the lists decide which samples of the file's folder count."""
        return any(lies_below(str(file), scope) for scope in self.scopes)


@dataclass(frozen=True, kw_only=True)
class ListReader:
    """Opens lists. `labels`, `group`: their columns to use, None for the usual names.

    `reads_parts`: whether samples may be parts of files. `leftovers`, `notes`: get whatever is left out or decided.
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
        table = tables.read(path, self.labels, self.group, Places(path.parent, None, self.extensions, self.clips))
        if all(row.file is None for row in table.rows):
            first = path.parent / table.rows[0].path
            raise UserError(
                f"data.root: {path} lists {first}, which does not exist, nor do the next ones. "
                f"Paths are relative to the list's own folder, {path.parent}, or absolute."
            )
        return ListFile(path=path, table=table)

    def find(self, root: Path, files: Sequence[Path], is_sample: Callable[[str], bool]) -> Listing:
        """The lists among the files of a folder: those most of whose paths lead to samples.

        Lists named by split (train.csv, val.csv) go before others in the same folder, such as an all.csv.
        """
        samples = [file for file in files if is_sample(str(file))]
        lists: list[ListFile] = []
        for path in _likely(files, samples):
            listing = self._try(root, path, is_sample)
            if listing is not None:
                lists.append(listing)
            elif splits.from_name(path.stem):
                self.notes.append(f"{path.relative_to(root)} names no sample that exists, and is not read as a list")
        candidates = {listing.path for listing in lists}

        if any(listing.split for listing in lists):
            for listing in lists:
                if not listing.split:
                    self._leave(listing.path, root, OTHER_LIST)
            lists = [listing for listing in lists if listing.split]

        scopes = {listing.path: _scope(listing, root) for listing in lists}
        for listing in list(lists):
            scope = scopes[listing.path]
            count = sum(lies_below(str(file), scope) for file in samples)
            tells_split = listing.split or any(row.split is not None for row in listing.table.rows)
            if not tells_split and len(listing.files) < LEAST_SHARE * count:
                lists.remove(listing)
                self._leave(listing.path, root, SMALL_LIST)
                name = listing.path.relative_to(root)
                self.notes.append(
                    f"{name} lists {len(listing.files)} of {count} samples: it is not taken for the list of them; "
                    f"data.root={listing.path} takes it"
                )
        lists = self._without_unclear(lists, root)
        passed_over = candidates - {listing.path for listing in lists}
        return Listing(lists=lists, scopes={scopes[listing.path] for listing in lists}, passed_over=passed_over)

    def rows(self, lists: Sequence[ListFile]) -> list[tuple[ListFile, Row]]:
        """The rows of the lists that name an existing file, each sample once.

        Raises: UserError where rows name the same sample, and differ.
        """
        first: dict[tuple, tuple[ListFile, Row]] = {}
        for listing in lists:
            for row in self._parts(listing):
                if row.file is None:
                    kind = os.path.splitext(row.path)[1].lower() or "no extension"
                    self.leftovers.add(MISSING, kind, f"{listing.path.name}, line {row.number}: {row.path}")
                    continue

                earlier = first.setdefault((row.file, row.part), (listing, row))
                if earlier[1] is row:
                    continue
                if earlier[0] is not listing and _complete(earlier[0], earlier[1], listing, row):
                    self.leftovers.add(JOINED, "rows", f"{listing.path.name}, line {row.number}: {row.path}")
                else:
                    self._check_alike(*earlier, listing, row)
                    self.leftovers.add(REPEATED, "rows", f"{listing.path.name}, line {row.number}: {row.path}")
        return list(first.values())

    def _try(self, root: Path, path: Path, is_sample: Callable[[str], bool]) -> ListFile | None:
        """A file as a list; None where it is none. Raises: UserError for a list by its name that is damaged."""
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

    def _without_unclear(self, lists: list[ListFile], root: Path) -> list[ListFile]:
        """The lists whose rows name each sample once; others are noted. Raises: UserError for one named by split."""
        clear = []
        for listing in lists:
            try:
                ListReader.rows(self._silent(), [listing])
            except UserError as error:
                if listing.split or any(row.split is not None for row in listing.table.rows):
                    raise
                self._leave(listing.path, root, NO_LIST)
                self.notes.append(f"{listing.path.relative_to(root)} is not read as a list: {error}")
                continue
            clear.append(listing)
        return clear

    def _silent(self) -> "ListReader":
        """The same reader without an account."""
        return ListReader(
            extensions=self.extensions,
            labels=self.labels,
            group=self.group,
            reads_parts=self.reads_parts,
            leftovers=Leftovers(),
            notes=[],
            clips=self.clips,
        )

    def _parts(self, listing: ListFile) -> list[Row]:
        """The rows, whole files where the modality reads no parts. Raises: UserError where these would coincide."""
        rows = listing.table.rows
        if self.reads_parts or all(row.part is None for row in rows):
            return rows

        counts = Counter(row.file for row in rows if row.file is not None)
        path, count = counts.most_common(1)[0]
        if count > 1:
            raise UserError(
                f"data.root: {listing.path} lists parts of files (start and end), which this modality does not read: "
                f"{path} stands in {count} rows. Cut the files, or list each once."
            )
        self.notes.append(f"the parts (start and end) that {listing.path.name} lists are not read: files are whole")
        for row in rows:
            row.part = None
        return rows

    def _check_alike(self, earlier: ListFile, before: Row, listing: ListFile, row: Row) -> None:
        """Raises: UserError where two rows of one sample differ."""
        where = f"data.root: {row.path} stands in {_name_rows(earlier, before, listing, row)}"
        splits_of_rows = {(earlier.split, before.split), (listing.split, row.split)}
        if len(splits_of_rows) > 1:
            raise UserError(f"{where}, so that {listing.path} lists {row.path} twice, for different splits. Keep one.")

        if before.names != row.names:
            labels = ", ".join(" ".join(map(str, names.values())) or "none" for names in (before.names, row.names))
            raise UserError(
                f"{where} with labels {labels}: a sample is read once. Keep one row for each file, or list the parts "
                "by columns start and end (video)."
            )
        if earlier is listing and [cell.strip() for cell in before.cells] != [cell.strip() for cell in row.cells]:
            header = listing.table.header
            differing = []
            for column, (one, another) in enumerate(zip(before.cells, row.cells, strict=True)):
                if one.strip() != another.strip():
                    differing.append(header[column] if header else f"column {column + 1}")
            raise UserError(
                f"{where}, which differ in {', '.join(differing)}: boxes, captions or parts in other columns than "
                "start and end are not read. Keep one row for each file."
            )
        if before.group != row.group:
            raise UserError(f"{where} with groups {before.group} and {row.group}. Keep one.")

    def _leave(self, path: Path, root: Path, reason: str) -> None:
        self.leftovers.add(reason, path.suffix.lower(), str(path.relative_to(root)))


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
            paths = [path for path in paths if splits.from_name(path.stem) or path.stem.lower() in USUAL_NAMES]
            paths = paths[:MOST_TABLES]
        likely.extend(paths)
    return likely


def lies_below(file: str, folder: str) -> bool:
    return folder == "." or os.path.normpath(file).startswith(os.path.join(folder, ""))


def _scope(listing: ListFile, root: Path) -> str:
    """The folder for whose samples a list stands: its own, or the root where it names files elsewhere."""
    folder = os.path.normpath(listing.path.parent)
    if all(lies_below(file, folder) for file in listing.files):
        return folder
    return os.path.normpath(root)


def _complete(earlier: ListFile, before: Row, listing: ListFile, row: Row) -> bool:
    """Joins a row of another list to an earlier one; False where they contradict each other."""
    if earlier.split != listing.split or (None not in (before.split, row.split) and before.split != row.split):
        return False
    if None not in (before.group, row.group) and before.group != row.group:
        return False
    if any(before.names.get(label, name) != name for label, name in row.names.items()):
        return False

    before.names |= row.names
    before.split = before.split or row.split
    before.group = before.group or row.group
    return True


def _name_rows(earlier: ListFile, before: Row, listing: ListFile, row: Row) -> str:
    if earlier is listing:
        return f"2 rows of {listing.path} (lines {before.number} and {row.number})"
    return f"a row of {earlier.path} (line {before.number}) and one of {listing.path} (line {row.number})"
