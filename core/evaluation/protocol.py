"""Who is trained on and who is tested: the given split, or folds by group; all labels, or a few of each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedKFold

from core.data.sources import Item
from core.errors import UserError


@dataclass(frozen=True)
class Fold:
    """Rows of the table of samples: `fit`, whose features and labels may be used, and `test`."""

    fit: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Options:
    """How a labelled task is set.

    `shots`: labelled samples per class, None = all. `folds`: of the cross-validation where samples carry groups or the
    data set none aside to test, 0 = keep the given split. `seeds`: how often whatever is random is drawn anew (random
    weights, shots, validation).
    """

    shots: int | None = None
    folds: int = 5
    seeds: int = 3
    seed: int = 0

    def __post_init__(self):
        for name, least in (("shots", 1), ("folds", 0), ("seeds", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name}={value} must be at least {least}.")


def label_names(items: Sequence[Item], classes: dict[str, list[str]]) -> list[str]:
    """Raises UserError where there are no labels."""
    names = [name for name in classes if any(name in item.labels for item in items)]
    if not names:
        raise UserError(
            "The data have no labels, which task=knn, linear, svm and finetune need. Labels come from class folders "
            "(train/cat/1.jpg) or from a csv list with a column `label`, given as data.root. "
            "Without labels, task=reconstruction can be measured."
        )
    return names


def groups_of(items: Sequence[Item]) -> np.ndarray | None:
    """The group of each sample (S,), or None unless every sample carries one."""
    groups = [item.group for item in items]
    return None if None in groups or not groups else np.unique(groups, return_inverse=True)[1]


def make_folds(is_test: np.ndarray, y: np.ndarray, groups: np.ndarray | None, options: Options) -> list[Fold]:
    """The given split as one fold. Where samples carry groups, every sample tested once in folds of whole groups; where
    none is set aside to test, in shuffled folds of known classes y (S,), each with its share of every class.

    Raises UserError where there are fewer groups, or samples of every class, than folds.
    """
    rows, folds = np.arange(len(is_test)), options.folds
    if groups is not None and folds:
        count = len(np.unique(groups))
        if folds < 2 or count < folds:
            raise UserError(f"folds={folds} does not fit {count} groups; choose 2 to {count}, or 0 to keep the split.")
        return [Fold(fit, test) for fit, test in GroupKFold(folds).split(rows, groups=groups)]
    if is_test.any():
        return [Fold(rows[~is_test], rows[is_test])]
    rows = rows[y >= 0]
    most = int(np.bincount(y[rows]).max(initial=0))
    if folds < 2 or most < folds:
        raise UserError(
            f"folds={folds}: the data set no samples aside to test, and the largest class has {most} samples; choose "
            "folds from 2 to that number."
        )
    split = StratifiedKFold(folds, shuffle=True, random_state=options.seed).split(rows, y[rows])
    return [Fold(rows[fit], rows[test]) for fit, test in split]


def check_classes(label: str, y: np.ndarray, fold: Fold) -> None:
    """Raises UserError where a fold's labels leave nothing to learn or nothing to test."""
    seen, asked = set(y[fold.fit]) - {-1}, set(y[fold.test]) - {-1}
    if len(seen) < 2:
        raise UserError(f"Label {label!r}: the training samples have {len(seen)} classes; at least two are needed.")
    if not seen & asked:
        raise UserError(
            f"Label {label!r}: no class of the test samples occurs in training; check how data.root is split."
        )


def draw_shots(y: np.ndarray, rows: np.ndarray, options: Options, replicate: int) -> np.ndarray:
    """Labelled training rows; with `shots`, that many of each class (or all it has), drawn anew for each replicate."""
    rows = rows[y[rows] >= 0]
    if options.shots is None:
        return rows
    order = np.random.default_rng([options.seed, replicate, 2]).permutation(rows)
    chosen = [order[y[order] == label][: options.shots] for label in np.unique(y[rows])]
    return np.sort(np.concatenate(chosen))
