"""Metrics are scikit-learn's, also on samples that count several times; intervals cover the truth and pair."""

from functools import partial

import numpy as np
import pytest
from sklearn import metrics as sklearn

from core.evaluation import intervals
from core.evaluation.metrics import DEFAULTS, METRICS

UNITS = 60


def classes():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, UNITS)
    return y, np.where(rng.random(UNITS) < 0.6, y, rng.integers(0, 5, UNITS))  # a class that is only predicted


def answers():
    """Predictions with ties."""
    rng = np.random.default_rng(1)
    y = (rng.random((UNITS, 3)) < [0.5, 0.2, 0.8]).astype(float)
    return y, np.round(y + rng.normal(0, 1, (UNITS, 3)) - 0.5, 1)


def values():
    rng = np.random.default_rng(2)
    y = 1000 + rng.normal(size=(UNITS, 2)) * [1, 20]
    return y, y + rng.normal(size=(UNITS, 2)) * [0.5, 30]


def ranked(function, y, predictions, sample_weight):
    return np.mean([function(y[:, i], predictions[:, i], sample_weight=sample_weight) for i in range(y.shape[1])])


def mean_iou(y, predictions, sample_weight):
    counted = np.ones(UNITS, dtype=bool) if sample_weight is None else sample_weight > 0
    present = np.unique([y[counted], predictions[counted]])
    return sklearn.jaccard_score(y, predictions, labels=present, average="macro", sample_weight=sample_weight)


def micro_f1(y, predictions, sample_weight):
    if y.ndim == 2:
        predictions = predictions >= 0
    return sklearn.f1_score(y, predictions, average="micro", sample_weight=sample_weight)


CASES = [
    ("accuracy", classes, sklearn.accuracy_score),
    ("balanced_accuracy", classes, sklearn.balanced_accuracy_score),
    ("miou", classes, mean_iou),
    ("micro_f1", classes, micro_f1),
    ("micro_f1", answers, micro_f1),
    ("map", answers, partial(ranked, sklearn.average_precision_score)),
    ("roc_auc", answers, partial(ranked, sklearn.roc_auc_score)),
    ("r2", values, sklearn.r2_score),
    ("rmse", values, sklearn.root_mean_squared_error),
]
CASE_IDS = [f"{name}-{data.__name__}" for name, data, _ in CASES]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize(("name", "data", "reference"), CASES, ids=CASE_IDS)
def test_figures_are_those_of_scikit_learn(name, data, reference):
    y, predictions = data()
    metric, weights = METRICS[name](), np.random.default_rng(3).integers(0, 4, (5, UNITS)).astype(float)
    scores = metric.score(y, predictions)
    assert len(scores) == UNITS
    assert metric.value(scores[None]) == pytest.approx(reference(y, predictions, sample_weight=None), abs=1e-12)
    expected = [reference(y, predictions, sample_weight=row) for row in weights]
    assert metric.aggregate(scores, weights) == pytest.approx(expected, abs=1e-9)


def test_every_metric_but_retrieval_is_tested_here_and_every_kind_has_a_default():
    assert {name for name in METRICS if not name.startswith("retrieval")} == {name for name, _, _ in CASES}
    for kind, name in DEFAULTS.items():
        assert kind in METRICS[name].kinds


@pytest.mark.parametrize("name", ["micro_f1", "map", "roc_auc"])
def test_unknown_answers_count_nowhere(name):
    """As if every question had been asked by itself, of the units whose answer is known."""
    y, predictions = answers()
    hidden = np.random.default_rng(4).random(y.shape) < 0.3
    metric, y = METRICS[name](), np.where(hidden, np.nan, y)
    value = metric.value(metric.score(y, predictions)[None])
    columns = [(y[~hidden[:, i], i] > 0, predictions[~hidden[:, i], i]) for i in range(3)]
    if name == "micro_f1":
        truth, given = (np.concatenate(part) for part in zip(*columns, strict=True))
        assert value == pytest.approx(sklearn.f1_score(truth, given >= 0))
    else:
        function = {"map": sklearn.average_precision_score, "roc_auc": sklearn.roc_auc_score}[name]
        assert value == pytest.approx(np.mean([function(*column) for column in columns]))


def test_labels_without_both_answers_do_not_count():
    y = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    predictions = np.array([[2.0, 1.0, 1.0], [1.0, 0.0, 1.0], [3.0, 0.0, 1.0]])
    auc, precision = METRICS["roc_auc"](), METRICS["map"]()
    assert auc.value(auc.score(y, predictions)[None]) == 1
    assert precision.value(precision.score(y, predictions)[None]) == 1  # of two labels
    assert np.isnan(auc.value(auc.score(y[:, 1:], predictions[:, 1:])[None]))
    weights = np.array([[1.0, 1, 1], [1, 0, 1]])
    assert auc.aggregate(auc.score(y, predictions), weights) == pytest.approx([1, np.nan], nan_ok=True)


def test_micro_f1_of_nothing_given_is_zero():
    metric = METRICS["micro_f1"]()
    assert metric.value(metric.score(np.zeros((2, 2)), -np.ones((2, 2)))[None]) == 0


@pytest.mark.parametrize(("name", "data", "reference"), CASES, ids=CASE_IDS)
def test_a_figure_lies_in_its_interval_and_a_difference_to_itself_is_none(name, data, reference, monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 300)
    y, predictions = data()
    metric = METRICS[name]()
    scores = metric.score(y, predictions)[None]
    interval = metric.interval(scores)
    assert interval.low < interval.value < interval.high
    same = metric.gain(scores, scores)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize(("name", "data", "reference"), CASES, ids=CASE_IDS)
def test_the_truth_is_always_better_than_a_guess(name, data, reference, monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 300)
    y, predictions = data()
    metric, truth = METRICS[name](), 2 * y - 1 if data is answers else y
    perfect, guess = (metric.score(y, part)[None] for part in (truth, predictions))
    gain = metric.gain(np.concatenate([perfect] * 3), guess)  # three seeds against one
    assert gain.low > 0 and gain.value == pytest.approx(abs(metric.value(perfect) - metric.value(guess)))
    assert metric.gain(guess, perfect).high < 0
    assert metric.utility(metric.value(perfect)) > metric.utility(metric.value(guess))


@pytest.mark.parametrize("name", ["roc_auc", "r2"])
def test_intervals_cover_the_truth_about_as_often_as_they_should(name, monkeypatch):
    """Normal distributions one deviation apart: AUC = Φ(1 / √2). Values y = x + noise of half the spread: R² = 0.8."""
    monkeypatch.setattr(intervals, "DRAWS", 300)
    metric, hits = METRICS[name](), 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        if name == "roc_auc":
            y = (np.arange(120) % 2)[:, None].astype(float)
            predictions, truth = y + rng.normal(size=y.shape), 0.7602
        else:
            predictions = rng.normal(size=(120, 1))
            y, truth = predictions + 0.5 * rng.normal(size=(120, 1)), 0.8
        interval = metric.interval(metric.score(y, predictions)[None])
        hits += interval.low <= truth <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_groups_are_redrawn_whole_for_every_metric(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 300)
    groups = np.repeat(np.arange(6), 20)
    rng = np.random.default_rng(0)
    y = (np.arange(120) % 2)[:, None].astype(float)
    predictions = y * np.repeat(rng.normal(1, 2, 6), 20)[:, None] + 0.1 * rng.normal(size=(120, 1))
    metric = METRICS["roc_auc"]()
    scores = metric.score(y, predictions)[None]
    grouped, single = metric.interval(scores, groups=groups), metric.interval(scores)
    assert grouped.value == single.value and grouped.high - grouped.low > single.high - single.low


@pytest.mark.parametrize(("name", "function"), [("map", "average_precision_score"), ("roc_auc", "roc_auc_score")])
def test_folds_are_ranked_each_by_itself(name, function):
    """A probe of another fold may have another offset, which says nothing of its ranking."""
    y, predictions = answers()
    metric, offset = METRICS[name](), 100 * (np.arange(UNITS) >= 25)[:, None]
    parts = [slice(0, 25), slice(25, UNITS)]
    scores = metric.join([metric.score(y[part], (predictions + offset)[part]) for part in parts])
    expected = np.mean([getattr(sklearn, function)(y[part], predictions[part], average="macro") for part in parts])
    assert metric.value(scores[None]) == pytest.approx(expected)
    assert metric.aggregate(scores, np.ones((1, UNITS)))[0] == pytest.approx(expected)
    constant = metric.join([metric.score(y[part], 0 * predictions[part] + i) for i, part in enumerate(parts)])
    if name == "roc_auc":
        assert metric.value(constant[None]) == 0.5
