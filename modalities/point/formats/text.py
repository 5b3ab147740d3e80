"""Rows of numbers: .txt, .xyz, .xyzn, .xyzrgb, .csv, .pts; columns parted by blanks, tabs, commas or semicolons."""

import io
import re
import warnings
from collections.abc import Sequence
from itertools import chain, islice
from typing import TextIO

import numpy as np

from core.data.sources import Item
from core.errors import BadSample
from modalities.point.formats.cloud import Cloud, axes_first, open_binary

CHUNK = 2**18  # lines
MOST_HEADER = 64  # lines before the first row of numbers
MOST_SHOWN = 40  # characters of a line in a message
COMMENTS = ("#", "//")


def read(item: Item) -> Cloud:
    """All rows in double precision. Lines before the first row of numbers are a header.

    Where the last of them names the columns, x, y and z come first. Decimal commas are read where columns are
    parted by semicolons. Memory: the numbers, and `CHUNK` lines of text.
    Raises: BadSample with the number of the line at fault.
    """
    stream = open_binary(item)
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace") as file:
        header, first = _header(file)
        separator = _separator(first)
        width = len(_cells(first, separator))

        chunks, number = [], len(header) + 1
        lines = chain([first], file)
        while chunk := list(islice(lines, CHUNK)):
            chunks.append(_parse(chunk, separator, width, number))
            number += len(chunk)

    points = np.concatenate(chunks)
    columns = _columns(header, width)
    if columns != list(range(width)):
        points = points[:, columns]
    return Cloud(points)


def _header(file: TextIO) -> tuple[list[str], str]:
    """Lines before the first row of numbers, and that row."""
    header = []
    for line in islice(file, MOST_HEADER):
        if _is_row(line):
            return header, line
        header.append(line)

    content = next(filter(str.strip, header), "")
    shown = "".join(filter(str.isprintable, content))[:MOST_SHOWN]
    raise BadSample(f"holds no row of three numbers or more; it begins with {shown!r}")


def _is_row(line: str) -> bool:
    separator = _separator(line)
    cells = _cells(line, separator)
    return len(cells) >= 3 and all(_number(cell, separator) is not None for cell in cells)


def _separator(line: str) -> str | None:
    """The character between columns; None: blanks."""
    for separator in ";,":
        if separator in line:
            return separator
    return None


def _cells(line: str, separator: str | None) -> list[str]:
    """The columns of a line; one separator more at its end begins none."""
    line = line.strip()
    if separator is not None:
        line = line.removesuffix(separator)
    return line.split(separator) if line else []


def _number(cell: str, separator: str | None) -> float | None:
    if separator == ";":
        cell = cell.replace(",", ".")
    try:
        return float(cell)
    except ValueError:
        return None


def _parse(lines: Sequence[str], separator: str | None, width: int, start: int) -> np.ndarray:
    """Numbers (rows, width). `start`: the number of the first line."""
    texts = lines
    if separator == ";":
        texts = [line.replace(",", ".") for line in texts]
    if separator is not None and texts[0].strip().endswith(separator):
        texts = [line.strip().removesuffix(separator) for line in texts]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chunks of nothing but blank lines
            rows = np.loadtxt(texts, delimiter=separator, comments=COMMENTS, ndmin=2)
    except ValueError as error:
        raise BadSample(_fault(lines, separator, width, start)) from error
    if rows.size and rows.shape[1] != width:
        raise BadSample(_fault(lines, separator, width, start))
    return rows.reshape(-1, width)


def _fault(lines: Sequence[str], separator: str | None, width: int, start: int) -> str:
    """The first line that is no row of `width` numbers."""
    for number, line in enumerate(lines, start):
        for comment in COMMENTS:
            line = line.partition(comment)[0]
        cells = _cells(line, separator)
        if cells and len(cells) != width:
            return f"line {number} has {len(cells)} columns, the lines before it {width}: mend or remove it"
        for cell in cells:
            if _number(cell, separator) is None:
                return f"line {number} has {cell.strip()[:MOST_SHOWN]!r} for a number: mend or remove it"
    return f"its rows are not {width} numbers each"


def _columns(header: Sequence[str], width: int) -> list[int]:
    """The order of columns that puts x, y and z first, where the header names them."""
    for line in reversed(header):
        names = re.split(r"[\s,;]+", line.strip().lstrip("#/").strip(" \t,;").lower().replace('"', ""))
        order = axes_first(names)
        if len(names) == len(set(names)) == width and order is not None:
            return list(map(names.index, order))
    return list(range(width))
