"""Which sample belongs to which split: a column, else the names of folders and files, else a seeded fraction."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

from core.errors import UserError

WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "t10k": "test"}
WORDS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")


def parse(value: str, where: str) -> str:
    """The split that a column's value names. Raises UserError naming `where`."""
    split = WORDS.get(value.strip().lower())
    if split is None:
        raise UserError(f"{where}: the split column says {value!r}; it may say {', '.join(WORDS)}.")
    return split


@lru_cache(maxsize=1 << 16)
def mark(name: str) -> str | None:
    """The split that a name carries as one of its words: "cifar10-train-000", "val2017", "Testing"."""
    for word in re.split(r"[^a-z0-9]+", name.lower()):
        split = WORDS.get(word) or WORDS.get(word.rstrip("0123456789"))
        if split is not None:
            return split
    return None


def by_folders(places: Sequence[Sequence[str]]) -> list[str] | None:
    """Splits by the first telling name among each sample's folders and archives; None when those names tell nothing.

    They tell something when a part for training stands beside another part, or a folder is called plainly "test" or the
    like beside others. So a class `train` among `bus` and `car` is a class, and `bullet_train` too. What carries no
    mark is for training.
    """
    marks = [next(filter(None, map(mark, place)), None) for place in places]
    plain = any(WORDS.get(name.lower(), "train") != "train" for place in set(map(tuple, places)) for name in place)
    splits = [split or "train" for split in marks]
    return splits if len(set(splits)) > 1 and ("train" in marks or plain) else None


def by_files(names: Sequence[str]) -> list[str] | None:
    """Splits by the files' own names, when every one carries a mark and they differ; else None."""
    marks = [mark(name) for name in names]
    return marks if None not in marks and len(set(marks)) > 1 else None


def by_fraction(keys: Sequence[str], holdout: float, seed: int) -> list[str]:
    """Sets aside about the fraction `holdout` of the distinct keys, chosen by a hash of each.

    Adding samples moves no other from one side to the other; but with two keys or more neither side stays empty.
    """
    draws = {key: _uniform(f"{seed}/{key}") for key in keys}
    test = {key for key, draw in draws.items() if draw < holdout}
    if holdout > 0 and len(draws) > 1:
        test.add(min(draws, key=draws.get))
        test.discard(max(draws, key=draws.get))
    return ["test" if key in test else "train" for key in keys]


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
