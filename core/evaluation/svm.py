"""Support vectors, as graph papers report them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import f1_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

from core.errors import UserError
from core.evaluation.probe import Probe

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C
FOLDS = 10
GRAM_ROWS = 10_000  # a kernel's matrix has no more on a side, and takes 0.8 GB at most


@dataclass(frozen=True)
class SvmResult:
    """Micro-F1 of each fold; its mean is the figure that papers give."""

    folds: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.folds))


class SupportVectors(Probe):
    """RBF support vectors, C chosen by 5-fold search within the training samples, as graph papers report them."""

    name = "svm"
    settings = ()
    default = None

    def predict(self, x: np.ndarray, y: np.ndarray, queries: np.ndarray, settings: Sequence[float]) -> list[np.ndarray]:
        machine, parts = fitted(x, y), np.array_split(queries, len(queries) // GRAM_ROWS + 1)
        return [np.concatenate([machine.predict(part) for part in parts])] * len(settings)


def fitted(x: np.ndarray, y: np.ndarray) -> GridSearchCV | SVC:
    """The search has fewer parts where a class has fewer samples, and with one sample there is none: C = 1."""
    parts = min(5, int(np.unique(y, return_counts=True)[1].min()))
    machine = SVC(kernel=scaled_rbf if len(x) <= GRAM_ROWS else "rbf", random_state=42)
    if parts < 2:
        return machine.fit(x, y)
    return GridSearchCV(machine, {"C": list(STRENGTHS)}, cv=parts, scoring="accuracy").fit(x, y)


def scaled_rbf(x: np.ndarray, fitted_to: np.ndarray) -> np.ndarray:
    """SVC's own RBF kernel with gamma="scale", between rows (S, D) and (T, D): (S, T).

    One matrix product; libsvm goes through pairs of rows and takes 3 to 6 times as long (3,000 rows of width 512).
    """
    variance = fitted_to.var()
    return rbf_kernel(x, fitted_to, gamma=1 / (fitted_to.shape[1] * variance) if variance else 1.0)


def svm_folds(x: np.ndarray, y: np.ndarray, folds: int = FOLDS) -> SvmResult:
    """RBF support vectors, C chosen by 5-fold search within each fold's training part; shuffled stratified folds.

    x (S, D) features, y (S,) classes. The choice of C never sees a fold's test part; pooling and
    recipe were published with the test folds in sight. Raises: UserError where a class has fewer samples than folds.
    Source: THUDM/GraphMAE (graph classification).
    """
    least = int(np.bincount(y)[np.unique(y)].min()) if len(y) else 0
    if len(np.unique(y)) < 2 or least < folds:
        raise UserError(
            f"The smallest class has {least} samples, {folds} folds need {folds}; there must be two classes."
        )
    scores = []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(x, y):
        predicted = fitted(x[train], y[train]).predict(x[test])
        scores.append(float(f1_score(y[test], predicted, average="micro")))
    return SvmResult(tuple(scores))
