"""Class names of samples, and their numbers."""

from collections.abc import Mapping, Sequence

from core.data import splits
from core.data.scan import Entry

MOST_CLASSES = 100_000  # integers beyond it are names (years, identifiers), not class numbers


def names(entries: Sequence[Entry], without_split: bool) -> list[Mapping[str, str]]:
    """Class names by label for each sample: of a table or file, else the first folder that not all share.

    `without_split`: folders also tell the split, and those that do are no classes.
    """
    if any(entry.names for entry in entries):
        return [entry.names for entry in entries]

    paths = []
    for entry in entries:
        paths.append(_without_split(entry.folders) if without_split else entry.folders)

    # Folders above all samples are no class.
    depth = _shared_depth(paths)
    names: list[Mapping[str, str]] = []
    for path in paths:
        names.append({"label": path[depth]} if len(path) > depth else {})
    return names


def numbers(names: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, int]], dict[str, list[str]]]:
    """Numbers by label for each sample, and the class names in order of number.

    Integers keep their values (an official numbering survives in a part of the classes); -1 means unknown.
    Other names are sorted.
    """
    names_by_label: dict[str, set[str]] = {}
    for sample in names:
        for label, name in sample.items():
            names_by_label.setdefault(label, set()).add(name)

    classes: dict[str, list[str]] = {}
    number_of: dict[tuple[str, str], int] = {}
    for label in sorted(names_by_label):
        classes[label] = _class_order(names_by_label[label])
        for number, name in enumerate(classes[label]):
            number_of[label, name] = number

    shared: dict[tuple, dict[str, int]] = {}  # one mapping for all samples of a class saves memory
    result = []
    for sample in names:
        labels = {}
        for label, name in sample.items():
            if (label, name) in number_of:  # not the -1 of an unknown class
                labels[label] = number_of[label, name]
        result.append(shared.setdefault(tuple(labels.items()), labels))
    return result, classes


def _class_order(names: set[str]) -> list[str]:
    """Class names in order of number; all from 0 to the largest where names are integers."""
    names = names - {"-1"}
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


def _without_split(folders: tuple[str, ...]) -> tuple[str, ...]:
    """The folders less the first that tells a split."""
    for position, name in enumerate(folders):
        if splits.from_name(name):
            return folders[:position] + folders[position + 1 :]
    return folders
