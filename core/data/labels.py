"""Labels of samples: class names and their numbers, and answers to yes/no questions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.data.columns import UNKNOWN, Answers, Name
from core.data.scan import Entry

MOST_CLASSES = 100_000  # integers beyond it are names (years, identifiers), not class numbers


class Numbering(NamedTuple):
    """Labels of every sample by name: a class number, or answers (1 yes, 0 no, -1 unknown).

    `classes`, `questions`: names of the classes, or of the questions, of each label. `notes`: choices made.
    """

    numbers: list[dict[str, int | tuple[float, ...]]]
    classes: dict[str, list[str]]
    questions: dict[str, list[str]]
    notes: list[str]


def names(entries: Sequence[Entry], split_names: Sequence[tuple[str, ...]]) -> list[Mapping[str, Name]]:
    """Class names (or answers) by label for each sample: of a table or file, else the first
    folder that not all share.

    `split_names`: of each sample's folders and archives those that tell its split, which are no classes.
    """
    if any(entry.names for entry in entries):
        return [entry.names for entry in entries]

    paths = []
    for entry, without in zip(entries, split_names, strict=True):
        folders = list(entry.folders)
        for name in without:
            if name in folders:
                folders.remove(name)
        paths.append(tuple(folders))

    # Folders above all samples are no class.
    depth = _shared_depth(paths)
    names: list[Mapping[str, Name]] = []
    for path in paths:
        name = {}
        if len(path) > depth:
            name = {"label": path[depth]}
        names.append(name)
    return names


def numbers(names: Sequence[Mapping[str, Name]]) -> Numbering:
    """Numbers or answers by label for each sample, with the names of classes or questions.

    Integers keep their values (an official numbering survives in a part of the classes); -1 means unknown.
    Other names are sorted. Answers with one yes in every row (one-hot) are classes. Answers to unlike
    questions, or beside class names, are left out, with a note.
    """
    names_by_label: dict[str, set[Name]] = {}
    for sample in names:
        for label, name in sample.items():
            names_by_label.setdefault(label, set()).add(name)

    classes: dict[str, list[str]] = {}
    questions: dict[str, list[str]] = {}
    value_of: dict[tuple[str, Name], int | tuple[float, ...]] = {}
    notes: list[str] = []
    for label, distinct in sorted(names_by_label.items()):
        class_of, answers = _class_names(distinct)
        if answers and class_of:
            notes.append(f"{label} is left out: some samples have one class, others several yes/no answers")
        elif len({len(row.values) for row in answers}) > 1:
            notes.append(f"{label} is left out: not all samples answer the same number of questions")
        elif answers:
            questions[label] = list(_questions(answers))
            for row in answers:
                if not _is_unknown(row):
                    value_of[label, row] = row.values
        else:
            classes[label] = _class_order(set(class_of.values()))
            number_of = {name: number for number, name in enumerate(classes[label])}
            for name, text in class_of.items():
                if text in number_of:  # not the -1 of an unknown class
                    value_of[label, name] = number_of[text]
            notes += _class_notes(label, distinct, classes[label])

    # One mapping for all samples of a class saves memory.
    shared: dict[tuple, dict[str, int | tuple[float, ...]]] = {}
    result = []
    for sample in names:
        labels = {}
        for label, name in sample.items():
            if (label, name) in value_of:
                labels[label] = value_of[label, name]
        result.append(shared.setdefault(tuple(labels.items()), labels))
    return Numbering(result, classes, questions, notes)


def _class_names(distinct: set[Name]) -> tuple[dict[Name, str], list[Answers]]:
    """The class name of every name of a label, and the answers that are no classes.

    These are all answers, or none where all are one-hot.
    """
    class_of: dict[Name, str] = {}
    answers: list[Answers] = []
    for name in distinct:
        if isinstance(name, Answers):
            answers.append(name)
        else:
            class_of[name] = name
    if not all(map(_is_one_hot, answers)):
        return class_of, sorted(answers)

    for row in answers:
        class_of[row] = UNKNOWN
        if not _is_unknown(row):
            class_of[row] = row.questions[row.values.index(1)]
    return class_of, []


def _is_one_hot(row: Answers) -> bool:
    """Whether the answers are one yes and else no, or all unknown."""
    is_single = row.values.count(1) == 1 and row.values.count(0) == len(row.values) - 1
    return is_single or _is_unknown(row)


def _is_unknown(row: Answers) -> bool:
    return set(row.values) == {-1}


def _questions(answers: Sequence[Answers]) -> Sequence[str]:
    """Names of the questions; where some files give words and others none, the words."""
    for row in answers:
        if not all(name.isdecimal() for name in row.questions):
            return row.questions
    return answers[0].questions


def _class_notes(label: str, distinct: set[Name], classes: Sequence[str]) -> list[str]:
    """Notes on labels that are not plain classes."""
    notes = []
    if any(isinstance(name, Answers) for name in distinct):
        notes.append(f"{label}: one-hot rows, read as classes")
    if _are_real(classes):
        notes.append(f"{label}: {len(classes)} distinct real values; evaluations predict values, not classes")
    return notes


def _are_real(names: Sequence[str]) -> bool:
    """Whether all names are numbers, some with decimals."""
    try:
        return not all(map(float.is_integer, map(float, names)))
    except ValueError:
        return False


def _class_order(names: set[str]) -> list[str]:
    """Class names in order of number; all from 0 to the largest where names are integers."""
    names = names - {UNKNOWN}
    if names and all(name.isdecimal() and str(int(name)) == name for name in names):
        largest = max(map(int, names))
        if largest < MOST_CLASSES:
            return list(map(str, range(largest + 1)))
    return sorted(names)


def _shared_depth(paths: Sequence[tuple[str, ...]]) -> int:
    """Number of leading folders that all paths share."""
    depth = 0
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        depth += 1
    return depth
