"""Metrics: a score per test unit, and the figure that all scores give, over the same paired bootstrap.

Scores have shape (R, T, …), R seeds and T units (samples or tokens). A figure is the mean over seeds; its
interval redraws units and seeds. Labels come in three kinds:

- classes: y (T,) class numbers, predictions (T,) class numbers;
- answers to L yes/no questions: y (T, L) of 1 and 0, NaN unknown; predictions (T, L), 0 or more for yes;
- values: y (T, K) and predictions (T, K).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
from scipy.sparse import csr_array
from sklearn.metrics import average_precision_score, roc_auc_score

from core.evaluation.intervals import Interval, bootstrap
from core.evaluation.settings import MetricName

LabelKind = Literal["classes", "answers", "values"]


class Metric(ABC):
    """A figure over test units: `score` of each unit, `aggregate` over weighted units."""

    name: ClassVar[str]
    kinds: ClassVar[tuple[LabelKind, ...]]  # of labels
    lower_is_better: ClassVar[bool] = False
    beside: ClassVar[tuple[MetricName, ...]] = ()  # metrics that read the same scores, shown together

    @abstractmethod
    def score(self, y: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Scores (T, …) of units."""

    @abstractmethod
    def aggregate(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Figures (W,) of scores (T, …) of one seed, for every row of weights (W, T) of the units."""

    def join(self, folds: Sequence[np.ndarray]) -> np.ndarray:
        """Scores (T, …) of all units, from those of each fold."""
        return np.concatenate(folds)

    def value(self, scores: np.ndarray) -> float:
        """The figure of scores (R, T, …)."""
        ones = np.ones((1, scores.shape[1]))
        return float(np.mean([self.aggregate(seed, ones)[0] for seed in scores]))

    def utility(self, value: float) -> float:
        """The figure with its sign turned where lower is better."""
        return -value if self.lower_is_better else value

    def interval(self, scores: np.ndarray, *, groups: np.ndarray | None = None, seed: int = 0) -> Interval:
        """The figure of scores (R, T, …) and its interval; `groups` (T,): units redrawn together."""
        draws = bootstrap(
            lambda weights: self._by_seed(scores, weights),
            units=scores.shape[1], seeds=len(scores), groups=groups, seed=seed,
        )  # fmt: skip
        return Interval.of(self.value(scores), draws)

    def gain(
        self, ours: np.ndarray, theirs: np.ndarray, *, groups: np.ndarray | None = None, seed: int = 0
    ) -> Interval:
        """The paired difference of two figures, above 0 where `ours` (R, T, …) is better.

        `theirs` (R or 1, T, …).
        """
        sign = self.utility(1.0)
        draws = bootstrap(
            lambda weights: sign * (self._by_seed(ours, weights) - self._by_seed(theirs, weights)),
            units=ours.shape[1], seeds=max(len(ours), len(theirs)), groups=groups, seed=seed,
        )  # fmt: skip
        return Interval.of(sign * (self.value(ours) - self.value(theirs)), draws)

    def _by_seed(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.stack([self.aggregate(seed, weights) for seed in scores])


class MeanMetric(Metric):
    """The mean of scores (T,).

    A difference of means is the mean of differences, which is exact for whole numbers.
    """

    def aggregate(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ scores.astype(np.float64) / weights.sum(1)

    def value(self, scores: np.ndarray) -> float:
        return float(scores.astype(np.float64).mean())

    def gain(
        self, ours: np.ndarray, theirs: np.ndarray, *, groups: np.ndarray | None = None, seed: int = 0
    ) -> Interval:
        return self.interval(ours.astype(np.float64) - theirs, groups=groups, seed=seed)


class Accuracy(MeanMetric):
    """Share of units whose class is predicted."""

    name = "accuracy"
    kinds = ("classes",)

    def score(self, y: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return predictions == y


class ClassCountMetric(Metric):
    """A mean over classes of a share of counts: hits, units of the class, predictions of the class.

    Scores (T, 2).
    """

    kinds = ("classes",)

    def score(self, y: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return np.stack([y, predictions], 1)

    def aggregate(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        truth, predicted = scores.T
        classes = int(scores.max()) + 1
        hits = _count(truth[truth == predicted], classes, weights[:, truth == predicted])
        total = self.total(hits, _count(truth, classes, weights), _count(predicted, classes, weights))

        # Classes that nothing counts towards in a draw are left out of its mean.
        present = total > 0
        shares = np.divide(hits, total, out=np.zeros_like(hits), where=present)
        return shares.sum(1) / present.sum(1)

    @abstractmethod
    def total(self, hits: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """The counts (W, C) that hits are a share of."""


class BalancedAccuracy(ClassCountMetric):
    """Mean over classes of the share of their units whose class is predicted."""

    name = "balanced_accuracy"

    def total(self, hits: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return targets


class MeanIoU(ClassCountMetric):
    """Mean over classes of intersection / union of the units of the class and those predicted to be."""

    name = "miou"

    def total(self, hits: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return targets + predictions - hits


class MicroF1(Metric):
    """2 · hits / (yes predicted + yes true), over all labels of all units together.

    Of classes it is the accuracy.

    Scores (T, 2): hits, and the sum of both counts; unknown answers count nowhere.
    """

    name = "micro_f1"
    kinds = ("answers", "classes")

    def score(self, y: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        if y.ndim == 1:
            return np.stack([predictions == y, np.full(len(y), 2)], 1).astype(np.float64)
        given = (predictions >= 0) & ~np.isnan(y)
        hits = given & (y == 1)
        return np.stack([hits.sum(1), given.sum(1) + (y == 1).sum(1)], 1).astype(np.float64)

    def aggregate(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        hits, total = weights @ scores[:, 0], weights @ scores[:, 1]
        return 2 * hits / np.maximum(total, 1)


class RankingMetric(Metric):
    """A mean over labels and folds of a figure of how predictions rank units.

    Scores (T, L, 3): answer, prediction and fold; predictions of different folds are not ranked together.
    Labels without a positive unit (or for ROC-AUC without a negative one) do not count. Single figures are
    scikit-learn's; the weighted ones of the bootstrap are computed for all draws at once.
    """

    kinds = ("answers",)

    def score(self, y: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return np.stack([y, predictions, np.zeros_like(predictions)], 2)

    def join(self, folds: Sequence[np.ndarray]) -> np.ndarray:
        joined = np.concatenate(folds)
        joined[..., 2] = np.repeat(np.arange(len(folds)), list(map(len, folds)))[:, None]
        return joined

    def value(self, scores: np.ndarray) -> float:
        return float(np.mean(list(map(self._mean_over_labels, scores))))

    def aggregate(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        total, count = np.zeros(len(weights)), np.zeros(len(weights))
        for rows, truth, predictions in _by_label_and_fold(scores):
            figures = self.weighted(truth, predictions, weights[:, rows])
            total += np.nan_to_num(figures)
            count += ~np.isnan(figures)
        return np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)

    def _mean_over_labels(self, scores: np.ndarray) -> float:
        figures = []
        for _, truth, predictions in _by_label_and_fold(scores):
            if self.is_defined(truth):
                figures.append(self.single(truth, predictions))
        if not figures:
            return float("nan")
        return float(np.mean(figures))

    @staticmethod
    @abstractmethod
    def single(truth: np.ndarray, predictions: np.ndarray) -> float:
        """The figure of one label, unweighted."""

    @abstractmethod
    def is_defined(self, truth: np.ndarray) -> bool:
        """Whether answers (T,) bool of one label have a figure."""

    @abstractmethod
    def weighted(self, truth: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Figures (W,) of one label, NaN where there is none."""


class MeanAveragePrecision(RankingMetric):
    """mAP: mean over labels of Σ (recall_k - recall_(k-1)) · precision_k over the thresholds k."""

    name = "map"

    @staticmethod
    def single(truth: np.ndarray, predictions: np.ndarray) -> float:
        return float(average_precision_score(truth, predictions))

    def is_defined(self, truth: np.ndarray) -> bool:
        return bool(truth.any())

    def weighted(self, truth: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        positives, units = _cumulative(truth, -predictions, weights)
        total = positives[:, -1:]
        precision = np.divide(positives, units, out=np.zeros_like(units), where=units > 0)
        steps = np.diff(positives, axis=1, prepend=0)
        figures = np.full(len(weights), np.nan)
        return np.divide((steps * precision).sum(1), total[:, 0], out=figures, where=total[:, 0] > 0)


class RocAuc(RankingMetric):
    """ROC-AUC: mean over labels of P(a positive unit ranks above a negative one), ties counting half."""

    name = "roc_auc"

    @staticmethod
    def single(truth: np.ndarray, predictions: np.ndarray) -> float:
        return float(roc_auc_score(truth, predictions))

    def is_defined(self, truth: np.ndarray) -> bool:
        return bool(truth.any() and not truth.all())

    def weighted(self, truth: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        positives, units = _cumulative(truth, predictions, weights)
        negatives = units - positives
        pairs = positives[:, -1] * negatives[:, -1]

        # Positives of a threshold against negatives below it, and half of those at it.
        below = negatives - np.diff(negatives, axis=1, prepend=0) / 2
        wins = (np.diff(positives, axis=1, prepend=0) * below).sum(1)
        return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


class RSquared(Metric):
    """R² = 1 - Σ (y - prediction)² / Σ (y - mean y)², the mean over values.

    Scores (T, K, 2): value and prediction.
    """

    name = "r2"
    kinds = ("values",)

    def score(self, y: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return np.stack([y, predictions], 2)

    def aggregate(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        truth, predictions = scores[..., 0], scores[..., 1]
        centred = truth - truth.mean(0)  # for the precision of the next line
        count = weights.sum(1, keepdims=True)
        spread = weights @ centred**2 - (weights @ centred) ** 2 / count
        error = weights @ (truth - predictions) ** 2
        figures = 1 - np.divide(error, spread, out=np.full_like(error, np.nan), where=spread > 0)
        return figures.mean(1)


class RootMeanSquaredError(Metric):
    """RMSE: √ of the mean squared error, the mean over values, in their units.

    Scores (T, K): squared errors.
    """

    name = "rmse"
    kinds = ("values",)
    lower_is_better = True

    def score(self, y: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return (y - predictions) ** 2

    def aggregate(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.sqrt(weights @ scores / weights.sum(1, keepdims=True)).mean(1)


class RetrievalMetric(MeanMetric):
    """A mean over queries.

    Predictions (T, C, 3), if a query were of class c: average precision, whether the first sample is of c, and
    whether one of the first five is. Scores (T, 3) serve all three metrics.
    """

    kinds = ("classes",)
    column: ClassVar[int]
    beside = ("retrieval_top1", "retrieval_top5", "retrieval_map")

    def score(self, y: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(y), predictions.shape[2]))
        rows = np.flatnonzero(y < predictions.shape[1])  # other classes are not in the gallery
        scores[rows] = predictions[rows, y[rows]]
        return scores

    def aggregate(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return super().aggregate(scores[:, self.column], weights)

    def value(self, scores: np.ndarray) -> float:
        return super().value(scores[..., self.column])


class RetrievalMAP(RetrievalMetric):
    """Mean over queries of the average precision: that at every sample of the query's class, averaged."""

    name = "retrieval_map"
    column = 0


class RetrievalTop1(RetrievalMetric):
    """Share of queries whose nearest sample is of their class."""

    name = "retrieval_top1"
    column = 1


class RetrievalTop5(RetrievalMetric):
    """Share of queries with a sample of their class among the five nearest."""

    name = "retrieval_top5"
    column = 2


METRICS: dict[str, type[Metric]] = {
    metric.name: metric
    for metric in (
        Accuracy, BalancedAccuracy, MicroF1, MeanIoU, MeanAveragePrecision, RocAuc, RSquared, RootMeanSquaredError,
        RetrievalMAP, RetrievalTop1, RetrievalTop5,
    )
}  # fmt: skip
DEFAULTS: dict[LabelKind, MetricName] = {"classes": "accuracy", "answers": "micro_f1", "values": "r2"}


def _count(numbers: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Weighted counts (W, C) of class numbers (T,), of which negative ones are none."""
    rows = np.flatnonzero(numbers >= 0)
    ones = csr_array((np.ones(len(rows)), (rows, numbers[rows])), shape=(len(numbers), classes))
    return weights @ ones


def _by_label_and_fold(scores: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows with a known answer, their answers (bool) and predictions, of every label and fold."""
    fold_of = scores[:, 0, 2]  # the same for every label
    folds = np.unique(fold_of)
    for truth, predictions, _ in scores.transpose(1, 2, 0):
        for fold in folds:
            rows = np.flatnonzero(~np.isnan(truth) & (fold_of == fold))
            yield rows, truth[rows] > 0, predictions[rows]


def _cumulative(truth: np.ndarray, order_by: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted counts (W, thresholds) of positive and of all units, up to each value of `order_by`."""
    order = np.argsort(order_by, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(order_by[order]), 1))
    ordered = weights[:, order]
    return np.cumsum(ordered * truth[order], 1)[:, ends], np.cumsum(ordered, 1)[:, ends]
