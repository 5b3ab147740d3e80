"""List files: which samples there are, told by a .txt, .csv or .tsv; paths are relative to the file, or absolute.

- .txt: one path per line, or a path and an integer label apart by a space, tab or comma (`clips/a.mp4 3`);
- .csv, .tsv with a header: a column path, file, ...; if there are any, label, class, ..., split and group columns;
- .csv, .tsv without: path, then the label if any; or lines as in a .txt.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import UserError

EXTENSIONS = (".txt", ".csv", ".tsv")
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "video", "clip")
LABELS = ("label", "class", "category", "target")
SPLITS = ("split", "subset", "partition")
GROUPS = ("group", "scene", "subject", "patient", "person")


@dataclass
class Row:
    """One line: a path as written, class names by label, split and group as written."""

    path: str
    names: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    group: str | None = None


def read(path: Path, labels: Sequence[str] | None = None, group: str | None = None) -> list[Row]:
    """The rows of a list file. `labels` and `group` name columns; otherwise the usual names are looked for.

    Raises UserError when the file is no text, or lacks a column that was asked for.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"data.root: the list file {path} cannot be read as UTF-8 text ({error}).") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"data.root: the list file {path} is empty.")
    delimiter = _delimiter(lines[0])
    cells = list(csv.reader(lines, delimiter=delimiter))
    header = [cell.strip().lower() for cell in cells[0]]
    if path.suffix.lower() == ".txt" or (delimiter not in lines[0] and _column(header, PATHS) is None):
        return [_text_row(line.strip()) for line in lines]
    if _column(header, PATHS) is not None:
        return _rows(path, header, cells[1:], labels, group)
    return [Row(line[0].strip(), {"label": line[1].strip()} if len(line) > 1 else {}) for line in cells]


def has_paths(path: Path) -> bool:
    """Whether the header of a .csv or .tsv has a column of paths."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline()
    return _column([cell.strip().strip('"').lower() for cell in line.split(_delimiter(line))], PATHS) is not None


def _rows(path: Path, header: list[str], lines: list[list[str]], labels, group) -> list[Row]:
    wanted = {name: _asked(path, header, name, "labels") for name in labels or ()}
    if labels is None and (found := _column(header, LABELS)) is not None:
        wanted = {"label": found}
    at = _column(header, PATHS)
    split_at = _column(header, SPLITS)
    group_at = _column(header, GROUPS) if group is None else _asked(path, header, group, "group")
    rows = []
    for number, line in enumerate(lines, start=2):
        if len(line) < len(header):
            raise UserError(f"{path}, line {number}: {len(line)} cells under a header of {len(header)}. Mend the line.")
        names = {name: line[column].strip() for name, column in wanted.items() if line[column].strip()}
        split = None if split_at is None else line[split_at]
        rows.append(Row(line[at].strip(), names, split, None if group_at is None else line[group_at].strip() or None))
    return rows


def _text_row(line: str) -> Row:
    labelled = re.fullmatch(r"(.+?)[\s,]+(\d+)", line)
    return Row(labelled[1], {"label": labelled[2]}) if labelled else Row(line)


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _asked(path: Path, header: list[str], name: str, setting: str) -> int:
    if name.lower() not in header:
        raise UserError(f"data.{setting}: {path} has no column {name!r}; it has {', '.join(header)}.")
    return header.index(name.lower())
