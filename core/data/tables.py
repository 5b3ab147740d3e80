"""List files: samples named by a .csv, .tsv, .txt or .jsonl.

- with a header: a column of paths, and columns of labels, split, group, start and end, by their usual names;
- without: a path and whatever follows it;
- lines of text: a path, then nothing, a label, or a count of frames and a label (`clips/a.mp4 16 3`);
- .jsonl: an object a line, its keys as the header.

The column of paths is the one whose values are files. Which columns were read, and as what, is noted.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.data import splits
from core.data.columns import Name, read_labels
from core.data.places import Places
from core.data.sources import Part
from core.errors import UserError

EXTENSIONS = (".csv", ".tsv", ".txt", ".jsonl")
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "video", "clip")
PATH_WORDS = ("path", "file", "filename", "filepath", "name", "image", "img", "picture", "photo", "video", "clip")
LABELS = ("label", "class", "category", "target")
LABEL_WORDS = (*LABELS, "labels", "classes", "categories", "targets", "species", "action", "diagnosis")
SPLITS = ("split", "subset", "partition")
GROUPS = ("group", "scene", "subject", "patient", "person")
# Columns of start and end by unit, as a factor to seconds, None for frames.
STARTS = ("start", "begin", "from", "onset", "tmin", "t0", "first")
ENDS = ("end", "stop", "to", "tmax", "t1", "last", "finish")
DURATIONS = ("duration", "length")
LENGTH = ", the second a length"
WHOLE_FILE = ("youtube_id", "ytid")  # beside start and end: the files are cut already

SAMPLE, LARGE_SAMPLE = 64, 512  # lines by which the form of a list is told
FREE_TEXT = 10  # lines from which values that never repeat are no classes
MOST_CLASSES = 10_000  # of which a sample may have several
MOST_SHOWN = 4  # columns that a message names
LABEL = "label"
ANSWERS = {"0", "1", "-1", "0.0", "1.0", "-1.0", "true", "false", ""}
MOST_TOKENS = 40  # words of a line of text among which its path ends

Cells = list[str]
NO_FILE = (0, 0, 0)  # cells of a column that are files: as written, less leading folders, less an extension too


@dataclass
class Row:
    """One line: a path as written, class names or answers by label, split, group and part, and the line's number.

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


class Form(NamedTuple):
    """A way to cut lines into cells: at a delimiter, or (None) after the path, which may hold spaces."""

    delimiter: str | None
    number_first: bool = False  # a number stands before the path


class Columns(NamedTuple):
    """Positions of columns by their use; `answers`: those that together hold the answers of one label."""

    path: int
    labels: dict[str, int]
    answers: list[int]
    split: int | None
    group: int | None
    part: tuple[int, int, str] | None  # start, end or duration, and how they are written
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
    lines = _read_lines(path)
    if path.suffix.lower() == ".jsonl":
        numbers, header, records = _json_records(path, lines)
        path_column = _path_column(header, records, places)
    else:
        form, path_column, has_header = _form(path, lines, places)
        numbers, records = _records(lines, form, places)
        header = records[0] if has_header else []
        numbers, records = numbers[has_header:], records[has_header:]
        if has_header and form.delimiter is None:
            header = _text_header(lines, records)
    if not records:
        raise UserError(f"data.root: the list file {path} lists no file.")

    header = [cell.strip() for cell in header]
    width = len(header) or _usual_width(records)
    records = _with_width(path, records, numbers, width, path_column, places, must_fit=bool(header))
    names = [name.lower() for name in header]
    columns = _columns(path, names, records, path_column, labels=labels, group=group, width=width)
    rows = []
    for number, cells in zip(numbers, records, strict=True):
        rows.append(_row(path, cells, columns, places, number))

    sources = {}
    for label, column in columns.labels.items():
        sources[label] = _name_column(header, column)
    if columns.answers:
        texts = [[cells[column].strip() for column in columns.answers] for cells in records]
        columns.notes.extend(_add_answers(rows, texts, [header[column] for column in columns.answers if header]))
        sources[LABEL] = ", ".join(_name_column(header, column) for column in columns.answers[:MOST_SHOWN])
    elif any(len(cells) > width for cells in records):
        # Lines of unlike length: as many class numbers as the sample has.
        texts = [cells[path_column + 1 :] for cells in records]
        columns.notes.extend(_add_class_numbers(rows, texts))
        sources = {LABEL: "the numbers after each path"}
    return Table(rows=rows, header=header, labels=sources, notes=columns.notes)


def names_files(path: Path, places: Places) -> bool:
    """Whether a file is text with a column of paths that lead to files.

    Names without their extension count only under a header like path or id: numbers may look like them.
    """
    try:
        lines = _read_lines(path)
        if path.suffix.lower() == ".jsonl":
            _, header, records = _json_records(path, lines)
            column = _path_column(header, records, places)
        else:
            form, column, has_header = _form(path, lines, places)
            header = _records(lines[:1], form)[1][0] if has_header and lines[0].strip() else []
    except UserError:
        return False

    if any(way.is_full_name for way in places.ways):
        return True
    return bool(places.ways) and len(header) > column and header[column].strip().lower().endswith((*PATH_WORDS, "id"))


def _name_column(header: Sequence[str], column: int) -> str:
    return f"column {header[column]!r}" if header else f"column {column + 1}"


def _add_answers(rows: list[Row], texts: list[Cells], questions: list[str]) -> list[str]:
    """Gives rows the answers (N, k) to yes/no questions. Returns notes."""
    values = np.array([[_answer(text) for text in line] for line in texts])
    labels = read_labels(LABEL, values, len(rows), np.array(questions) if questions else None)
    for row, names in zip(rows, labels.names or [], strict=False):
        row.names |= names
    return labels.notes


def _add_class_numbers(rows: list[Row], texts: list[Cells]) -> list[str]:
    """Gives rows with several class numbers each an answer for every class. Returns notes."""
    if not all(_are_integers(filter(None, line)) for line in texts):
        return ["lines have unlike numbers of values, so that no column is taken for a label"]

    numbers = [[int(text) for text in line if text] for line in texts]
    largest = max(map(max, filter(None, numbers)))
    if largest >= MOST_CLASSES or min(map(min, filter(None, numbers))) < 0:
        return ["lines have unlike numbers of values, which are no class numbers: no label is read"]

    values = np.zeros((len(rows), largest + 1))
    for row, classes in enumerate(numbers):
        values[row, classes] = 1
    for row in rows:
        row.names.clear()
    notes = read_labels(LABEL, values, len(rows)).notes
    _add_answers(rows, [[str(value) for value in line] for line in values.tolist()], [])
    return [*notes, "the numbers after each path are read as classes, several for a sample"]


def _answer(text: str) -> float:
    """1 yes, 0 no, -1 unknown."""
    if text.lower() in ("", "nan"):
        return -1.0
    return {"true": 1.0, "false": 0.0}.get(text.lower()) or float(text)


# Lines and cells


def _read_lines(path: Path) -> list[str]:
    """Lines, at least one of them not blank. Raises: UserError."""
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        # Names in another encoding keep their bytes, by which files are found.
        text = content.decode(encoding, "strict" if encoding == "utf-16" else "surrogateescape")
        if "\0" in text:
            raise ValueError("it holds zero bytes")
    except (ValueError, OSError) as error:
        raise UserError(f"data.root: the list file {path} cannot be read as UTF-8 text ({error}).") from error

    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not any(line.strip() for line in lines):
        raise UserError(f"data.root: the list file {path} is empty.")
    return lines


def _json_records(path: Path, lines: list[str]) -> tuple[list[int], list[str], list[Cells]]:
    """Line numbers, keys, and values as text. Raises: UserError where a line is no JSON object."""
    objects: dict[int, dict] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            objects[number] = dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number}: no JSON object ({error}). Mend the line.") from error

    header = list(dict.fromkeys(key for value in objects.values() for key in value))
    records = []
    for value in objects.values():
        records.append([_json_text(value.get(key)) for key in header])
    return list(objects), header, records


def _json_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _records(lines: list[str], form: Form, places: Places | None = None) -> tuple[list[int], list[Cells]]:
    """Numbers of lines that are not blank, and their cells. `places`: finds where paths of text end."""
    if form.delimiter is not None:
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=form.delimiter)
        numbers, records = [], []
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    numbers.append(reader.line_num)
                    records.append([cell.rstrip("\n") for cell in cells])
        except csv.Error as error:
            raise UserError(f"data.root: line {reader.line_num} of the list cannot be read ({error}).") from error
        return numbers, records

    numbers, records = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            numbers.append(number)
            records.append(_text_cells(line.strip(), form, places))
    return numbers, records


def _text_cells(line: str, form: Form, places: Places | None) -> Cells:
    """The path, then the words that follow it; one cell of them unless all are numbers."""
    before = []
    if form.number_first:
        number, _, rest = line.partition(" ")
        before, line = [number], rest.strip()

    end = _path_end(line, places)
    path, rest = line[:end].strip().strip("\"'"), line[end:].strip(" \t,;")
    tokens = re.split(r"[\s,;]+", rest) if rest else []
    if not all(map(_is_number, tokens)):
        tokens = [rest]
    return [*before, path, *tokens]


def _text_header(lines: list[str], records: list[Cells]) -> list[str]:
    """Words of the first line, where there is one for each column; else no header."""
    first = next(line for line in lines if line.strip())
    words = re.split(r"[\s,;]+", first.strip())
    if records and len(words) == _usual_width(records):
        return words
    return []


def _path_end(line: str, places: Places | None) -> int:
    """Where the path ends that begins a line: the longest that is a file, else that has an extension."""
    ends = [match.start() for match in re.finditer(r"[\s,;]+", line)][:MOST_TOKENS]
    ends = [*ends, len(line)]
    if places is not None:
        for end in reversed(ends):
            path = line[:end].strip("\"'")
            way = None if places.ways else places.search(path)
            if places.find(path) or (way is not None and (way.is_full_name or end == ends[0])):
                return end

    for end in reversed(ends):
        if re.search(r"\.[a-z0-9]*[a-z][a-z0-9]{0,7}[\"']?$", line[:end], re.IGNORECASE):
            return end

    match = re.fullmatch(r"(.+?)((?:[\s,;]+-?\d+)*)", line)
    assert match is not None, "every line matches"
    return match.end(1)


# The form of a list


def _form(path: Path, lines: list[str], places: Places) -> tuple[Form, int, bool]:
    """The form by which most paths are files, the column of paths, and whether the first line is a header.

    Raises: UserError where no column is one of paths.
    """
    filled = [line for line in lines if line.strip()]
    forms = _likely_forms(path, filled)
    for size in (SAMPLE, LARGE_SAMPLE):
        lines_sampled = _spread(filled, size)
        best, best_score, best_column = forms[0], NO_FILE, 0
        for form in forms:
            column, score = _best_column(_records(lines_sampled, form, places)[1], places)
            if score > best_score:
                best, best_score, best_column = form, score, column
        if any(best_score):
            break

    records = _records(lines_sampled, best, places)[1]
    if any(best_score):
        texts = [cells[best_column] for cells in records if len(cells) > best_column]
        places.restrict_to(texts)
        first = records[0][best_column] if len(records[0]) > best_column else ""
        has_header = places.find(first) is None and not _has_extension(first)
        return best, best_column, has_header

    # Nothing is a file: names alone tell.
    for form in forms:
        header = [cell.strip().lower() for cell in _records(filled[:1], form)[1][0]]
        if form.delimiter is None:
            header = filled[0].lower().split()
            if not set(header) <= {*PATHS, *LABEL_WORDS, *SPLITS, *GROUPS}:
                continue
        column = _named_path(header)
        if column is not None and not any(map(_has_extension, header)):
            return form, column, True

    best = forms[0]
    header = [cell.strip().lower() for cell in _records(filled[:1], best)[1][0]]
    if _first(header, (*LABEL_WORDS, *SPLITS, *GROUPS)) is not None:
        raise UserError(_no_path_column(path, header))
    return best, 0, False


def _likely_forms(path: Path, lines: list[str]) -> list[Form]:
    """Forms that may fit, the likeliest first."""
    text, numbered = Form(None), Form(None, number_first=True)
    first, sample = lines[0], _spread(lines, SAMPLE)
    delimiters = [delimiter for delimiter in sorted(",;\t", key=first.count, reverse=True) if delimiter in first]

    # Lines of text may hold commas in paths; columns have as many delimiters on every line.
    regular, irregular = [], []
    for delimiter in delimiters:
        is_regular = len({line.count(delimiter) for line in sample}) == 1 and len(sample) > 1
        if is_regular or path.suffix.lower() != ".txt":
            regular.append(Form(delimiter))
        else:
            irregular.append(Form(delimiter))
    forms = [*regular, text, *irregular]
    if all(re.match(r"-?\d+\s+\S", line.strip()) for line in lines[:SAMPLE]):
        forms.append(numbered)
    return forms


def _best_column(records: list[Cells], places: Places) -> tuple[int, tuple[int, int, int]]:
    """The column with the most files, and how many there are, as `NO_FILE` counts them."""
    best, best_score = 0, NO_FILE
    for column in range(max(map(len, records))):
        ways = [places.search(cells[column]) for cells in records if len(cells) > column]
        hits = [way for way in ways if way is not None]
        full_names = [way for way in hits if way.is_full_name]
        score = (sum(not way.strip for way in full_names), len(full_names), len(hits))
        if score > best_score:
            best, best_score = column, score
    return best, best_score


def _path_column(header: list[str], records: list[Cells], places: Places) -> int:
    """The column of paths under a header, by its values, else by its name. Raises: UserError."""
    sample = _spread(records, LARGE_SAMPLE)
    column, score = _best_column(sample, places)
    if any(score):
        places.restrict_to(cells[column] for cells in sample)
        return column

    named = _named_path([name.strip().lower() for name in header])
    if named is None:
        raise UserError(_no_path_column(None, header))
    return named


def _no_path_column(path: Path | None, header: Sequence[str]) -> str:
    where = f"the list file {path}" if path else "the list"
    return (
        f"data.root: {where} has no column whose values are files, and none called {', '.join(PATHS)} (or a name that "
        f"ends in {', '.join(PATH_WORDS)}); its columns are {', '.join(header)}. Add one with paths relative to the "
        "list's own folder, or absolute."
    )


def _named_path(header: Sequence[str]) -> int | None:
    """The column that is one of paths by its name: a usual one, else one that ends in such a word."""
    column = _first(header, PATHS)
    if column is not None:
        return column
    for column, name in enumerate(header):
        if name.endswith(PATH_WORDS) and not name.startswith(LABELS):
            return column
    return None


# Columns


def _columns(
    path: Path,
    header: list[str],
    records: list[Cells],
    path_column: int,
    *,
    labels: Sequence[str] | None,
    group: str | None,
    width: int,
) -> Columns:
    """The use of every column, by names if there is a header, else by values."""
    notes: list[str] = []
    rest = [column for column in range(width) if column != path_column]
    values = {column: [cells[column].strip() for cells in records] for column in rest}

    part = _part_columns(header, values)
    if part is not None:
        rest = [column for column in rest if column not in part[:2]]
        start, end = (header[column] if header else f"{column + 1}" for column in part[:2])
        notes.append(f"columns {start} and {end} are read as start and end of parts of files, in {part[2]}")

    split = _split_column(header, rest, values)
    rest = [column for column in rest if column != split]

    group_column = _named_group(header, rest)
    if group is not None:
        group_column = _require_column(path, header, group, "group")

    label_columns: dict[str, int] = {}
    answers: list[int] = []
    if labels is not None:
        label_columns = {name: _require_column(path, header, name, "labels") for name in labels}
    else:
        rest = [column for column in rest if column != group_column]
        answers = _answer_columns(header, rest, values)
        if not answers:
            label_columns, label_notes = _label_columns(header, rest, values, path_column)
            notes.extend(label_notes)
    return Columns(path_column, label_columns, answers, split, group_column, part, notes)


def _label_columns(
    header: list[str], rest: list[int], values: Mapping[int, list[str]], path_column: int
) -> tuple[dict[str, int], list[str]]:
    """Columns by label, and notes on the choice."""
    if header:
        column = _named_label(header, rest)
        if column is not None:
            return {"label": column}, []

        candidates = [column for column in rest if _may_be_classes(values[column], is_named=True)]
        if len(candidates) == 1 and not _is_count(values[candidates[0]]):
            name = header[candidates[0]]
            return {"label": candidates[0]}, [f"column {name!r} is taken for the label; data.labels= names another"]
        if rest:
            names = ", ".join(header[column] for column in rest[:8])
            return {}, [f"no column is taken for a label (there are {names}); data.labels=[name, …] names some"]
        return {}, []

    # Without a header: numbers mean what the usual lists mean by them.
    rest = [column for column in rest if not _is_index(values[column], column, path_column)]
    if not rest:
        return {}, []
    if all(_are_integers(values[column]) for column in rest):
        return _number_columns(rest, values)

    candidates = [column for column in rest if _may_be_classes(values[column], is_named=False)]
    if len(candidates) > 1 and len(set(_partition(values[column]) for column in candidates)) == 1:
        words = [column for column in candidates if not _are_integers(values[column])]
        return {"label": (words or candidates)[0]}, []  # a class by name and number
    if len(candidates) == 1:
        return {"label": candidates[0]}, []
    numbers = ", ".join(str(column + 1) for column in rest[:8])
    return {}, [f"columns {numbers} are not read: none of them alone holds classes; a header names them"]


def _answer_columns(header: list[str], rest: list[int], values: Mapping[int, list[str]]) -> list[int]:
    """Two columns or more that hold nothing but answers to yes/no questions, where no column is named for a label."""
    if header and _named_label(header, rest) is not None:
        return []
    columns = [column for column in rest if set(map(str.lower, values[column])) <= ANSWERS]
    is_all = header or len(columns) == len(rest)
    has_yes = any({"1", "1.0", "true"} & set(map(str.lower, values[column])) for column in columns)
    varies = any(len(set(values[column])) > 1 for column in columns)
    return columns if len(columns) > 1 and is_all and has_yes and varies else []


def _number_columns(rest: list[int], values: Mapping[int, list[str]]) -> tuple[dict[str, int], list[str]]:
    """Labels among columns of integers alone: VideoMAE V2's `path 0 -1`, Kinetics' `path frames label`, …"""
    last = rest[-1]
    if len(rest) == 1:
        return {"label": last}, []
    if len(rest) == 2 and set(values[last]) == {"-1"}:
        return {}, ["two numbers after each path, the second -1: read as start or frames, and no label"]
    if len(rest) == 2:
        return {"label": last}, ["two numbers after each path: read as the count of frames, and the label"]

    if len(rest) == 3:
        starts, counts, labels = ([int(value) for value in values[column]] for column in rest)
        ascending = all(start < count for start, count in zip(starts, counts, strict=True))
        if ascending and min(counts) > max(labels):
            return {"label": last}, ["three numbers after each path: read as start and count of frames, and the label"]

    names = {f"label_{number}": column for number, column in enumerate(rest)}
    return names, [f"{len(rest)} numbers after each path: read as labels {', '.join(names)}"]


def _named_label(header: list[str], rest: list[int]) -> int | None:
    """The column with a usual name of labels, else with one that ends in such a word."""
    names = [header[column] for column in rest]
    position = _first(names, (*LABELS, *LABEL_WORDS))
    if position is not None:
        return rest[position]

    for column in rest:
        words = [word for word in _words(header[column]) if word not in ("id", "name", "idx", "index", "number")]
        if words and words[-1] in LABEL_WORDS:
            return column
    return None


def _named_group(header: list[str], rest: list[int]) -> int | None:
    names = []
    for column in rest:
        names.append(re.sub(r"[_ ]?id$", "", header[column]) if header else "")
    position = _first(names, GROUPS)
    return None if position is None else rest[position]


def _split_column(header: list[str], rest: list[int], values: Mapping[int, list[str]]) -> int | None:
    """The column that tells the split: by its name, else by values that are all names of splits."""
    if header:
        names = [header[column] for column in rest]
        position = _first(names, SPLITS)
        if position is not None:
            return rest[position]

    for column in rest:
        marks = {splits.WORDS.get(value.lower()) for value in set(values[column])}
        if None not in marks and len(marks) > 1 and "train" in marks:
            return column
    return None


def _part_columns(header: list[str], values: Mapping[int, list[str]]) -> tuple[int, int, str] | None:
    """Columns of start and end of each part, and how times are written: see `_unit`.

    Without a header: the first two columns, of rising times that are not all integers.
    """
    if header:
        starts = [column for column in values if _names_time(header[column], STARTS)]
        ends = [column for column in values if _names_time(header[column], ENDS)]
        lengths = [column for column in values if _names_time(header[column], DURATIONS)]
        if any(name in header for name in WHOLE_FILE) or not starts or not (ends or lengths):
            return None

        start = starts[0]
        if ends:
            end = next((column for column in ends if _unit(header[column]) == _unit(header[start])), ends[0])
            part = (start, end, _unit(header[end]))
        else:
            part = (start, lengths[0], f"{_unit(header[lengths[0]])}{LENGTH}")
        numbers = [_time(value) for column in part[:2] for value in values[column] if value]
        return part if None not in numbers and numbers else None

    if len(values) < 2:
        return None
    start, end = sorted(values)[:2]
    times = [(_time(first), _time(last)) for first, last in zip(values[start], values[end], strict=True)]
    are_rising = all(first is not None and last is not None and 0 <= first < last for first, last in times)
    if are_rising and any("." in value for value in (*values[start], *values[end])):
        return start, end, "seconds"
    return None


def _names_time(name: str, words: Sequence[str]) -> bool:
    """Whether a name is one of the words, alone or beside words of time: start, t_start, start_frame, time_start."""
    beside = ("time", "timestamp", "t", "frame", "frames", "sec", "secs", "second", "seconds", "s", "ms", "in", "idx")
    parts = [part for part in _words(name) if part not in beside]
    return len(parts) == 1 and parts[0] in words


def _unit(name: str) -> str:
    words = _words(name)
    if "frame" in words or "frames" in words:
        return "frames"
    return "milliseconds" if "ms" in words else "seconds"


def _time(value: str) -> float | None:
    """Seconds, or frames: "12.5", "01:02.5", "00:01:02"; None where it is no time."""
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(-?\d+(?:\.\d*)?(?:e-?\d+)?)", value.strip())
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)


# Rows


def _with_width(
    path: Path,
    records: list[Cells],
    numbers: list[int],
    width: int,
    path_column: int,
    places: Places,
    *,
    must_fit: bool,
) -> list[Cells]:
    """Records of `width` cells each: a path with commas joined again, missing cells empty.

    Raises: UserError for a line that is too short under a header.
    """
    result = []
    for number, cells in zip(numbers, records, strict=True):
        more = len(cells) - width
        if more > 0:
            joined = ",".join(cells[path_column : path_column + more + 1])
            if places.find(joined) is not None:
                cells = [*cells[:path_column], joined, *cells[path_column + more + 1 :]]
        if must_fit and more < 0:
            raise UserError(f"{path}, line {number}: {len(cells)} cells under a header of {width}. Mend the line.")
        result.append([*cells, *[""] * -more])
    return result


def _row(path: Path, cells: Cells, columns: Columns, places: Places, number: int) -> Row:
    """Raises: UserError for a part that ends before it starts."""
    row = Row(cells[columns.path].strip(), cells=cells, number=number)
    row.file = places.find(row.path)
    for label, column in columns.labels.items():
        name = cells[column].strip()
        if name:  # an empty cell: the sample has no such label
            row.names[label] = name

    if columns.split is not None:
        row.split = cells[columns.split]
    if columns.group is not None:
        row.group = cells[columns.group].strip() or None
    if columns.part is not None:
        row.part = _part(f"{path}, line {number}", cells, columns.part)
    return row


def _part(where: str, cells: Cells, columns: tuple[int, int, str]) -> Part | None:
    """The part that a line names; None where both its cells are empty or 0 and -1: the whole file."""
    start_column, end_column, unit = columns
    start, end = _time(cells[start_column]) or 0.0, _time(cells[end_column])
    if end is not None and unit.endswith(LENGTH):
        end, unit = start + end, unit.removesuffix(LENGTH)
    if end == -1:
        end = None
    if end is None and start == 0:
        return None

    if end is not None and end <= start:
        raise UserError(f"{where}: the part ends at {end:g}, not after its start, {start:g}. Mend the line.")
    if unit == "frames":
        return Part(start, end, "frames")
    scale = 1000.0 if unit == "milliseconds" else 1.0
    return Part(start / scale, None if end is None else end / scale, "seconds")


# Values


def _may_be_classes(values: list[str], *, is_named: bool) -> bool:
    """Whether values are classes rather than measurements, identifiers or sentences."""
    distinct = set(values) - {""}
    if len(distinct) < 2 and is_named:
        return False
    if any(_is_number(value) and "." in value for value in distinct):
        return False
    if is_named:
        return len(distinct) < len(values)
    return len(values) < FREE_TEXT or len(distinct) < len(values)


def _is_count(values: list[str]) -> bool:
    """Whether values look like measurements (width, frames) rather than class numbers: large integers."""
    return _are_integers(values) and max(map(int, values)) >= len(values)


def _is_index(values: list[str], column: int, path_column: int) -> bool:
    """Whether a column only numbers the lines."""
    if not _are_integers(values) or len(values) < 2:
        return False
    numbers = [int(value) for value in values]
    counts_up = all(after - before == 1 for before, after in pairwise(numbers))
    return counts_up and numbers[0] in (0, 1) and (column < path_column or len(values) >= FREE_TEXT)


def _partition(values: list[str]) -> tuple[int, ...]:
    """The classes as numbers in order of appearance: alike for two spellings of the same classes."""
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(value, len(numbers)) for value in values)


def _are_integers(values: Iterable[str]) -> bool:
    return all(re.fullmatch(r"-?\d+", value) for value in values)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", text) is not None


def _has_extension(text: str) -> bool:
    return re.search(r"\.[a-z0-9]*[a-z][a-z0-9]{0,7}$", text.strip(), re.IGNORECASE) is not None


def _usual_width(records: list[Cells]) -> int:
    return Counter(map(len, records)).most_common(1)[0][0]


def _spread(lines: list, count: int) -> list:
    """At most so many of the lines, from the first to the last."""
    if len(lines) <= count:
        return lines
    return [lines[number * (len(lines) - 1) // (count - 1)] for number in range(count)]


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _first(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Position of the first of the names that the header has."""
    for name in names:
        if name in header:
            return list(header).index(name)
    return None


def _require_column(path: Path, header: list[str], name: str, setting: str) -> int:
    if name.lower() not in header:
        raise UserError(f"data.{setting}: {path} has no column {name!r}; it has {', '.join(header) or 'no header'}.")
    return header.index(name.lower())
