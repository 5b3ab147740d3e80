"""What a probe is, and how its settings are chosen: on a validation part of the training samples."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

VALIDATION = 0.2  # of the training samples
MOST = 5_000  # training samples used for choosing; the chosen setting is then fitted on all of them


class Probe(ABC):
    """Predicts classes from features."""

    name: str
    settings: tuple[float, ...]  # to choose from; none: it finds its own, and takes features as they are
    default: float | None  # where there are too few samples to choose

    @abstractmethod
    def predict(self, x: np.ndarray, y: np.ndarray, queries: np.ndarray, settings: Sequence[float]) -> list[np.ndarray]:
        """Classes of `queries` (Q, D) by each setting, learned from x (S, D) and y (S,)."""


@dataclass(frozen=True)
class Choice:
    """Which of several forms of the features, with which setting; `accuracy` on the validation part, or None."""

    form: str
    setting: float | None
    accuracy: float | None

    def as_dict(self) -> dict:
        return {"form": self.form, "setting": self.setting, "validation_accuracy": self.accuracy}


def choose(probe: Probe, forms: Mapping[str, np.ndarray], y: np.ndarray, parts: tuple | None) -> Choice:
    """The form and setting with the best accuracy on the validation part; at equal accuracy the first.

    `forms`: features of all samples by name; `parts`: the training samples as `validation_parts` gives them; None: too
    few to choose, the first form and the default setting are taken.
    """
    if parts is None or not probe.settings:
        return Choice(next(iter(forms)), probe.default, None)
    fitting, validation = parts
    best = Choice("", probe.default, -1.0)
    for form, x in forms.items():
        predictions = probe.predict(x[fitting], y[fitting], x[validation], probe.settings)
        for setting, predicted in zip(probe.settings, predictions, strict=True):
            accuracy = float((predicted == y[validation]).mean())
            if accuracy > best.accuracy:
                best = Choice(form, setting, accuracy)
    return best


def validation_parts(
    y: np.ndarray,
    rows: np.ndarray,
    groups: np.ndarray | None,
    rng: np.random.Generator,
    share: float = VALIDATION,
    most: int | None = MOST,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Training samples `rows` as (fitting, validation), drawn at random: by class, or by whole groups if there are any.

    At most `most` of them; None: all.

    None where a class would have no sample to fit (so at one shot), or less than two groups remain.
    """
    rows = rng.permutation(rows)[:most]
    if groups is not None:
        units = rng.permutation(np.unique(groups[rows]))
        held = np.isin(groups[rows], units[: max(1, round(share * len(units)))])
    else:
        held = np.zeros(len(rows), dtype=bool)
        for label in np.unique(y[rows]):
            of_class = np.flatnonzero(y[rows] == label)
            held[of_class[: max(1, round(share * len(of_class)))]] = True
    fitting, validation = rows[~held], rows[held]
    if not len(validation) or set(y[rows]) - set(y[fitting]) or len(set(y[fitting])) < 2:
        return None
    return np.sort(fitting), np.sort(validation)
