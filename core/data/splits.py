"""The split of every sample: by a column, else by the names of folders or files, else by a seeded fraction."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from core.errors import UserError

WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "t10k": "test"}
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
        split = WORDS.get(word) or WORDS.get(word.rstrip("0123456789"))
        if split is not None:
            return split
    return None


def by_folders(paths: Sequence[Sequence[str]]) -> list[str] | None:
    """Splits by the first split word among each sample's folders and archives; None where these tell no split.

    They tell it where a part for training stands beside another part, or where a folder is called plainly "test" or
    the like beside others. So a class `train` among `bus` and `car` is a class, and `bullet_train` too. A sample
    without a split word is for training.
    """
    words = [_first_split(path) for path in paths]
    splits = [word or "train" for word in words]
    if len(set(splits)) == 1 or not splits:
        return None

    tells = "train" in words or any(map(_has_plain_name, {tuple(path) for path in paths}))
    return splits if tells else None


def by_files(names: Sequence[str]) -> list[str] | None:
    """Splits by the names of the files, where every one has a split word and they differ; else None."""
    splits = [from_name(name) for name in names]
    return splits if None not in splits and len(set(splits)) > 1 else None


def by_fraction(keys: Sequence[str], holdout: float, seed: int) -> list[str]:
    """Sets aside about the fraction `holdout` of the distinct keys, chosen by a hash of each.

    More samples move no earlier one from one side to the other; but with two keys or more neither side stays empty.
    """
    draws = {key: _uniform(f"{seed}/{key}") for key in keys}
    test = {key for key, draw in draws.items() if draw < holdout}
    if holdout > 0 and len(draws) > 1:
        test.add(min(draws, key=draws.get))
        test.discard(max(draws, key=draws.get))
    return ["test" if key in test else "train" for key in keys]


def _first_split(path: Iterable[str]) -> str | None:
    for name in path:
        split = from_name(name)
        if split is not None:
            return split
    return None


def _has_plain_name(path: Iterable[str]) -> bool:
    """Whether a folder is called "test", "val" or the like, and nothing more."""
    return any(WORDS.get(name.lower(), "train") != "train" for name in path)


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
