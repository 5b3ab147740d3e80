"""Verdicts in words: read off the intervals of a record, whatever its age and its task."""

import pytest

from core.evaluation import verdicts
from core.evaluation.verdicts import ABOVE, OPEN, SUPERVISED, WINS, WITHIN


def gap(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("gaps", "word"),
    [
        ({"pca": gap(0.1, 0.2), "random": gap(0.01, 0.1)}, ABOVE),
        ({"pca": gap(0.1, 0.2), SUPERVISED: gap(0.01, 0.1)}, WINS),
        ({"pca": gap(0.1, 0.2), SUPERVISED: gap(-0.01, 0.1)}, OPEN),
        ({"pca": gap(-0.1, -0.01), "random": gap(0.1, 0.2)}, "worse than pca"),
        ({"pca": gap(-0.1, -0.01), "random": gap(-0.3, -0.2)}, "worse than random"),
        ({"pca": gap(-0.1, 0.01), "random": gap(-0.09, -0.01)}, "worse than random"),
        ({"pca": gap(-0.1, 0.0)}, OPEN),
        ({"pca": gap(0.0, 0.1)}, OPEN),
        ({"pca": gap(float("nan"), float("nan"))}, OPEN),
    ],
)
def test_words_of_differences(gaps, word):
    best = min(gaps, key=lambda name: gaps[name]["value"])
    assert verdicts.of_differences(gaps, best).word == word


def test_a_record_that_was_called_open_is_worse_by_its_intervals():
    """Such records were written before there was a word for it; their differences are there."""
    old = {
        "task": "linear",
        "figures": {
            "label": {
                "accuracy": gap(0.38, 0.57),
                "verdict": {
                    "result": OPEN,
                    "best_baseline": "PCA",
                    "difference": gap(-0.6, -0.4),
                    "trainings": 1,
                    "check": True,
                },
            }
        },
    }
    (line,) = verdicts.lines(old)
    assert line.startswith("worse than PCA: label, accuracy 0.475 [0.380, 0.570], -0.500 [-0.600, -0.400]")


def test_another_training_has_a_line_of_its_own():
    section = {
        "r2": gap(0.4, 0.5),
        "metric": "r2",
        "verdict": {"best_baseline": "mean", "differences": {"mean": gap(0.1, 0.2)}, "trainings": 5, "check": False},
        "beside": {"r2": gap(0.6, 0.7), "difference": gap(-0.3, -0.1), "trainings": 1},
    }
    first, second = verdicts.lines({"task": "linear", "figures": {"y": section}, "beside": ["runs/other"]})
    assert first.startswith("above the baselines measured: y, r2 0.450")
    assert second.startswith("worse than runs/other: y, -0.200")


@pytest.mark.parametrize(
    ("skill", "reference", "word"),
    [
        (gap(0.1, 0.2), "filler", WINS),
        (gap(-0.1, 0.2), "filler", OPEN),
        (gap(-0.2, -0.1), "filler", "worse than interpolation"),
        (gap(-0.2, -0.1), "zero", "worse than predicting zero"),
    ],
)
def test_words_of_skill(skill, reference, word):
    figures = {"total": {"skill": skill, "result": "anything", "better_reference": reference}}
    record = {"task": "reconstruction", "figures": {"pixels": figures}, "protocol": {"filler": "interpolation (of x)"}}
    (line,) = verdicts.lines(record)
    assert line.startswith(f"{word}: pixels, held-out skill")


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ({"pca": gap(-0.1, 0.2)}, "(0 lies within this interval, so that no difference is shown; more test"),
        ({"pca": gap(float("nan"), float("nan"))}, "(without an interval nothing can be told"),
        ({"pca": gap(0.1, 0.2), "random": gap(-0.1, 0.9)}, "(another baseline is not beaten by its interval)"),
        ({"pca": gap(0.0, 0.0)}, "(no difference in any sample)"),
        ({"pca": gap(0.1, 0.2)}, "against pca"),
        ({"pca": gap(-0.2, -0.1)}, "-0.150 [-0.200, -0.100]"),
    ],
)
def test_an_open_verdict_is_explained(gaps, words):
    best = next(iter(gaps))
    section = {"accuracy": gap(0.4, 0.5), "verdict": {"best_baseline": best, "differences": gaps}}
    (line,) = verdicts.lines({"task": "knn", "figures": {"y": section}})
    assert words in line and line.endswith(")") == words.startswith("(")


def test_skill_that_cannot_be_measured_says_why():
    nothing = {"task": "reconstruction", "figures": {}, "reason": "no test samples"}
    assert list(verdicts.lines(nothing)) == ["not measured: no test samples"]
    trivial = {"task": "reconstruction", "figures": {"x": {"total": {"result": "no room"}}}, "protocol": {}}
    assert list(verdicts.lines(trivial)) == ["no room: x"]


@pytest.mark.parametrize(
    ("mean", "half", "word"),
    [
        (0.838, 0.009, WITHIN),  # 84.7 reaches 83.8
        (0.829, 0.009, WITHIN),  # at the bound: 83.8
        (0.820, 0.009, "worse than the published figure"),
        (0.900, 0.001, WITHIN),
        (0.842, None, "not resolvable"),
    ],
)
def test_within_a_published_figure(mean, half, word):
    """84.2 ± 0.4: the interval of the mean reaches 83.8."""
    final = {"mean": mean, "deviation": 0.0, "half_interval": half}
    assert verdicts.of_published(final, {"mean": 84.2, "deviation": 0.4}).startswith(word)
    assert verdicts.of_published(final, None).startswith("not resolvable")
