import numpy as np
import pytest

from core.evaluation.knn import Neighbours
from core.evaluation.linear import Logistic
from core.evaluation.probe import choose, validation_parts

PROBES = [Neighbours(), Logistic()]


def clusters(count, classes=4, width=8, noise=0.15, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    y = rng.permutation(np.arange(count) % classes)
    return (centres[y] + noise * rng.normal(size=(count, width))).astype(np.float32), y


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_separable_clusters_are_told_apart(probe):
    (x, y), (queries, truth) = clusters(80), clusters(40, seed=1)
    for predicted in probe.predict(x, y + 3, queries, probe.settings[:3]):  # class numbers need not start at 0
        assert (predicted == truth + 3).all()


def test_neighbours_vote_by_cosine_and_not_by_length():
    x = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32) * np.array([[100], [0.01], [1]], dtype=np.float32)
    y = np.array([0, 1, 2])
    assert Neighbours().predict(x, y, np.array([[0.05, 9.0]]), [1])[0] == [1]
    # Two neighbours of class 1, further away, against one of class 0: the weights decide.
    x = np.array([[1, 0], [0.5, 1], [0.5, 1]], dtype=np.float32)
    assert Neighbours().predict(x, np.array([0, 1, 1]), np.array([[1.0, 0.0]]), [3])[0] == [0]


def test_fewer_training_samples_than_neighbours_do():
    x, y = clusters(6)
    assert len(Neighbours().predict(x, y, x, [50])[0]) == 6


def test_a_stronger_penalty_shrinks_the_probe():
    (x, y), (queries, truth) = clusters(60, noise=3.0), clusters(400, noise=3.0, seed=1)
    strong, weak = Logistic().predict(x, y, queries, [1e-1, 1e-6])
    assert (strong == truth).mean() > (weak == truth).mean()


def test_the_better_form_is_chosen_on_the_validation_part():
    x, y = clusters(100)
    rng = np.random.default_rng(0)
    forms = {"noise": rng.normal(size=x.shape).astype(np.float32), "signal": x}
    parts = validation_parts(y, np.arange(100), None, rng)
    for probe in PROBES:
        choice = choose(probe, forms, y, parts)
        assert choice.form == "signal" and choice.setting in probe.settings and choice.accuracy == 1


def test_with_one_shot_nothing_is_chosen():
    y = np.arange(5)
    assert validation_parts(y, np.arange(5), None, np.random.default_rng(0)) is None
    choice = choose(Neighbours(), {"first": np.zeros((5, 2)), "second": np.ones((5, 2))}, y, None)
    assert (choice.form, choice.setting, choice.accuracy) == ("first", 20, None)


def test_validation_holds_a_part_of_every_class():
    y = np.repeat([0, 1, 2], [50, 10, 2])
    fitting, validation = validation_parts(y, np.arange(62), None, np.random.default_rng(0))
    assert sorted([*fitting, *validation]) == list(range(62))
    assert np.bincount(y[validation]).tolist() == [10, 2, 1]


def test_validation_never_splits_a_group():
    groups = np.repeat(np.arange(10), 6)
    y = np.arange(60) % 3
    fitting, validation = validation_parts(y, np.arange(60), groups, np.random.default_rng(0))
    assert not set(groups[fitting]) & set(groups[validation])
    assert len(set(groups[validation])) == 2
