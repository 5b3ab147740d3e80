import numpy as np
import pytest
from sklearn.svm import SVC

from core.data.sources import Item
from core.errors import UserError
from core.evaluation.classification import ABOVE, SUPERVISED, Task, judge, majority, plain_form, score
from core.evaluation.knn import Neighbours
from core.evaluation.linear import Logistic
from core.evaluation.protocol import (
    Fold,
    Options,
    check_classes,
    draw_shots,
    groups_of,
    label_names,
    make_folds,
)
from core.evaluation.svm import SupportVectors, scaled_rbf, svm_folds

PROBES = [Neighbours(), Logistic(), SupportVectors()]


def make_task(train=90, test=60, classes=3, **options):
    y = np.arange(train + test) % classes
    rows = np.arange(train + test)
    return Task(y, [Fold(rows[:train], rows[train:])], None, Options(**options))


def features(task, signal, seed=0, width=12):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(task.y.max() + 1, width))
    return (signal * centres[task.y] + rng.normal(size=(len(task.y), width))).astype(np.float32)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_test_labels_are_never_used(probe):
    """Whatever the test labels say, the same is chosen and the same is predicted."""
    task = make_task()
    shifted = Task(np.where(np.arange(150) < 90, task.y, (task.y + 1) % 3), task.folds, None, task.options)
    x = features(task, 1.0)
    honest = score(probe, [x], task, plain_form(probe, raw=False))
    fooled = score(probe, [x], shifted, plain_form(probe, raw=False))
    for name in honest:
        assert honest[name].choices == fooled[name].choices
        assert not (honest[name].right & fooled[name].right).any()  # the same answer cannot fit both
    assert honest["chosen"].right.mean() > 0.6


def test_labels_are_learned_from_the_training_part_alone():
    """Test samples whose labels can only be known by looking at them: chance."""
    task = make_task(test=300)
    x = np.random.default_rng(0).normal(size=(390, 5)).astype(np.float32)
    x[90:, 0] = 10 * task.y[90:]  # tells the class, in test samples only
    for probe in PROBES:
        assert score(probe, [x], task, plain_form(probe, raw=False))["plain"].right.mean() < 0.5


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_better_encoder_wins(probe):
    task = make_task()
    ours, theirs = (score(probe, [features(task, s)], task, plain_form(probe, raw=False)) for s in (2.0, 0.2))
    baselines = {SUPERVISED: theirs["plain"].right, "majority": majority(task)}
    verdict = judge(ours["chosen"].right, baselines, task, 1)
    assert verdict["result"] == "wins" and verdict["best_baseline"] == SUPERVISED and verdict["difference"]["low"] > 0
    assert verdict["check"]  # one training is no headline


def test_nothing_wins_without_supervised_training():
    task = make_task()
    right = np.ones((1, 60), dtype=bool)
    assert judge(right, {"majority": majority(task)}, task, 5)["result"] == ABOVE
    assert judge(right, {"majority": majority(task), SUPERVISED: majority(task)}, task, 5)["result"] == "wins"


def test_a_better_baseline_takes_the_win_away():
    task = make_task()
    ours, theirs = (score(Neighbours(), [features(task, s)], task, plain_form(Neighbours(), False)) for s in (0.4, 2.0))
    verdict = judge(ours["chosen"].right, {"pca": theirs["plain"].right, "majority": majority(task)}, task, 5)
    assert verdict["result"] == "not resolvable at this size" and verdict["difference"]["value"] < 0
    assert not verdict["check"]


def test_a_small_lead_on_few_samples_is_no_win():
    task = make_task(test=30)
    ours, theirs = np.zeros((2, 1, 30), dtype=bool)
    ours[0, :16], theirs[0, :14] = True, True
    assert judge(ours, {"pca": theirs}, task, 5)["result"] == "not resolvable at this size"


def test_whitening_helps_where_noise_is_loud():
    task = make_task(train=300, test=150)
    x = features(task, 1.5)
    x = np.concatenate([x, 200 * np.random.default_rng(1).normal(size=(450, 2)).astype(np.float32)], axis=1)
    scores = score(Neighbours(), [x], task, plain_form(Neighbours(), raw=False))
    assert scores["whitened"].right.mean() > scores["plain"].right.mean() + 0.2
    np.testing.assert_array_equal(scores["chosen"].right, scores["whitened"].right)


def test_every_seed_has_its_own_table():
    task = make_task(seeds=3)
    tables = [features(task, 2.0, seed) for seed in range(3)]
    right = score(Neighbours(), tables, task, plain_form(Neighbours(), raw=False))["plain"].right
    for seed, table in enumerate(tables):
        alone = score(Neighbours(), [table], make_task(seeds=3), plain_form(Neighbours(), raw=False))["plain"].right
        np.testing.assert_array_equal(right[seed], alone[seed])


def test_groups_are_tested_whole_and_once():
    groups = np.repeat(np.arange(8), 5)
    folds = make_folds(np.arange(40) < 10, np.arange(40) % 2, groups, Options(folds=4))
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(40))
    assert all(not set(groups[fold.fit]) & set(groups[fold.test]) for fold in folds)
    y = np.arange(40) % 2
    x = np.eye(2, dtype=np.float32)[y] + 0.01
    right = score(Neighbours(), [x], Task(y, folds, groups, Options(seeds=1)), plain_form(Neighbours(), False))
    assert right["plain"].right.shape == (1, 40) and right["plain"].right.all()


def test_folds_are_refused_or_switched_off():
    groups, is_test, y = np.repeat(np.arange(3), 4), np.arange(12) >= 8, np.arange(12) % 3
    with pytest.raises(UserError, match="folds=5 does not fit 3 groups"):
        make_folds(is_test, y, groups, Options(folds=5))
    (fold,) = make_folds(is_test, y, groups, Options(folds=0))
    assert fold.test.tolist() == [8, 9, 10, 11]
    for folds in (0, 5):
        with pytest.raises(UserError, match=f"folds={folds}: the data set no samples aside.*has 4"):
            make_folds(is_test & False, y, None, Options(folds=folds))


def test_what_sets_nothing_aside_is_tested_in_folds_by_class():
    y = np.repeat([0, 1, -1], [20, 10, 6])
    first, again, other = (make_folds(y < -1, y, None, Options(folds=5, seed=seed)) for seed in (0, 0, 1))
    assert sorted(np.concatenate([fold.test for fold in first])) == list(range(30)), "unknown ones are not tested"
    for fold in first:
        assert np.bincount(y[fold.test]).tolist() == [4, 2] and not set(fold.fit) & set(fold.test)
    assert [f.test.tolist() for f in first] == [f.test.tolist() for f in again] != [f.test.tolist() for f in other]


def test_support_vectors_are_asked_as_published():
    """In ten folds they get right what the published protocol gets right, and choose nothing of ours."""
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = (rng.normal(size=(80, 3)) + 0.8 * y[:, None]).astype(np.float32)
    probe = SupportVectors()
    task = Task(y, make_folds(y < 0, y, None, Options(folds=10)), None, Options(folds=10, seeds=2))
    scores = score(probe, [x], task, plain_form(probe, raw=False))
    by_fold = np.split(scores["plain"].right[0], 10)
    assert [float(right.mean()) for right in by_fold] == pytest.approx(svm_folds(x, y).folds)
    assert "whitened" not in scores and 0.6 < scores["chosen"].right.mean() < 1


@pytest.mark.parametrize("spread", [3.0, 0.0], ids=["varied", "constant"])
def test_the_kernel_in_one_product_is_that_of_the_library(spread):
    rng = np.random.default_rng(0)
    x, y, queries = 2 + spread * rng.normal(size=(60, 4)), np.arange(60) % 2, rng.normal(size=(9, 4))
    ours, theirs = (SVC(kernel=kernel, random_state=42).fit(x, y) for kernel in (scaled_rbf, "rbf"))
    assert ours.decision_function(queries) == pytest.approx(theirs.decision_function(queries), abs=1e-6)


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_few_shots_are_enough(probe, shots):
    task = make_task(shots=shots)
    assert score(probe, [features(task, 3.0)], task, plain_form(probe, raw=False))["plain"].right.mean() > 0.8


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_features_that_say_nothing_are_no_error(probe):
    task = make_task()
    right = score(probe, [np.ones((150, 5), dtype=np.float32)], task, plain_form(probe, raw=False))["chosen"].right
    assert 0.2 < right.mean() < 0.45  # of three classes


def test_shots_are_drawn_by_class():
    task = make_task(shots=4)
    rows = draw_shots(task.y, task.folds[0].fit, task.options, 0)
    assert np.bincount(task.y[rows]).tolist() == [4, 4, 4] and rows.max() < 90
    assert set(rows) != set(draw_shots(task.y, task.folds[0].fit, task.options, 1))


def test_unknown_labels_neither_train_nor_test():
    task = make_task()
    y = np.where(np.arange(150) % 5 == 0, -1, task.y)
    task = Task(y, task.folds, None, Options(seeds=1))
    assert len(task.tested) == 48 and (y[draw_shots(y, task.folds[0].fit, task.options, 0)] >= 0).all()
    assert majority(task).shape == (1, 48)


def item(key, group=None, **labels):
    return Item(key, key, labels=labels, group=group)


def test_missing_labels_are_explained():
    with pytest.raises(UserError, match=r"no labels.*class folders"):
        label_names([item("a"), item("b")], {})
    assert label_names([item("a", shape=1), item("b")], {"shape": ["x", "y"], "motion": ["z"]}) == ["shape"]


@pytest.mark.parametrize("train, test, message", [([1, 1], [0], "1 classes"), ([0, 1], [2, 2], "no class of the test")])
def test_labels_that_cannot_be_learned_are_explained(train, test, message):
    y = np.array(train + test)
    with pytest.raises(UserError, match=message):
        check_classes("label", y, Fold(np.arange(len(train)), np.arange(len(train), len(y))))


def test_groups_count_only_when_all_have_one():
    assert groups_of([item("a", "s1"), item("b", None)]) is None
    assert groups_of([item("a", "s2"), item("b", "s1"), item("c", "s2")]).tolist() == [1, 0, 1]
