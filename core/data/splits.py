"""The split of every sample: by a column, else by names of folders or files, else by a seeded fraction."""

import hashlib
import re
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from core.errors import UserError

Pattern = tuple[str, str]  # the words before and after a name's split word

SPLITS = ("train", "validation", "test")
WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "t10k": "test"}
PLAIN: Pattern = ("", "")  # the pattern of a name that is nothing but a split word
WORDS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")


class FolderSplits(NamedTuple):
    """The split of each sample, and the names of its folders and archives that tell it, which are no classes."""

    splits: list[str]
    marks: list[tuple[str, ...]]


def parse(value: str, where: str) -> str:
    """The split that a column's value names. Raises: UserError naming `where`."""
    split = WORDS.get(value.strip().lower())
    if split is None:
        raise UserError(f"{where}: the split column says {value!r}; it may say {', '.join(WORDS)}.")
    return split


@lru_cache(maxsize=1 << 16)
def from_name(name: str) -> str | None:
    """The split that is one of the words of a name: "cifar10-train-000", "val2017", "Testing"."""
    for word in re.split(r"[^a-z0-9]+", name.lower()):
        if word not in WORDS:
            word = word.rstrip("0123456789").removesuffix("list")  # trainlist01
        split = WORDS.get(word)
        if split is not None:
            return split
    return None


def by_folders(paths: Sequence[tuple[str, ...]]) -> FolderSplits | None:
    """Splits by names of each sample's folders and archives; None where there is no split.

    Names tell it where one for training stands beside one for testing or validation that reads alike but for
    the word: train and test, set-train-000.tar and set-test.tar, x_train and x_val. So `train` among `bus`
    and `car`, `bullet_train` beside `crash_test`, and `valid` beside `invalid` are classes. A level of folders
    that are all plain words (car/train, crash_test/train, car/test) goes before other names, else the first
    name of a path decides. A sample without such a folder is for training.
    """
    distinct = list(dict.fromkeys(paths))
    patterns, level = _patterns(distinct), _plain_level(distinct)
    names_by_path = {path: _split_names(path, patterns, level) for path in distinct}

    # A pattern that contradicts the name that decides marks no split: those names are classes.
    contrary = set()
    for names in names_by_path.values():
        for pattern, name in names.items():
            if from_name(name) != _first_split(names):
                contrary.add(pattern)

    splits, marks = [], []
    for path in paths:
        names = names_by_path[path]
        split = _first_split(names) or "train"
        splits.append(split)
        decisive = list(names.values())[:1]
        others = [name for pattern, name in names.items() if pattern not in contrary]
        marks.append(tuple(dict.fromkeys([*decisive, *others])))
    if len(set(splits)) > 1:
        return FolderSplits(splits, marks)
    return None


def by_files(names: Sequence[str]) -> list[str] | None:
    """Splits by the names of the files, where every one has a split word, some for training; else None."""
    splits = list(filter(None, map(from_name, names)))
    if len(splits) < len(names) or len(set(splits)) < 2 or "train" not in splits:
        return None
    return splits


def by_fraction(keys: Sequence[str], holdout: float, seed: int) -> list[str]:
    """Sets aside about the fraction `holdout` of the distinct keys, chosen by a hash of each.

    More samples move no earlier one from one side to the other; but with two keys or more neither side
    stays empty.
    """
    draws = {key: _uniform(f"{seed}/{key}") for key in keys}
    splits = dict.fromkeys(keys, "train")
    for key, draw in draws.items():
        if draw < holdout:
            splits[key] = "test"

    # The two extreme keys keep either side from being empty.
    if holdout > 0 and len(draws) > 1:
        splits[min(draws, key=draws.__getitem__)] = "test"
        splits[max(draws, key=draws.__getitem__)] = "train"
    return [splits[key] for key in keys]


def folder_names(by_folders: FolderSplits) -> list[str]:
    """For messages: the name of a folder that tells each split, those for training first."""
    names: dict[str, str] = {}
    for split, marks in zip(by_folders.splits, by_folders.marks, strict=True):
        if marks:
            names.setdefault(split, marks[0])
    return [names[split] for split in SPLITS if split in names]


def _patterns(paths: Sequence[tuple[str, ...]]) -> set[Pattern]:
    """The patterns of names of which one tells a split for training, and one another split."""
    by_pattern: dict[Pattern, set[str]] = {}
    for name in dict.fromkeys(chain.from_iterable(paths)):
        split = from_name(name)
        if split is not None:
            by_pattern.setdefault(_pattern(name), set()).add(split)

    patterns = set()
    for pattern, splits_of_pattern in by_pattern.items():
        if len(splits_of_pattern) > 1 and "train" in splits_of_pattern:
            patterns.add(pattern)

    # A folder "test" beside nothing but loose files needs no "train".
    if not patterns and set(by_pattern) == {PLAIN}:
        tops = {next(iter(path), "") for path in paths}  # "" for loose files
        if "" in tops and len(tops) == 2 and any(map(from_name, tops)):
            patterns.add(PLAIN)
    return patterns


def _plain_level(paths: Sequence[tuple[str, ...]]) -> int | None:
    """The first level where all names are plain words, of training and of another split."""
    for level, names in enumerate(zip(*paths, strict=False)):
        words = set(map(from_name, names))
        if None in words or {*map(_pattern, names)} != {PLAIN}:
            continue
        if len(words) > 1 and "train" in words:
            return level
    return None


def _split_names(path: tuple[str, ...], patterns: Container[Pattern], level: int | None) -> dict[Pattern, str]:
    """The first name of each of these patterns; the one that decides, at the plain level if any, comes first."""
    names: dict[Pattern, str] = {}
    if level is not None:
        names[PLAIN] = path[level]
    for name in path:
        if from_name(name) is not None and _pattern(name) in patterns:
            names.setdefault(_pattern(name), name)
    return names


def _first_split(names: Mapping[Pattern, str]) -> str | None:
    """The split that the first of the names tells; None without any."""
    return next(map(from_name, names.values()), None)


@lru_cache(maxsize=1 << 16)
def _pattern(name: str) -> Pattern:
    """The words before and after a name's first split word, less numbers and letters of parts (a, 000)."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    position = next(index for index, word in enumerate(words) if from_name(word))
    before = " ".join(words[:position])
    after = [word for word in words[position + 1 :] if len(word) > 1 and not word.isdecimal()]
    return before, " ".join(after)


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    content = text.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) / 2**64
