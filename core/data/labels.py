"""Class names of samples, and their numbers."""

from collections.abc import Mapping, Sequence

from core.data import splits
from core.data.scan import Entry

MOST_CLASSES = 100_000  # integers beyond it are names (years, identifiers), not class numbers


def names(entries: Sequence[Entry], without_split: bool) -> list[Mapping[str, str]]:
    """Class names by label for each sample: those of a table or file, else the first folder that not all share.

    `without_split`: folders also tell the split, and those that do are no classes.
    """
    if any(entry.names for entry in entries):
        return [entry.names for entry in entries]

    paths = [entry.folders for entry in entries]
    if without_split:
        paths = [_without_split(path) for path in paths]

    # Folders above all samples are no class.
    while all(paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return [{"label": path[0]} if path else {} for path in paths]


def numbers(names: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, int]], dict[str, list[str]]]:
    """Numbers by label for each sample, and the class names in order of number; -1 written as a label means unknown.

    Integers keep their values (an official numbering survives in a part of the classes); other names are sorted.
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
        labels = {label: number_of[label, name] for label, name in sample.items() if (label, name) in number_of}
        result.append(shared.setdefault(tuple(labels.items()), labels))
    return result, classes


def _class_order(names: set[str]) -> list[str]:
    """Class names in order of number; all from 0 to the largest where names are integers."""
    names = names - {"-1"}
    if names and all(name.isdecimal() and str(int(name)) == name for name in names):
        largest = max(map(int, names))
        if largest < MOST_CLASSES:
            return [str(number) for number in range(largest + 1)]
    return sorted(names)


def _without_split(folders: tuple[str, ...]) -> tuple[str, ...]:
    """The folders less the first that tells a split."""
    for position, name in enumerate(folders):
        if splits.from_name(name):
            return folders[:position] + folders[position + 1 :]
    return folders
