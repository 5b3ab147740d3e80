"""Class names of samples, and their numbers."""

from collections.abc import Mapping, Sequence

from core.data import splits
from core.data.scan import Found

MOST_CLASSES = 100_000  # integers beyond it are names (years, identifiers), not class numbers


def names(found: Sequence[Found], without_split: bool) -> list[Mapping[str, str]]:
    """Class names by label for each sample: what a table or file tells, else the first folder that not all share.

    `without_split`: folders also tell the split, and those that do are no classes.
    """
    if any(entry.names for entry in found):
        return [entry.names for entry in found]
    paths = [_without_split(entry.folders) if without_split else entry.folders for entry in found]
    while all(paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return [{"label": path[0]} if path else {} for path in paths]


def numbers(names: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, int]], dict[str, list[str]]]:
    """Numbers by label for each sample, and the class names in order of number; -1 written as a label means unknown.

    Integers keep their values (an official numbering survives in a part of the classes); other names are sorted.
    """
    classes = {label: _classes({each[label] for each in names if label in each}) for label in _labels(names)}
    number = {label: {name: index for index, name in enumerate(known)} for label, known in classes.items()}
    shared: dict[tuple, dict[str, int]] = {}  # one mapping for all samples of a class
    result = []
    for each in names:
        known = {label: number[label][name] for label, name in each.items() if name in number[label]}
        result.append(shared.setdefault(tuple(known.items()), known))
    return result, classes


def _labels(names: Sequence[Mapping[str, str]]) -> list[str]:
    return sorted({label for each in names for label in each})


def _classes(known: set[str]) -> list[str]:
    known = known - {"-1"}
    if known and all(name.isdecimal() and str(int(name)) == name for name in known):
        most = max(map(int, known))
        if most < MOST_CLASSES:
            return [str(number) for number in range(most + 1)]
    return sorted(known)


def _without_split(folders: tuple[str, ...]) -> tuple[str, ...]:
    at = next((index for index, name in enumerate(folders) if splits.mark(name)), None)
    return folders if at is None else folders[:at] + folders[at + 1 :]
