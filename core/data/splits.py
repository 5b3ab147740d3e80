"""The split of every sample: by a column, else by names of folders or files, else by a seeded fraction."""

import hashlib
import re
from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from itertools import chain

from core.errors import UserError

SPLITS = ("train", "validation", "test")
WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "t10k": "test"}
PLAIN = ("", "")  # the pattern of a name that is nothing but a split word
WORDS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")


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


def by_folders(paths: Sequence[Sequence[str]]) -> list[str] | None:
    """Splits by names of each sample's folders and archives; None where there is no split.

    Names tell it where one for training stands beside one for testing or validation that reads alike but for
    the word: train and test, set-train-000.tar and set-test.tar, x_train and x_val. So `train` among `bus`
    and `car`, `bullet_train` beside `crash_test`, and `valid` beside `invalid` are classes. A sample without
    such a folder is for training.
    """
    names = dict.fromkeys(chain.from_iterable(paths))
    by_pattern: dict[tuple[str, str], set[str]] = {}
    for name in names:
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

    splits = [_first_split(path, patterns) or "train" for path in paths]
    if len(set(splits)) > 1:
        return splits
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


def folder_names(paths: Iterable[Sequence[str]], splits: Iterable[str]) -> list[str]:
    """For messages: the name of a folder that tells each split, those for training first."""
    names: dict[str, str] = {}
    for path, split in zip(paths, splits, strict=True):
        if split not in names:
            for name in path:
                if from_name(name) == split:
                    names[split] = name
                    break
    return [names[split] for split in SPLITS if split in names]


def _first_split(path: Iterable[str], patterns: Container[tuple[str, str]]) -> str | None:
    """The split of the first name of one of these patterns."""
    for name in path:
        split = from_name(name)
        if split is not None and _pattern(name) in patterns:
            return split
    return None


@lru_cache(maxsize=1 << 16)
def _pattern(name: str) -> tuple[str, str]:
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
