"""List files: samples named by a .txt, .csv or .tsv; paths are relative to the file, or absolute.

- .txt: one path per line, or a path and an integer label apart by a space, tab or comma (`clips/a.mp4 3`);
- .csv, .tsv with a header: a column path, file, …; optional columns label, class, …, split and group;
- .csv, .tsv without: path, then the label if any; or lines as in a .txt.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
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
    _: KW_ONLY
    split: str | None = None
    group: str | None = None


def read(path: Path, labels: Sequence[str] | None = None, group: str | None = None) -> list[Row]:
    """The rows of a list file. `labels` and `group` name columns; None: the usual names.

    Raises: UserError where the file is no text, or has no column of a given name.
    """
    lines = _read_lines(path)
    delimiter = _delimiter(lines[0])
    cells = list(csv.reader(lines, delimiter=delimiter))
    header = [cell.strip().lower() for cell in cells[0]]
    has_header = _column(header, PATHS) is not None

    if path.suffix.lower() == ".txt" or (delimiter not in lines[0] and not has_header):
        return [_text_row(line.strip()) for line in lines]
    if has_header:
        return _table_rows(path, header, cells[1:], labels, group)
    return [_bare_row(line) for line in cells]


def has_paths(path: Path) -> bool:
    """Whether the header of a .csv or .tsv has a column of paths."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline()
    header = [cell.strip().strip('"').lower() for cell in line.split(_delimiter(line))]
    return _column(header, PATHS) is not None


def _read_lines(path: Path) -> list[str]:
    """Lines that are not blank, at least one. Raises: UserError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"data.root: the list file {path} cannot be read as UTF-8 text ({error}).") from error

    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"data.root: the list file {path} is empty.")
    return lines


def _table_rows(
    path: Path, header: list[str], lines: list[list[str]], labels: Sequence[str] | None, group: str | None
) -> list[Row]:
    """Rows under a header. Raises: UserError for a column that is missing, or a line that is too short."""
    path_column = _column(header, PATHS)
    assert path_column is not None, "a header is one by its column of paths"
    label_columns = _label_columns(path, header, labels)
    split_column = _column(header, SPLITS)
    group_column = _group_column(path, header, group)

    rows = []
    for number, line in enumerate(lines, start=2):
        if len(line) < len(header):
            raise UserError(f"{path}, line {number}: {len(line)} cells under a header of {len(header)}. Mend the line.")

        row = Row(line[path_column].strip())
        for label, column in label_columns.items():
            name = line[column].strip()
            if name:  # an empty cell: the sample has no such label
                row.names[label] = name
        if split_column is not None:
            row.split = line[split_column]
        if group_column is not None:
            row.group = line[group_column].strip() or None
        rows.append(row)
    return rows


def _label_columns(path: Path, header: list[str], labels: Sequence[str] | None) -> dict[str, int]:
    """Columns by label: the given ones, else the first with a usual name, as "label"."""
    if labels is not None:
        return {name: _require_column(path, header, name, "labels") for name in labels}
    column = _column(header, LABELS)
    if column is None:
        return {}
    return {"label": column}


def _group_column(path: Path, header: list[str], group: str | None) -> int | None:
    if group is not None:
        return _require_column(path, header, group, "group")
    return _column(header, GROUPS)


def _text_row(line: str) -> Row:
    """A path, or a path and an integer."""
    match = re.fullmatch(r"(.+?)[\s,]+(\d+)", line)
    if match is None:
        return Row(line)
    return Row(match[1], {"label": match[2]})


def _bare_row(cells: list[str]) -> Row:
    """A line of a table without header: the path, then the label if any."""
    row = Row(cells[0].strip())
    if len(cells) > 1:
        row.names["label"] = cells[1].strip()
    return row


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Position of the first of the names that the header has."""
    for name in names:
        if name in header:
            return header.index(name)
    return None


def _require_column(path: Path, header: list[str], name: str, setting: str) -> int:
    if name.lower() not in header:
        raise UserError(f"data.{setting}: {path} has no column {name!r}; it has {', '.join(header)}.")
    return header.index(name.lower())
