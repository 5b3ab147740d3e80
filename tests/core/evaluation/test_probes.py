import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from core.evaluation.metrics import Accuracy
from core.evaluation.probes import (
    Logistic,
    LogisticAnswers,
    NeighbourMean,
    NeighbourVote,
    RidgeRegression,
    choose,
    validation_parts,
)

PROBES = [NeighbourVote(), Logistic()]


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
    assert NeighbourVote().predict(x, y, np.array([[0.05, 9.0]]), [1])[0] == [1]
    # Two neighbours of class 1, further away, against one of class 0: the weights decide.
    x = np.array([[1, 0], [0.5, 1], [0.5, 1]], dtype=np.float32)
    assert NeighbourVote().predict(x, np.array([0, 1, 1]), np.array([[1.0, 0.0]]), [3])[0] == [0]


def test_fewer_training_samples_than_neighbours_do():
    x, y = clusters(6)
    assert len(NeighbourVote().predict(x, y, x, [50])[0]) == 6


def test_a_stronger_penalty_shrinks_the_probe():
    (x, y), (queries, truth) = clusters(60, noise=3.0), clusters(400, noise=3.0, seed=1)
    strong, weak = Logistic().predict(x, y, queries, [1e-1, 1e-6])
    assert (strong == truth).mean() > (weak == truth).mean()


def test_the_better_form_is_chosen_on_the_validation_part():
    x, y = clusters(100)
    rng = np.random.default_rng(0)
    forms = {"noise": rng.normal(size=x.shape).astype(np.float32), "signal": x}
    parts = validation_parts(y, np.arange(100), groups=None, rng=rng)
    for probe in PROBES:
        choice = choose(probe, forms, y, parts, Accuracy())
        assert choice.form == "signal" and choice.setting in probe.settings and choice.validation == 1


def test_with_one_shot_nothing_is_chosen():
    y = np.arange(5)
    assert validation_parts(y, np.arange(5), groups=None, rng=np.random.default_rng(0)) is None
    choice = choose(NeighbourVote(), {"first": np.zeros((5, 2)), "second": np.ones((5, 2))}, y, None, Accuracy())
    assert (choice.form, choice.setting, choice.validation) == ("first", 20, None)


def test_validation_holds_a_part_of_every_class():
    y = np.repeat([0, 1, 2], [50, 10, 2])
    fitting, validation = validation_parts(y, np.arange(62), groups=None, rng=np.random.default_rng(0))
    assert sorted([*fitting, *validation]) == list(range(62))
    assert np.bincount(y[validation]).tolist() == [10, 2, 1]


def test_validation_never_splits_a_group():
    groups = np.repeat(np.arange(10), 6)
    y = np.arange(60) % 3
    fitting, validation = validation_parts(y, np.arange(60), groups=groups, rng=np.random.default_rng(0))
    assert not set(groups[fitting]) & set(groups[validation])
    assert len(set(groups[validation])) == 2


def several_answers(count, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6)).astype(np.float32)
    y = (x @ np.random.default_rng(99).normal(size=(6, 3)) + rng.normal(size=(count, 3)) > 0).astype(float)
    return x, y


def test_regressions_of_several_answers_are_those_of_scikit_learn():
    """Each question by itself, on the samples whose answer is known."""
    (x, y), (queries, _) = several_answers(120), several_answers(30, seed=1)
    y[np.random.default_rng(0).random(y.shape) < 0.3] = np.nan
    settings = [1e-1, 1e-3]
    for strength, predictions in zip(settings, LogisticAnswers().predict(x, y, queries, settings), strict=True):
        for i in range(3):
            rows = ~np.isnan(y[:, i])
            model = LogisticRegression(C=1 / (strength * rows.sum()), tol=1e-8).fit(x[rows], y[rows, i])
            assert predictions[:, i] == pytest.approx(model.decision_function(queries), abs=2e-2)


def test_neighbours_answer_with_the_mean_of_known_answers():
    x = np.array([[1, 0], [1, 0.01], [0, 1]], dtype=np.float32)
    y = np.array([[1, np.nan], [0, 1], [0, 0]], dtype=float)
    (near, far) = NeighbourMean("answers").predict(x, y, np.array([[1.0, 0.005]]), [2, 1])
    assert near[0] == pytest.approx([0, 0.5], abs=1e-3) and abs(far[0, 0]) == 0.5
    assert NeighbourMean("values").predict(x, 10 * y[:, :1], np.array([[1.0, 0.005]]), [2])[0] == pytest.approx(
        5, abs=0.1
    )


def test_values_are_regressed_whatever_their_scale():
    x, y = np.random.default_rng(0).normal(size=(200, 4)), None
    y = 1000 + 50 * x[:, :1] - 20 * x[:, 1:2]
    weak, strong = RidgeRegression().predict(x[:100], y[:100], x[100:], [1e-5, 1e2])
    assert weak == pytest.approx(y[100:], abs=0.1) and strong.std() < 0.1 * y.std()
