"""The use of every column of a list: labels, split, group, and start and end of parts of files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from core.data import splits
from core.data.forms import Sheet, is_number
from core.data.sources import Part
from core.errors import UserError

LABEL = "label"
LABELS = ("label", "class", "category", "target")
LABEL_WORDS = (*LABELS, "labels", "classes", "categories", "targets", "species", "action", "diagnosis")
BESIDE_LABELS = ("id", "name", "idx", "index", "number")  # class_name, label_id
SPLITS = ("split", "subset", "partition")
GROUPS = ("group", "scene", "subject", "patient", "person")
STARTS = ("start", "begin", "from", "onset", "tmin", "t0", "first")
ENDS = ("end", "stop", "to", "tmax", "t1", "last", "finish")
LENGTHS = ("duration", "length")
# Words beside them: t_start, start_frame, time_start.
BESIDE_TIMES = {"time", "timestamp", "t", "frame", "frames", "sec", "secs", "second", "seconds", "s", "ms", "in"}
CUT_FILES = ("youtube_id", "ytid")  # beside start and end: the files are cut already
ANSWERS = {"0", "1", "-1", "0.0", "1.0", "-1.0", "true", "false", ""}
YES = {"1", "1.0", "true"}
FREE_TEXT = 10  # lines from which values that never repeat are no classes
MOST_SHOWN = 8  # columns that a message names


@dataclass(frozen=True)
class Column:
    """One column: its position, its name as written (empty: none) and its values."""

    position: int
    title: str
    values: list[str] = field(repr=False)

    def __str__(self) -> str:
        if self.title:
            return f"column {self.title!r}"
        return f"column {self.position + 1}"

    @property
    def name(self) -> str:
        return self.title.lower()

    @property
    def words(self) -> list[str]:
        return list(filter(None, re.split(r"[^a-z0-9]+", self.name)))

    @cached_property
    def distinct(self) -> set[str]:
        return set(self.values)

    @cached_property
    def are_integers(self) -> bool:
        return all(re.fullmatch(r"-?\d+", value) for value in self.distinct)

    def spellings(self) -> set[str]:
        """The distinct values in lower case."""
        return set(map(str.lower, self.distinct))

    @cached_property
    def are_answers(self) -> bool:
        """Whether all values are yes (1), no (0) or unknown (-1, empty)."""
        return self.spellings() <= ANSWERS

    @property
    def may_be_classes(self) -> bool:
        """Whether values are classes rather than measurements, identifiers or sentences."""
        if any(is_number(value) and "." in value for value in self.distinct):
            return False
        repeats = len(self.distinct) < len(self.values)
        if self.title:
            return repeats and len(self.distinct - {""}) > 1
        return repeats or len(self.values) < FREE_TEXT

    @property
    def are_counts(self) -> bool:
        """Whether values are measurements (width, frames) rather than class numbers: large integers."""
        return self.are_integers and max(map(int, self.distinct)) >= len(self.values)

    def numbers_lines(self, path_column: int) -> bool:
        """Whether values only number the lines."""
        if not self.are_integers or len(self.values) < 2:
            return False
        numbers = list(map(int, self.values))
        counts_up = all(after - before == 1 for before, after in pairwise(numbers))
        is_likely = self.position < path_column or len(numbers) >= FREE_TEXT
        return counts_up and numbers[0] in (0, 1) and is_likely

    def holds_integers(self) -> bool:
        return self.are_integers

    def partition(self) -> tuple[int, ...]:
        """The classes as numbers in order of appearance: alike for two spellings of the same classes."""
        numbers: dict[str, int] = {}
        return tuple(numbers.setdefault(value, len(numbers)) for value in self.values)


@dataclass(frozen=True, kw_only=True)
class PartColumns:
    """Columns of start and end (or, `is_length`, length) of parts of files, and the unit of their values."""

    start: Column
    end: Column
    unit: str
    is_length: bool = False

    def part(self, row: int, where: str) -> Part | None:
        """The part that a row names; None where both cells are empty, or 0 and -1: the whole file.

        Raises: UserError naming `where` for a part that ends before it starts.
        """
        start, end = to_time(self.start.values[row]) or 0.0, to_time(self.end.values[row])
        if end == -1:
            end = None
        if end is not None and self.is_length:
            end += start
        if end is None and start == 0:
            return None

        if end is not None and end <= start:
            text = f"the part ends at {end:g}, not after its start, {start:g}"
            raise UserError(f"{where}: {text}. Mend the line.")
        if self.unit == "frames":
            return Part(start, end, "frames")
        if self.unit == "milliseconds":
            start, end = start / 1000, end and end / 1000
        return Part(start, end, "seconds")


@dataclass(kw_only=True)
class Uses:
    """Columns by their use. `answers`: those that together hold the answers of one label."""

    labels: dict[str, Column] = field(default_factory=dict)
    answers: list[Column] = field(default_factory=list)
    split: Column | None = None
    group: Column | None = None
    part: PartColumns | None = None
    notes: list[str] = field(default_factory=list)


def find_uses(path: Path, sheet: Sheet, *, labels: Sequence[str] | None, group: str | None) -> Uses:
    """The use of every column, by names if there is a header, else by values.

    `labels` and `group` name columns; None: the usual names. Raises: UserError for a column that is missing.
    """
    columns = _columns(sheet)
    uses, rest = Uses(), columns
    uses.part = _part_columns(rest)
    if uses.part is not None:
        start, end, unit = uses.part.start, uses.part.end, uses.part.unit
        rest = _without(rest, start, end)
        meaning = ("end", "length")[uses.part.is_length]
        uses.notes.append(f"parts of files: {start} is their start, {end} their {meaning}, in {unit}")

    uses.split = _split_column(rest)
    rest = _without(rest, uses.split)
    uses.group = _named(rest, GROUPS, less="id")
    if group is not None:
        uses.group = _require(path, sheet.header, columns, group, setting="group")
    if labels is not None:
        for name in labels:
            uses.labels[name] = _require(path, sheet.header, columns, name, setting="labels")
        return uses

    rest = _without(rest, uses.group)
    if sheet.header:
        _find_named_labels(uses, rest)
    else:
        filled = [column for column in rest if column.distinct != {""}]
        _find_labels(uses, [column for column in filled if not column.numbers_lines(sheet.path_column)])
    return uses


def to_time(value: str) -> float | None:
    """Seconds, or frames: "12.5", "01:02.5", "00:01:02"; None where it is no time."""
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(-?\d+(?:\.\d*)?(?:e-?\d+)?)", value.strip())
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)


def _columns(sheet: Sheet) -> list[Column]:
    """All columns but that of paths."""
    columns = []
    for position in range(sheet.width):
        if position == sheet.path_column:
            continue

        title = ""
        if sheet.header:
            title = sheet.header[position]
        values = [cells[position].strip() for cells in sheet.records]
        columns.append(Column(position, title, values))
    return columns


def _find_named_labels(uses: Uses, rest: list[Column]) -> None:
    """Labels under a header: a column with a usual name, else answers, else the only one of classes."""
    column = _named(rest, LABEL_WORDS) or _named_for_label(rest)
    if column is not None:
        uses.labels[LABEL] = column
        return

    uses.answers = _answers(rest)
    if uses.answers:
        return

    candidates = [column for column in rest if column.may_be_classes and not column.are_counts]
    if len(candidates) == 1:
        uses.labels[LABEL] = candidates[0]
        uses.notes.append(f"{candidates[0]} is taken for the label; data.source.labels=[name] names another")
    elif rest:
        titles = ", ".join(column.title for column in rest[:MOST_SHOWN])
        remedy = "data.source.labels=[name, …] names some"
        uses.notes.append(f"no column is taken for a label (there are {titles}); {remedy}")


def _find_labels(uses: Uses, rest: list[Column]) -> None:
    """Labels without a header: numbers mean what they mean in the usual lists."""
    if not rest:
        return
    uses.answers = _answers(rest)
    if len(uses.answers) == len(rest):
        return
    uses.answers = []
    if all(column.are_integers for column in rest):
        _find_numbers(uses, rest)
        return

    candidates = [column for column in rest if column.may_be_classes]
    if len(candidates) > 1 and len(set(map(Column.partition, candidates))) == 1:  # a class by name and number
        candidates = sorted(candidates, key=Column.holds_integers)[:1]
    if len(candidates) == 1:
        uses.labels[LABEL] = candidates[0]
    else:
        columns = ", ".join(map(str, rest[:MOST_SHOWN]))
        reason = "none of them alone holds classes; a header names them"
        uses.notes.append(f"{columns}: no label is read, for {reason}")


def _find_numbers(uses: Uses, rest: list[Column]) -> None:
    """The label among columns of integers: VideoMAE V2's `path 0 -1`, Kinetics' `path frames label`, …"""
    last = rest[-1]
    if len(rest) == 1:
        uses.labels[LABEL] = last
    elif uses.part is None and len(rest) == 2 and last.distinct == {"-1"}:
        uses.notes.append("two numbers after each path, the second -1, are read as frames, and no label")
    elif uses.part is None and len(rest) == 2:
        uses.labels[LABEL] = last
        uses.notes.append("two numbers after each path are read as the count of frames, and the label")
    elif uses.part is None and len(rest) == 3 and _are_offsets(*rest):
        uses.labels[LABEL] = last
        meaning = "start and count of frames, and the label"
        uses.notes.append(f"three numbers after each path are read as {meaning}")
    else:
        for number, column in enumerate(rest):
            uses.labels[f"{LABEL}_{number}"] = column
        place = "each path" if uses.part is None else "each part"
        uses.notes.append(f"{len(rest)} numbers after {place} are read as labels {', '.join(uses.labels)}")


def _are_offsets(starts: Column, counts: Column, labels: Column) -> bool:
    """Whether three columns are the start and count of frames, and the label."""
    for start, count in zip(map(int, starts.values), map(int, counts.values), strict=True):
        if start >= count:
            return False
    return min(map(int, counts.values)) > max(map(int, labels.values))


def _answers(rest: list[Column]) -> list[Column]:
    """Two columns or more of answers to yes/no questions; none where they do not vary or none is yes."""
    columns = [column for column in rest if column.are_answers]
    values = list(map(Column.spellings, columns))
    if len(columns) > 1 and max(map(len, values)) > 1 and set().union(*values) & YES:
        return columns
    return []


def _named_for_label(rest: list[Column]) -> Column | None:
    """The first column whose name ends in a word of labels: image_class, class_id."""
    for column in rest:
        words = column.words
        while words and words[-1] in BESIDE_LABELS:
            words = words[:-1]
        if words and words[-1] in LABEL_WORDS:
            return column
    return None


def _split_column(rest: list[Column]) -> Column | None:
    """The column that tells the split: by its name, else by values that are all names of splits."""
    named = _named(rest, SPLITS)
    if named is not None:
        return named
    for column in rest:
        marks = set(map(splits.WORDS.get, map(str.lower, column.distinct)))
        if None not in marks and len(marks) > 1 and "train" in marks:
            return column
    return None


def _part_columns(columns: list[Column]) -> PartColumns | None:
    """Columns of start and end of each part.

    Without a header: the first two columns, of rising times (-1: the file's end). Where all are integers,
    a -1 and a label behind them must tell them from other numbers.
    """
    if columns and columns[0].title:
        return _named_parts(columns)
    if len(columns) < 2:
        return None

    start, end = columns[:2]
    for first, last in zip(start.values, end.values, strict=True):
        begin, stop = to_time(first), to_time(last)
        if begin is None or stop is None or begin < 0 or not (begin < stop or stop == -1):
            return None
    if any("." in value for value in start.distinct | end.distinct):
        return PartColumns(start=start, end=end, unit="seconds")
    if len(columns) > 2 and _are_frames(start, end):
        return PartColumns(start=start, end=end, unit="frames")
    return None


def _are_frames(start: Column, end: Column) -> bool:
    """Whether integers are first and last frames, of VideoMAE V2's `path 0 -1 label`, and no answers."""
    if "-1" not in end.distinct:
        return False
    if end.distinct == {"-1"}:
        return len(start.distinct) == 1 or not start.are_answers
    return not end.are_answers


def _named_parts(columns: list[Column]) -> PartColumns | None:
    """Columns of parts under a header; None where no name tells a start, or none an end or length."""
    starts = _naming_time(columns, STARTS)
    ends = _naming_time(columns, ENDS)
    lengths = _naming_time(columns, LENGTHS)
    if _named(columns, CUT_FILES) is not None or not starts or not (ends or lengths):
        return None

    start, candidates = starts[0], ends or lengths
    end = candidates[0]
    for column in candidates:  # of several, the first with the unit of the start
        if _unit(column) == _unit(start):
            end = column
            break

    values = (start.distinct | end.distinct) - {""}
    if not values or None in map(to_time, values):
        return None
    return PartColumns(start=start, end=end, unit=_unit(end), is_length=not ends)


def _naming_time(columns: Sequence[Column], words: Sequence[str]) -> list[Column]:
    """Columns whose name is one of the words, alone or beside words of time: start, t_start, start_frame."""
    named = []
    for column in columns:
        rest = set(column.words) - BESIDE_TIMES
        if len(rest) == 1 and rest <= set(words):
            named.append(column)
    return named


def _unit(column: Column) -> str:
    if {"frame", "frames"} & set(column.words):
        return "frames"
    if "ms" in column.words:
        return "milliseconds"
    return "seconds"


def _named(columns: Sequence[Column], names: Sequence[str], less: str = "") -> Column | None:
    """The column with the first of the names that there is; `less`: a word that may follow it."""
    by_name = {}
    for column in columns:
        by_name.setdefault(column.name.removesuffix(less).rstrip("_ "), column)
    for name in names:
        if name in by_name:
            return by_name[name]
    return None


def _require(path: Path, header: Sequence[str], columns: list[Column], name: str, *, setting: str) -> Column:
    column = _named(columns, [name.lower()])
    if header and column is not None:
        return column
    titles = ", ".join(header) or "no header"
    raise UserError(f"data.source.{setting}: {path} has no column {name!r}; it has {titles}.")


def _without(columns: Sequence[Column], *taken: Column | None) -> list[Column]:
    positions = {column.position for column in taken if column is not None}
    return [column for column in columns if column.position not in positions]
