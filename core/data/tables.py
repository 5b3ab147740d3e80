"""List files: samples named by a .csv, .tsv, .txt or .jsonl.

- with a header: a column of paths, and columns of labels, split, group, start and end, by their usual names;
- without: a path and whatever follows it;
- lines of text: a path, then nothing, a label, or a count of frames and a label (`clips/a.mp4 16 3`);
- .jsonl: an object a line, its keys as the header.

The column of paths is the one whose values are files (`forms`). Which others are read, and as what, is noted
(`headers`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from core.data.columns import Name, read_labels
from core.data.forms import PATH_ENDINGS, Cells, Sheet, read_sheet
from core.data.headers import LABEL, LABELS, Uses, find_uses  # noqa: F401 (LABELS: for sidecars)
from core.data.places import Places
from core.data.sources import Part
from core.errors import UserError

EXTENSIONS = (".csv", ".tsv", ".txt", ".jsonl")
ANSWERS = {"": -1.0, "nan": -1.0, "true": 1.0, "false": 0.0}  # in words
MOST_CLASSES = 10_000  # of which a sample may have several
MOST_SHOWN = 4  # columns that a message names
LEAST_NUMBERS, MOST_LINES, BEGINNING = 3, 64, 2**14  # columns, lines, bytes: of texts of numbers


@dataclass
class Row:
    """One line: a path as written, class names or answers by label, split, group, part, and its number.

    `file`: the file that the path leads to, None where there is none. `cells`: the whole line.
    """

    path: str
    names: dict[str, Name] = field(default_factory=dict)
    _: KW_ONLY
    split: str | None = None
    group: str | None = None
    part: Part | None = None
    file: str | None = field(default=None, compare=False)
    cells: Cells = field(default_factory=list, compare=False, repr=False)
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a list. `labels`: the column of each label, in words. `notes`: choices that were made."""

    rows: list[Row]
    header: list[str]  # as written; empty: none
    labels: dict[str, str]
    notes: list[str]


def read(
    path: Path,
    labels: Sequence[str] | None = None,
    group: str | None = None,
    places: Places | None = None,
) -> Table:
    """The rows of a list file. `labels` and `group` name columns; None: the usual names.

    `places`: where listed files are looked for; None: beside the list.
    Raises: UserError where the file is no text, has no column of a given name, or no column of paths.
    """
    places = places or Places(path.parent, None, ())
    sheet = read_sheet(path, places)
    if not sheet.records:
        raise UserError(f"data.root: the list file {path} lists no file.")

    sheet = _with_width(path, raw := sheet, places)
    uses = find_uses(path, sheet, labels=labels, group=group)
    rows = []
    for position in range(len(sheet.records)):
        rows.append(_row(path, sheet, uses, places, position))

    sources = {label: str(column) for label, column in uses.labels.items()}
    notes = list(uses.notes)
    if uses.answers:
        sources[LABEL] = ", ".join(map(str, uses.answers[:MOST_SHOWN]))
        notes += _add_answers(rows, uses)
    elif any(len(cells) > sheet.width for cells in sheet.records):
        sources, notes = _class_numbers(rows, sheet.path_column)
    elif not sheet.header and _are_cut_short(raw, uses):
        for row in rows:
            row.names.clear()
        sources, notes = {}, []
    if not sources and (text := _raggedness(raw)):
        notes = [text]
    return Table(rows=rows, header=sheet.header, labels=sources, notes=notes)


def names_files(path: Path, places: Places) -> bool:
    """Whether a file is text with a column of paths that lead to files.

    Names without their extension count only under a header like path or id: numbers may look like them.
    """
    try:
        sheet = read_sheet(path, places)
    except UserError:
        return False

    if any(way.is_full_name for way in places.ways):
        return True
    if not places.ways or not sheet.header:
        return False
    return sheet.header[sheet.path_column].lower().endswith((*PATH_ENDINGS, "id"))


def holds_numbers(path: Path) -> bool:
    """Whether a text has a row of `LEAST_NUMBERS` numbers or more and nothing else, in its first lines."""
    try:
        with path.open("rb") as file:
            lines = file.read(BEGINNING).splitlines()
    except OSError:  # a file that cannot be read is reported by whoever reads it
        return True

    for line in lines[:MOST_LINES]:
        cells = re.split(r"[\s,;]+", line.decode("latin-1").strip(" \t,;"))
        if len(cells) >= LEAST_NUMBERS and all(map(_is_float, cells)):
            return True
    return False


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _with_width(path: Path, sheet: Sheet, places: Places) -> Sheet:
    """Records at least as wide as the sheet: paths with commas joined again, missing cells empty.

    Raises: UserError for a line that is too short under a header.
    """
    width, column, records = sheet.width, sheet.path_column, []
    for number, cells in zip(sheet.numbers, sheet.records, strict=True):
        more = len(cells) - width
        if more > 0:
            joined = ",".join(cells[column : column + more + 1])
            if places.find(joined) is not None:
                cells = [*cells[:column], joined, *cells[column + more + 1 :]]
        if more < 0 and sheet.header:
            text = f"{len(cells)} cells under a header of {width}"
            raise UserError(f"{path}, line {number}: {text}. Mend the line.")
        records.append([*cells, *[""] * -more])
    return replace(sheet, records=records)


def _row(path: Path, sheet: Sheet, uses: Uses, places: Places, position: int) -> Row:
    cells, number = sheet.records[position], sheet.numbers[position]
    row = Row(cells[sheet.path_column].strip(), cells=cells, number=number)
    row.file = places.find(row.path)
    for label, column in uses.labels.items():
        name = column.values[position]
        if name:  # an empty cell: the sample has no such label
            row.names[label] = name

    if uses.split is not None:
        row.split = uses.split.values[position]
    if uses.group is not None:
        row.group = uses.group.values[position] or None
    if uses.part is not None:
        row.part = uses.part.part(position, f"{path}, line {number}")
    return row


def _add_answers(rows: list[Row], uses: Uses) -> list[str]:
    """Gives rows their answers to the yes/no questions that are columns. Returns notes."""
    columns, titles = [], []
    for column in uses.answers:
        columns.append(list(map(_answer, column.values)))
        if column.title:
            titles.append(column.title)

    questions = None
    if titles:
        questions = np.array(titles)
    return _add_labels(rows, np.array(columns).T, questions)


def _are_cut_short(sheet: Sheet, uses: Uses) -> bool:
    """Whether lines that hold more than a path end before a column that is taken for a label."""
    lengths = [_length(cells) for cells in sheet.records]
    shortest = min((length for length in lengths if length > sheet.path_column + 1), default=sheet.width)
    return any(column.position >= shortest for column in uses.labels.values())


def _length(cells: Cells) -> int:
    """How many cells there are, less empty ones at the end."""
    return max((number for number, cell in enumerate(cells, start=1) if cell.strip()), default=0)


def _raggedness(sheet: Sheet) -> str:
    """A note on lines of unlike numbers of cells, with the remedy; empty where all have as many."""
    lines = dict(zip(map(_length, sheet.records), sheet.numbers, strict=True))
    if len(lines) < 2:
        return ""
    (few, first), (many, last) = (choose(lines.items()) for choose in (min, max))
    return (
        f"lines have unlike numbers of values ({few} in line {first}, {many} in line {last}), so that no label is "
        "read: give all as many, and a header such as path,label"
    )


def _class_numbers(rows: list[Row], path_column: int) -> tuple[dict[str, str], list[str]]:
    """The labels of rows of unlike length: an answer for every class, where they hold class numbers; else none.

    Returns the labels' columns and notes.
    """
    for row in rows:
        row.names.clear()

    cells = [list(filter(None, row.cells[path_column + 1 :])) for row in rows]
    if not all(cell.isdecimal() and int(cell) < MOST_CLASSES for cell in chain.from_iterable(cells)):
        return {}, []

    numbers = [list(map(int, line)) for line in cells]
    answers = np.zeros((len(rows), 1 + max(map(max, filter(None, numbers)))))
    for position, classes in enumerate(numbers):
        answers[position, classes] = 1
    note = "the numbers after each path are read as classes, several for a sample"
    return {LABEL: "the numbers after each path"}, [*_add_labels(rows, answers, None), note]


def _add_labels(rows: list[Row], answers: np.ndarray, questions: np.ndarray | None) -> list[str]:
    labels = read_labels(LABEL, answers, len(rows), questions)
    names: Sequence[Mapping[str, Name]] = labels.names or []
    for row, answer in zip(rows, names, strict=False):
        row.names |= answer
    return labels.notes


def _answer(text: str) -> float:
    """1 yes, 0 no, -1 unknown."""
    text = text.lower()
    if text in ANSWERS:
        return ANSWERS[text]
    return float(text)
