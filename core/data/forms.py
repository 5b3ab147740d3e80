"""How the lines of a list are cut into cells, and which column holds paths: that whose values are files."""

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from core.data.places import Places
from core.errors import UserError

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "video", "clip")
PATH_ENDINGS = ("path", "file", "name", "image", "img", "picture", "photo", "video", "clip")
NO_PATHS = ("label", "class", "category", "target")  # beginnings of names that end so, but hold labels
SAMPLE, LARGE_SAMPLE = 64, 512  # lines by which the form of a list is told
MOST_WORDS = 40  # of a line of text among which its path ends
BREAK = r"[\s,;]+"  # between words of a line of text

Cells = list[str]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A list as cells. `header`: as written; empty: none. `numbers`: of the records' lines in the file."""

    header: list[str]
    records: list[Cells]
    numbers: list[int]
    path_column: int

    @cached_property
    def width(self) -> int:
        """Cells of a usual record."""
        return len(self.header) or _usual_width(self.records)


class Form(NamedTuple):
    """A way to cut lines into cells: at a delimiter, or (None) after the path, which may hold spaces."""

    delimiter: str | None
    number_first: bool = False  # a number stands before the path


class Score(NamedTuple):
    """Cells of a column that are files: as written, without leading folders too, without an extension too."""

    exact: int = 0
    named: int = 0
    any: int = 0


class Match(NamedTuple):
    """A form, its column of paths, and whether the first line is a header."""

    form: Form
    column: int
    has_header: bool


def read_sheet(path: Path, places: Places) -> Sheet:
    """The cells of a list file. `places` finds files from then on as this list names them.

    Raises: UserError where the file is no text, or has a header without a column of paths.
    """
    lines = _read_lines(path)
    if path.suffix.lower() == ".jsonl":
        return _json_sheet(path, lines, places)

    match = _match(path, lines, places)
    numbers, records = _cut(lines, match.form, places)
    if not match.has_header:
        return Sheet(header=[], records=records, numbers=numbers, path_column=match.column)

    header, records, numbers = records[0], records[1:], numbers[1:]
    if match.form.delimiter is None:
        header = _text_header(lines, records)
    header = [cell.strip() for cell in header]
    return Sheet(header=header, records=records, numbers=numbers, path_column=match.column)


def spread(lines: list, count: int) -> list:
    """At most so many of the lines, from the first to the last."""
    if len(lines) <= count:
        return lines
    return [lines[number * (len(lines) - 1) // (count - 1)] for number in range(count)]


# Lines and cells


def _read_lines(path: Path) -> list[str]:
    """Lines, at least one of them not blank. Raises: UserError."""
    try:
        content = path.read_bytes()
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = content.decode("utf-16")
        else:  # names in another encoding keep their bytes, by which files are found
            text = content.decode("utf-8-sig", "surrogateescape")
        if "\0" in text:
            raise ValueError("it holds zero bytes")
    except (ValueError, OSError) as error:
        raise UserError(f"data.root: the list file {path} cannot be read as UTF-8 text ({error}).") from error

    if not text.strip():
        raise UserError(f"data.root: the list file {path} is empty.")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _json_sheet(path: Path, lines: list[str], places: Places) -> Sheet:
    """An object a line, its keys as the header. Raises: UserError where a line is no JSON object."""
    objects: dict[int, dict] = {}
    header: dict[str, None] = {}  # an ordered set
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            objects[number] = dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number}: no JSON object ({error}). Mend the line.") from error
        header.update(dict.fromkeys(objects[number]))

    records = []
    for value in objects.values():
        records.append([_json_text(value.get(key)) for key in header])

    column, score = _best_column(spread(records, LARGE_SAMPLE), places)
    if any(score):
        places.restrict_to(_column(records, column, LARGE_SAMPLE))
    else:
        named = _named_path(list(header))
        if named is None:
            raise UserError(_no_path_column(path, list(header)))
        column = named
    return Sheet(header=list(header), records=records, numbers=list(objects), path_column=column)


def _json_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _cut(lines: list[str], form: Form, places: Places | None = None) -> tuple[list[int], list[Cells]]:
    """Numbers of lines that are not blank, and their cells. `places`: finds where paths of text end."""
    numbers, records = [], []
    if form.delimiter is None:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                numbers.append(number)
                records.append(_text_cells(line.strip(), form, places))
        return numbers, records

    reader = csv.reader(map("{}\n".format, lines), delimiter=form.delimiter)
    try:
        for cells in reader:
            if "".join(cells).strip():
                numbers.append(reader.line_num)
                records.append([cell.rstrip("\n") for cell in cells])
    except csv.Error as error:
        raise UserError(f"data.root: line {reader.line_num} of the list cannot be read ({error}).") from error
    return numbers, records


def _text_cells(line: str, form: Form, places: Places | None) -> Cells:
    """The path, then the words that follow it; one cell of them unless all are numbers, or the first two."""
    before = []
    if form.number_first:
        number, _, line = line.partition(" ")
        before, line = [number], line.strip()

    end = _path_end(line, places)
    path, rest = line[:end].strip().strip("\"'"), line[end:].strip(" \t,;")
    words = []
    if rest:
        words = re.split(BREAK, rest)
    if not all(map(is_number, words)):
        words = [rest]
        span = re.fullmatch(rf"(\S+?){BREAK}(\S+?){BREAK}(.+)", rest)  # start and end, before a class of words
        if span is not None and is_number(span[1]) and is_number(span[2]):
            words = list(span.groups())
    return [*before, path, *words]


def _text_header(lines: list[str], records: list[Cells]) -> Cells:
    """Words of the first line, where there is one for each column; else no header."""
    first = next(line for line in lines if line.strip())
    words = re.split(BREAK, first.strip())
    if records and len(words) == _usual_width(records):
        return words
    return []


def _path_end(line: str, places: Places | None) -> int:
    """Where the path ends that begins a line: the longest that is a file, else that has an extension."""
    ends = [match.start() for match in re.finditer(BREAK, line)][:MOST_WORDS]
    ends.append(len(line))
    if places is not None:
        for end in reversed(ends):
            if _is_path(line[:end].strip("\"'"), places, is_word=end == ends[0]):
                return end

    for end in reversed(ends):
        if has_extension(line[:end].strip("\"'")):
            return end

    # Neither: numbers at the end are labels.
    match = re.fullmatch(r"(.+?)((?:[\s,;]+-?\d+)*)", line)
    assert match is not None, "every line matches"
    return match.end(1)


def _is_path(text: str, places: Places, is_word: bool) -> bool:
    """Whether a beginning of a line is a file; a name without extension must be one word (`is_word`)."""
    if places.ways:
        return places.find(text) is not None
    way = places.search(text)
    return way is not None and (way.is_full_name or is_word)


# The form of a list


def _match(path: Path, lines: list[str], places: Places) -> Match:
    """The form by which most paths are files. Raises: UserError for a header without a column of paths."""
    lines = list(filter(str.strip, lines))
    forms = _likely_forms(path, lines)
    for size in (SAMPLE, LARGE_SAMPLE):
        best_form, best_column, best_score = forms[0], 0, Score()
        for form in forms:
            _, records = _cut(spread(lines, size), form, places)
            column, score = _best_column(records, places)
            if score > best_score:
                best_form, best_column, best_score = form, column, score
            if _is_complete(score, records, column, places):
                break

        if any(best_score):
            _, records = _cut(spread(lines, size), best_form, places)
            places.restrict_to(_column(records, best_column, size))
            first = _column(records[:1], best_column, 1)
            is_header = places.find("".join(first)) is None and not any(map(has_extension, first))
            return Match(best_form, best_column, is_header)
    return _match_by_names(path, lines, forms)


def _match_by_names(path: Path, lines: list[str], forms: Sequence[Form]) -> Match:
    """The form of a list of which nothing is a file: by a header, else the likeliest."""
    for form in forms:
        header = _cut(lines[:1], form)[1][0]
        if form.delimiter is None:
            header = lines[0].split()
            if not set(map(str.lower, header)) <= {*PATHS, *NO_PATHS, "split"}:
                continue
        column = _named_path(header)
        if column is not None and not any(map(has_extension, header)):
            return Match(form, column, has_header=True)

    header = _cut(lines[:1], forms[0])[1][0]
    if set(map(str.lower, header)) & {*NO_PATHS, "split"}:
        raise UserError(_no_path_column(path, header))
    return Match(forms[0], 0, has_header=False)


def _likely_forms(path: Path, lines: list[str]) -> list[Form]:
    """Forms that may fit, the likeliest first."""
    first, sample = lines[0], spread(lines, SAMPLE)

    # Lines of text may hold commas in paths; columns have as many delimiters on every line.
    regular, irregular = [], []
    for delimiter in sorted(",;\t", key=first.count, reverse=True):
        counts = {line.count(delimiter) for line in sample}
        is_regular = path.suffix.lower() != ".txt" or (len(counts) == 1 and len(sample) > 1)
        if delimiter in first and is_regular:
            regular.append(Form(delimiter))
        elif counts != {0}:  # the first line may be the start of a quoted name
            irregular.append(Form(delimiter))

    forms = [*regular, Form(None), *irregular]
    if all(re.match(r"\s*-?\d+\s+\S", line) for line in sample):
        forms.append(Form(None, number_first=True))
    return forms


def _best_column(records: list[Cells], places: Places) -> tuple[int, Score]:
    """The column with the most files, and how many there are."""
    best, best_score = 0, Score()
    for column in range(max(map(len, records))):
        ways = list(filter(None, map(places.search, _column(records, column, LARGE_SAMPLE))))
        full = [way for way in ways if way.is_full_name]
        score = Score(sum(not way.strip for way in full), len(full), len(ways))
        if score > best_score:
            best, best_score = column, score
    return best, best_score


def _is_complete(score: Score, records: list[Cells], column: int, places: Places) -> bool:
    """Whether all cells of the column are files, or all but a header: no other form finds more."""
    if score.exact < len(records) - 1:
        return False
    if score.exact == len(records):
        return True
    return len(records) > 1 and not any(map(places.search, _column(records[:1], column, 1)))


def _column(records: list[Cells], column: int, count: int) -> Cells:
    """At most so many cells of a column."""
    return [cells[column] for cells in spread(records, count) if len(cells) > column]


def _no_path_column(path: Path, header: Sequence[str]) -> str:
    return (
        f"data.root: the list file {path} has no column whose values are files, and none called "
        f"{', '.join(PATHS)} (or a name that ends in {', '.join(PATH_ENDINGS)}); its columns are "
        f"{', '.join(header)}. Add one with paths relative to the list's own folder, or absolute."
    )


def _named_path(header: Sequence[str]) -> int | None:
    """The column that is one of paths by its name: a usual one, else one that ends in such a word."""
    names = [name.strip().lower() for name in header]
    for name in PATHS:
        if name in names:
            return names.index(name)
    for column, name in enumerate(names):
        if name.endswith(PATH_ENDINGS) and not name.startswith(NO_PATHS):
            return column
    return None


def is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", text) is not None


def has_extension(text: str) -> bool:
    return re.search(r"\.[a-z0-9]*[a-z][a-z0-9]{0,7}$", text.strip(), re.IGNORECASE) is not None


def _usual_width(records: list[Cells]) -> int:
    return Counter(map(len, records)).most_common(1)[0][0]
