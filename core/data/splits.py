"""The split of every sample: by a column, else by names of folders or files, else by a seeded fraction."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain

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
    """Splits by the first split word among each sample's folders and archives; None where there is no split.

    They tell it where a part for training stands beside another part, or where a folder is called plainly
    "test" or the like beside others. So a class `train` among `bus` and `car` is a class, and
    `bullet_train` too. A sample without a split word is for training.
    """
    words = list(map(_first_split, paths))
    splits = [word or "train" for word in words]
    if len(set(splits)) > 1 and ("train" in words or _has_plain_name(paths)):
        return splits
    return None


def by_files(names: Sequence[str]) -> list[str] | None:
    """Splits by the names of the files, where every one has a split word and they differ; else None."""
    splits = [split for split in map(from_name, names) if split is not None]
    if len(splits) < len(names) or len(set(splits)) < 2:
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


def _first_split(path: Iterable[str]) -> str | None:
    for name in path:
        split = from_name(name)
        if split is not None:
            return split
    return None


def _has_plain_name(paths: Iterable[Sequence[str]]) -> bool:
    """Whether a folder is called "test", "val" or the like, and nothing more."""
    names = set(chain.from_iterable(paths))
    return any(WORDS.get(name.lower(), "train") != "train" for name in names)


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
