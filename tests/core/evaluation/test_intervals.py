import numpy as np
import pytest

from core.evaluation import intervals
from core.evaluation.intervals import skill_interval
from core.evaluation.metrics import Accuracy


def mean_interval(values, groups=None, seed=0):
    return Accuracy().interval(np.atleast_2d(values), groups=groups, seed=seed)


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 400)


def coverage(make, truth, trials=300):
    inside = [box.low <= truth <= box.high for box in (make(np.random.default_rng(t)) for t in range(trials))]
    return np.mean(inside)


def test_the_interval_covers_the_truth_about_as_often_as_it_says(few_draws):
    assert 0.9 <= coverage(lambda rng: mean_interval(rng.random((1, 150)) < 0.7), 0.7) <= 0.985


def test_whole_groups_are_redrawn(few_draws):
    groups = np.repeat(np.arange(30), 8)

    def correlated(rng):
        return np.repeat(rng.normal(size=30), 8)

    assert coverage(lambda rng: mean_interval(correlated(rng), groups), 0.0) >= 0.88
    assert coverage(lambda rng: mean_interval(correlated(rng)), 0.0) <= 0.7  # samples taken for independent: too sure


def test_seeds_are_redrawn_too(few_draws):
    shift = np.random.default_rng(0).normal(size=(6, 1)) + np.zeros((1, 500))
    both, alone = mean_interval(shift), mean_interval(shift[:1])
    assert both.high - both.low > 0.5
    assert alone.high == pytest.approx(alone.low)


def test_intervals_repeat():
    values = np.random.default_rng(0).random((3, 50))
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_skill_has_known_values():
    filler = np.random.default_rng(0).random((1, 60)) + 0.1
    assert skill_interval(np.zeros(60), filler).as_dict() == {"value": 1, "low": 1, "high": 1}
    same = skill_interval(filler[0], filler)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert skill_interval(2 * filler[0], filler).value == pytest.approx(-1)


def test_skill_is_measured_against_the_better_filler():
    error, weak, strong = np.full(40, 1.0), np.full(40, 4.0), np.full(40, 2.0)
    assert skill_interval(error, np.stack([weak, strong])).value == pytest.approx(0.5)
    assert skill_interval(error, np.stack([strong, weak])).value == pytest.approx(0.5)


def test_a_filler_without_error_leaves_no_room():
    with pytest.raises(ValueError, match="room"):
        skill_interval(np.ones(5), np.zeros((1, 5)))


def test_skill_covers_the_truth(few_draws):
    def draw(rng):
        filler = rng.gamma(2.0, size=200)
        return skill_interval(filler * rng.uniform(0.4, 0.8, size=200), filler[None])

    assert 0.9 <= coverage(draw, 0.4) <= 0.985
