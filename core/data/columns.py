"""Arrays of labels as a label for each sample: class names, or answers to yes/no questions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

MOST_COLUMNS = 32  # of numbers or words, each a label of its own; wider arrays are no labels
UNKNOWN = "-1"


class Answers(NamedTuple):
    """Answers to several yes/no questions: 1 yes, 0 no, -1 unknown. `questions`: their names."""

    values: tuple[int, ...]
    questions: tuple[str, ...]


Name = str | Answers  # of a class, or answers


class Labels(NamedTuple):
    """Names by label for every sample; `notes`: how they were read, or why they are left out."""

    names: list[Mapping[str, Name]] | None
    notes: list[str]


def read_labels(key: str, values: np.ndarray, count: int, classes: np.ndarray | None = None) -> Labels:
    """Labels of `count` samples out of one array.

    (N,) or as many values in another shape: a class each, or a real value. (N, k) of 0 and 1: answers to k
    questions (one-hot rows among them, which `labels.numbers` turns into classes). (N, k) of other numbers or
    of words: k labels. Anything else is left out, with a note.

    `classes`: names of the classes or questions, or None.
    """
    if values.dtype.kind not in "biufUS":
        return Labels(None, [f"{key!r} is left out: values of type {values.dtype} are no labels"])
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")

    if values.size == count:
        return _one_column("label", values.reshape(-1), classes)

    width = max(values.shape[1:], default=0)
    if values.shape[:1] != (count,) or values.size != count * width:
        shape = f"its shape {values.shape} does not fit {count} samples"
        return Labels(None, [f"{key!r} is left out: {shape}, so that nothing is labelled by it"])

    rows = values.reshape(count, width)
    if _are_answers(rows):
        return _answers(key, rows, classes)
    if width > MOST_COLUMNS:
        reason = f"{width} numbers a sample are no labels (at most {MOST_COLUMNS})"
        return Labels(None, [f"{key!r} is left out: {reason}"])

    names: list[dict[str, Name]] = [{} for _ in range(count)]
    for column in range(width):
        part, _ = _one_column(f"label_{column}", rows[:, column])
        for row, label in zip(names, part or [], strict=True):
            row.update(label)
    return Labels(list(names), [f"{key!r} holds {width} labels a sample: label_0 to label_{width - 1}"])


def text_of(value: object) -> str:
    """A label's value as a class name: 3.0 and "3 " give "3"."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def _one_column(label: str, values: np.ndarray, classes: np.ndarray | None = None) -> Labels:
    """A class name for each of `values` (N,); NaN, infinity and empty words are unknown."""
    is_known = _finite(values)
    as_text = text_of
    if values.dtype.kind == "f" and (values[is_known] % 1).any():
        as_text = str  # real values: -1.0 is one of them

    texts = []
    for value, is_label in zip(values, is_known, strict=True):
        text = ""
        if is_label:
            text = as_text(value)
        texts.append(text or UNKNOWN)

    notes = []
    if classes is not None:
        texts, notes = _with_names(texts, classes)

    names: list[Mapping[str, Name]] = []
    for text in texts:
        name = {}
        if text != UNKNOWN:
            name = {label: text}
        names.append(name)
    return Labels(names, notes)


def _with_names(texts: list[str], classes: np.ndarray) -> tuple[list[str], list[str]]:
    """Names for class numbers, and a note where the names do not fit them."""
    names = _class_names(classes)
    numbers = {text for text in texts if text != UNKNOWN}
    if not all(text.isdecimal() and int(text) < len(names) for text in numbers):
        return texts, [f"the {len(names)} class names are left out: they do not fit the labels"]

    result = []
    for text in texts:
        if text != UNKNOWN:
            text = names[int(text)]
        result.append(text)
    return result, []


def _answers(key: str, rows: np.ndarray, classes: np.ndarray | None) -> Labels:
    """Answers of `rows` (N, k): 0 is no and 1 yes, or -1 is no where there is no 0.

    Else -1, and NaN anywhere, are unknown.
    """
    values = rows
    if rows.dtype.kind == "f":
        values = np.where(np.isfinite(rows), rows, -1)
    values = values.astype(np.int64)
    notes = [f"{key!r}: {rows.shape[1]} yes/no answers a sample"]
    if (values == 1).any() and not (values == 0).any():
        values = np.where(values == 1, 1, 0)
        notes = [f"{notes[0]}, where -1 is no"]

    questions = tuple(map(str, range(rows.shape[1])))
    if classes is not None and len(classes) == rows.shape[1]:
        questions = tuple(_class_names(classes))

    names: list[Mapping[str, Name]] = [{"label": Answers(tuple(row), questions)} for row in values.tolist()]
    return Labels(names, notes)


def _are_answers(rows: np.ndarray) -> bool:
    """Whether `rows` (N, k) hold 0 and 1, or -1 and 1, and unknown values alone."""
    if rows.dtype.kind not in "biuf":
        return False
    is_answer = (rows == 0) | (rows == 1) | (rows == -1)
    return bool((is_answer | ~_finite(rows)).all())


def _finite(rows: np.ndarray) -> np.ndarray:
    if rows.dtype.kind == "f":
        return np.isfinite(rows)
    return np.ones(rows.shape, dtype=bool)


def _class_names(classes: np.ndarray) -> Sequence[str]:
    if classes.dtype.kind == "S":
        classes = np.char.decode(classes, "utf-8", "replace")
    return [text_of(name) for name in classes.reshape(-1)]
