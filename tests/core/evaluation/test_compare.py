"""Probes across folds and seeds, baselines and verdicts."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.svm import SVC

from core.data.reader import Reader
from core.data.sources import Item
from core.errors import UserError
from core.evaluation.compare import (
    RAW,
    chance_scores,
    constant_scores,
    raw_components,
    rival_section,
    verdict,
)
from core.evaluation.labelled import Fold, Label, LabelSplit, check_fold, draw_shots, groups_of, label_names, make_folds
from core.evaluation.metrics import METRICS
from core.evaluation.probes import (
    Choice,
    LinearSupportVectors,
    Logistic,
    NeighbourVote,
    Retrieval,
    SupportVectors,
    plain_rescale,
    probe_scores,
    scaled_rbf,
    svm_folds,
)
from core.evaluation.settings import LoaderSettings, ProtocolOptions
from core.evaluation.verdicts import ABOVE, SUPERVISED

PROBES = [NeighbourVote(), Logistic(), SupportVectors()]


def split_of(y, folds, groups=None, metric="accuracy", kind="classes", **options):
    names = [str(number) for number in range(int(np.nanmax(y)) + 1 if y.ndim == 1 else y.shape[1])]
    label = Label("label", kind, names=names, metric=METRICS[metric]())
    return LabelSplit(label, y, folds=folds, groups=groups, options=ProtocolOptions(**options))


def make_task(train=90, test=60, classes=3, metric="accuracy", **options):
    y = np.arange(train + test) % classes
    rows = np.arange(train + test)
    return split_of(y, [Fold(rows[:train], rows[train:])], metric=metric, **options)


def folds_of(is_test, y, groups=None, **options):
    return make_folds(is_test, y >= 0, classes=y, groups=groups, options=ProtocolOptions(**options))


def scores_of(probe, tables, split):
    return probe_scores(probe, tables, split, plain_rescale(probe, is_raw=False))


def features(task, signal, seed=0, width=12):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(task.y.max() + 1, width))
    return (signal * centres[task.y] + rng.normal(size=(len(task.y), width))).astype(np.float32)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_test_labels_are_never_used(probe):
    """Whatever the test labels say, the same is chosen and the same is predicted."""
    task = make_task()
    shifted = split_of(np.where(np.arange(150) < 90, task.y, (task.y + 1) % 3), task.folds)
    x = features(task, 1.0)
    honest = scores_of(probe, [x], task)
    fooled = scores_of(probe, [x], shifted)
    for name in honest:
        assert honest[name].choices == fooled[name].choices
        assert not (honest[name].units & fooled[name].units).any()  # the same answer cannot fit both
    assert honest["chosen"].units.mean() > 0.6


def test_labels_are_learned_from_the_training_part_alone():
    """Test samples whose labels can only be known by looking at them: chance."""
    task = make_task(test=300)
    x = np.random.default_rng(0).normal(size=(390, 5)).astype(np.float32)
    x[90:, 0] = 10 * task.y[90:]  # tells the class, in test samples only
    for probe in PROBES:
        assert scores_of(probe, [x], task)["plain"].units.mean() < 0.5


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_better_encoder_wins(probe):
    task = make_task()
    ours, theirs = (scores_of(probe, [features(task, s)], task) for s in (2.0, 0.2))
    baselines = {SUPERVISED: theirs["plain"].units, "majority": constant_scores(task)}
    found = verdict(ours["chosen"].units, baselines, task, trainings=1)
    assert found["result"] == "wins" and found["best_baseline"] == SUPERVISED and found["difference"]["low"] > 0
    assert found["check"]  # one training is no headline


def test_nothing_wins_without_supervised_training():
    task = make_task()
    right = np.ones((1, 60), dtype=bool)
    assert verdict(right, {"majority": constant_scores(task)}, task, trainings=5)["result"] == ABOVE
    assert (
        verdict(right, {"majority": constant_scores(task), SUPERVISED: constant_scores(task)}, task, trainings=5)[
            "result"
        ]
        == "wins"
    )


def test_a_better_baseline_takes_the_win_away():
    task = make_task()
    ours, theirs = (scores_of(NeighbourVote(), [features(task, s)], task) for s in (0.4, 2.0))
    found = verdict(
        ours["chosen"].units, {"pca": theirs["plain"].units, "majority": constant_scores(task)}, task, trainings=5
    )
    assert found["result"] == "worse than pca" and found["difference"]["high"] < 0
    assert not found["check"]


def test_a_small_lead_on_few_samples_is_no_win():
    task = make_task(test=30)
    ours, theirs = np.zeros((2, 1, 30), dtype=bool)
    ours[0, :16], theirs[0, :14] = True, True
    assert verdict(ours, {"pca": theirs}, task, trainings=5)["result"] == "not resolvable at this size"


def test_the_difference_to_another_run_is_paired():
    split = split_of(np.zeros(4, dtype=int), [Fold(np.arange(0), np.arange(4))])
    ours, theirs = np.array([[True, True, True, False]]), np.array([[True, False, False, False]])
    section = rival_section(ours, theirs, split, trainings=1)
    assert section["accuracy"]["value"] == 0.25 and section["difference"]["value"] == 0.5


def test_whitening_helps_where_noise_is_loud():
    task = make_task(train=300, test=150)
    x = features(task, 1.5)
    x = np.concatenate([x, 200 * np.random.default_rng(1).normal(size=(450, 2)).astype(np.float32)], axis=1)
    scores = scores_of(NeighbourVote(), [x], task)
    assert scores["whitened"].units.mean() > scores["plain"].units.mean() + 0.2
    np.testing.assert_array_equal(scores["chosen"].units, scores["whitened"].units)


def test_every_seed_has_its_own_table():
    task = make_task(seeds=3)
    tables = [features(task, 2.0, seed) for seed in range(3)]
    right = scores_of(NeighbourVote(), tables, task)["plain"].units
    for seed, table in enumerate(tables):
        alone = scores_of(NeighbourVote(), [table], make_task(seeds=3))["plain"].units
        np.testing.assert_array_equal(right[seed], alone[seed])


def test_groups_are_tested_whole_and_once():
    groups = np.repeat(np.arange(8), 5)
    folds = folds_of(np.arange(40) < 10, np.arange(40) % 2, groups, folds=4)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(40))
    assert all(not set(groups[fold.fit]) & set(groups[fold.test]) for fold in folds)
    y = np.arange(40) % 2
    x = np.eye(2, dtype=np.float32)[y] + 0.01
    right = scores_of(NeighbourVote(), [x], split_of(y, folds, groups, seeds=1))
    assert right["plain"].units.shape == (1, 40) and right["plain"].units.all()


def test_folds_are_refused_or_switched_off():
    groups, is_test, y = np.repeat(np.arange(3), 4), np.arange(12) >= 8, np.arange(12) % 3
    with pytest.raises(UserError, match="folds=5 does not fit 3 groups"):
        folds_of(is_test, y, groups, folds=5)
    (fold,) = folds_of(is_test, y, groups, folds=0)
    assert fold.test.tolist() == [8, 9, 10, 11]
    (fold,) = folds_of(is_test, y, None)
    assert fold.test.tolist() == [8, 9, 10, 11], "a marked split is kept"
    assert len(folds_of(is_test, y, None, folds=4)) == 4, "unless folds are given"
    with pytest.raises(UserError, match="choose 2 to that number, or 0 to keep the given split"):
        folds_of(is_test, y, None, folds=1)
    assert len(folds_of(is_test & False, y, None)) == 4, "no more folds than the largest class has samples"
    assert len(folds_of(is_test, y, groups)) == 3, "no more folds than groups"
    for folds in (0, 5):
        with pytest.raises(UserError, match=f"folds={folds} does not fit: the largest class has 4.*mark no samples"):
            folds_of(is_test & False, y, None, folds=folds)


def test_what_sets_nothing_aside_is_tested_in_folds_by_class():
    y = np.repeat([0, 1, -1], [20, 10, 6])
    first, again, other = (folds_of(y < -1, y, folds=5, seed=seed) for seed in (0, 0, 1))
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
    task = split_of(y, folds_of(y < 0, y, folds=10), seeds=2)
    scores = scores_of(probe, [x], task)
    by_fold = np.split(scores["plain"].units[0], 10)
    assert [float(right.mean()) for right in by_fold] == pytest.approx(svm_folds(x, y))
    assert "whitened" not in scores and 0.6 < scores["chosen"].units.mean() < 1


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
    assert scores_of(probe, [features(task, 3.0)], task)["plain"].units.mean() > 0.8


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_features_that_say_nothing_are_no_error(probe):
    task = make_task()
    right = scores_of(probe, [np.ones((150, 5), dtype=np.float32)], task)["chosen"].units
    assert 0.2 < right.mean() < 0.45  # of three classes


def test_shots_are_drawn_by_class():
    task = make_task(shots=4)
    rows = draw_shots(task, task.folds[0], 0)
    assert np.bincount(task.y[rows]).tolist() == [4, 4, 4] and rows.max() < 90
    assert set(rows) != set(draw_shots(task, task.folds[0], 1))


def test_unknown_labels_neither_train_nor_test():
    task = make_task()
    y = np.where(np.arange(150) % 5 == 0, -1, task.y)
    task = split_of(y, task.folds, seeds=1)
    assert len(task.tested) == 48 and (y[draw_shots(task, task.folds[0], 0)] >= 0).all()
    assert constant_scores(task).shape == (1, 48)


def item(key, group=None, **labels):
    return Item(key, key, labels=labels, group=group)


def test_missing_labels_are_explained():
    with pytest.raises(UserError, match=r"no labels.*class folders"):
        label_names([item("a"), item("b")], {}, {})
    names = label_names([item("a", shape=1), item("b")], {"shape": ["x", "y"], "motion": ["z"]}, {})
    assert names == {"shape": ["x", "y"]}


@pytest.mark.parametrize("train, test, message", [([1, 1], [0], "1 classes"), ([0, 1], [2, 2], "no class of the test")])
def test_labels_that_cannot_be_learned_are_explained(train, test, message):
    y = np.array(train + test)
    with pytest.raises(UserError, match=message):
        check_fold(split_of(y, []), Fold(np.arange(len(train)), np.arange(len(train), len(y))))


def test_groups_count_only_when_all_have_one():
    assert groups_of([item("a", "s1"), item("b", None)]) is None
    assert groups_of([item("a", "s2"), item("b", "s1"), item("c", "s2")]).tolist() == [1, 0, 1]


def test_components_of_raw_input_are_those_of_the_pixels(reader, squares):
    items = squares(train=40).items("train")
    project = raw_components(items, LoaderSettings(reader, 16), seed=0)["PCA of raw input"]
    pictures = torch.tensor(np.stack([np.load(item.path) for item in items]))
    pixels = pictures.flatten(1).float()
    exact = torch.linalg.svdvals(pixels - pixels.mean(0))
    torch.testing.assert_close(project(pictures).std(0)[:5], exact[:5] / 39**0.5, rtol=1e-3, atol=0)


def test_samples_of_unlike_size_have_no_components(squares):
    class Lists(Reader):
        view, extensions = "points", (".npy",)

        def read(self, item, train):
            return [torch.zeros(3, 3)]

        def collate(self, samples):
            return [one for sample in samples for one in sample]

    assert raw_components(squares(train=8).items("train"), LoaderSettings(Lists(), 4), seed=0) == {}


def test_descriptors_of_a_reader_are_baselines_too(reader, squares, monkeypatch):
    """One of fixed length has components; one whose length varies from batch to batch has none."""
    lengths = iter(range(3, 100))
    monkeypatch.setattr(
        type(reader),
        "descriptors",
        lambda self, data: {
            "means": data.float().mean((2, 3)),
            "unlike": torch.ones(len(data), next(lengths)),
        },
    )
    items = squares(train=40).items("train")
    extractors = raw_components(items, LoaderSettings(reader, 16), seed=0)
    assert set(extractors) == {"PCA of raw input", "PCA of means"}
    pictures = torch.tensor(np.stack([np.load(item.path) for item in items]))
    means = pictures.float().mean((2, 3))
    rows = extractors["PCA of means"](pictures)
    torch.testing.assert_close(torch.cdist(rows, rows), torch.cdist(means, means), rtol=1e-3, atol=1e-2)
    assert RAW in raw_components(items, LoaderSettings(reader, 16), seed=0, by_token=False)


def test_constant_predictions_of_every_kind():
    folds = [Fold(np.arange(4), np.arange(4, 8))]
    answers = np.array([[1, 0], [1, np.nan], [1, 0], [0, 0], [1, 1], [0, 0], [1, 0], [1, np.nan]])
    split = split_of(answers, folds, metric="micro_f1", kind="answers")
    expected = 2 * 3 / (4 + 4)  # yes to the first question for all four, where three are, and one yes to the second
    assert split.metric.value(constant_scores(split)) == expected
    values = np.arange(8.0)[:, None]
    split = split_of(values, folds, metric="rmse", kind="values")
    assert split.metric.value(constant_scores(split)) == pytest.approx(np.sqrt(np.mean((np.arange(4, 8) - 1.5) ** 2)))


@pytest.mark.parametrize("metric", ["retrieval_map", "retrieval_top1", "retrieval_top5"])
def test_chance_of_retrieval_is_the_mean_over_random_rankings(metric):
    rng = np.random.default_rng(0)
    y = np.array([0] * 3 + [1] * 5 + [0, 1])
    split = split_of(y, [Fold(np.arange(8), np.array([8, 9]))], metric=metric)
    scores = []
    for number in (0, 1):
        relevant = y[:8] == number
        order = [rng.permutation(8) for _ in range(20_000)]
        if metric == "retrieval_top1":
            scores.append(np.mean([relevant[rows[0]] for rows in order]))
        elif metric == "retrieval_top5":
            scores.append(np.mean([relevant[rows[:5]].any() for rows in order]))
        else:
            ranks = [np.flatnonzero(relevant[rows]) + 1 for rows in order]
            scores.append(np.mean([np.mean(np.arange(1, len(r) + 1) / r) for r in ranks]))
    assert chance_scores(split)[0, :, split.metric.column] == pytest.approx(scores, abs=0.01)


def test_retrieval_ranks_the_training_samples():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 3, 40)
    split = split_of(y, [Fold(np.arange(30), np.arange(30, 40))], metric="retrieval_map", seeds=1)
    scores = scores_of(Retrieval(), [x], split)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = []
    for row in range(30, 40):
        expected.append(average_precision_score(y[:30] == y[row], unit[:30] @ unit[row]))
    assert scores["chosen"].units[0, :, 0] == pytest.approx(expected)
    nearest = y[:30][np.argsort(-(unit[30:] @ unit[:30].T), 1)]
    hits = nearest == y[30:, None]
    assert scores["plain"].units[0, :, 1].tolist() == hits[:, 0].tolist()
    assert scores["plain"].units[0, :, 2].tolist() == hits[:, :5].any(1).tolist()
    top = split_of(y, split.folds, metric="retrieval_top1", seeds=1)
    assert top.metric.value(scores["plain"].units) == pytest.approx(hits[:, 0].mean())


def test_without_test_samples_every_sample_is_a_query_among_the_others():
    """A loop over the queries; the last sample is the only one of its class, and misses."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(25, 4)).astype(np.float32), np.append(rng.integers(0, 3, 24), 3)
    folds = folds_of(np.zeros(25, dtype=bool), y, leave_one_out=True)
    split = split_of(y, folds, metric="retrieval_map", seeds=1)
    units = scores_of(Retrieval(), [x], split)["plain"].units[0]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for row in range(24):
        rest = np.delete(np.arange(25), row)
        similarity, relevant = unit[rest] @ unit[row], y[rest] == y[row]
        hits = relevant[np.argsort(-similarity)]
        expected = [average_precision_score(relevant, similarity), float(hits[0]), float(hits[:5].any())]
        assert units[row] == pytest.approx(expected)
    assert units[24].tolist() == [0, 0, 0]

    chance = chance_scores(split)[0]
    members = (y == y[0]).sum() - 1
    assert chance[0, 1] == pytest.approx(members / 24) and chance[24].tolist() == [0, 0, 0]


def test_shots_and_given_splits_keep_their_galleries():
    y = np.arange(20) % 2
    (fold,) = folds_of(np.arange(20) >= 15, y, leave_one_out=True)
    assert not fold.leaves_one_out and len(fold.fit) == 15
    assert len(folds_of(np.zeros(20, dtype=bool), y, leave_one_out=True, shots=2)) == 5


def test_a_class_that_the_gallery_lacks_is_never_retrieved():
    y = np.array([0, 0, 1, 1, 2, 3])
    split = split_of(y, [Fold(np.arange(4), np.arange(4, 6))], metric="retrieval_map", seeds=1)
    assert scores_of(Retrieval(), [np.eye(6, dtype=np.float32)], split)["plain"].units.tolist() == [[[0] * 3] * 2]
    assert chance_scores(split).tolist() == [[[0] * 3] * 2]


def episodes_of(y, is_test, groups=None, way=3, shots=4, folds=6, **options):
    return folds_of(is_test, y, groups, way=way, shots=shots, folds=folds, **options)


@pytest.mark.parametrize("has_test", [True, False])
def test_an_episode_has_so_many_classes_shots_and_test_samples(has_test):
    y = np.arange(300) % 6
    is_test = np.arange(300) >= 150
    y[-30:] = -1  # unknown
    episodes = episodes_of(y, is_test & has_test)
    assert len(episodes) == 6
    for episode in episodes:
        classes, counts = np.unique(y[episode.fit], return_counts=True)
        assert len(classes) == 3 and counts.tolist() == [4] * 3 and classes.min() >= 0
        tested, counts = np.unique(y[episode.test], return_counts=True)
        assert tested.tolist() == classes.tolist() and counts.tolist() == [20] * 3
        assert not set(episode.fit) & set(episode.test)
        if has_test:
            assert not is_test[episode.fit].any() and is_test[episode.test].all()

    draws = {tuple(episode.fit) for episode in episodes}
    assert len(draws) == 6, "each is drawn anew"
    again = episodes_of(y, is_test & has_test)
    assert [e.test.tolist() for e in again] == [e.test.tolist() for e in episodes]
    assert tuple(episodes_of(y, is_test & has_test, seed=1)[0].fit) not in draws


def test_episodes_without_a_split_do_not_tear_groups_apart():
    y, groups = np.arange(240) % 4, np.arange(240) // 8
    for episode in episodes_of(y, np.zeros(240, dtype=bool), groups, shots=2):
        assert not set(groups[episode.fit]) & set(groups[episode.test])


def test_too_few_classes_or_samples_for_an_episode_are_one_message():
    y, none = np.arange(40) % 4, np.zeros(40, dtype=bool)
    with pytest.raises(UserError, match="way=5 shots=4: 4 classes have"):
        episodes_of(y, none, way=5)
    with pytest.raises(UserError, match="way=3 shots=10: 0 classes have"):
        episodes_of(y, none, shots=10)
    with pytest.raises(UserError, match="by class"):
        make_folds(none, none, classes=None, groups=None, options=ProtocolOptions(way=2, shots=1))


def test_intervals_of_episodes_redraw_whole_episodes():
    y = np.arange(200) % 4
    split = split_of(y, episodes_of(y, np.arange(200) >= 100, way=2), way=2, shots=4)
    assert np.bincount(split.tested_groups).tolist() == [40] * 6


def test_linear_support_vectors_are_those_of_scikit_learn():
    task = make_task(train=60)
    x = features(task, 0.7)
    predictions = LinearSupportVectors().predict(x[:60], task.y[:60], x[60:], [1e-3, 1.0])
    for strength, predicted in zip([1e-3, 1.0], predictions, strict=True):
        machine = SVC(kernel="linear", C=strength).fit(x[:60].astype(float), task.y[:60])
        assert predicted.tolist() == machine.predict(x[60:]).tolist()
    assert (predictions[0] != predictions[1]).any()


def test_a_published_c_is_measured_besides_on_features_as_they_are():
    task = make_task(train=60, seeds=1)
    x = 0.03 * features(task, 0.7)
    rescale = plain_rescale(LinearSupportVectors(), is_raw=False)
    scores = probe_scores(LinearSupportVectors(), [x], task, rescale, {"C=0.5 as published": 0.5})
    machine = SVC(kernel="linear", C=0.5).fit(x[:60].astype(float), task.y[:60])
    right = machine.predict(x[60:]) == task.y[60:]
    assert scores["C=0.5 as published"].units[0].tolist() == right.tolist()
    assert scores["C=0.5 as published"].choices == [Choice("as they are", 0.5, None)]
    assert scores["chosen"].choices[0].setting in LinearSupportVectors.settings


def test_lower_is_better_for_an_error():
    rng = np.random.default_rng(0)
    split = split_of(rng.normal(size=(80, 1)), [Fold(np.arange(20), np.arange(20, 80))], metric="rmse", kind="values")
    y = split.y[split.tested]
    good, bad = (split.metric.score(y, y + spread * rng.normal(size=y.shape))[None] for spread in (0.1, 2.0))
    found = verdict(good, {"weak": bad, "weaker": 4 * bad, SUPERVISED: bad}, split, trainings=5)
    assert found["result"] == "wins" and found["best_baseline"] == "weak" and found["difference"]["low"] > 0
    assert verdict(bad, {"strong": good}, split, trainings=5)["difference"]["high"] < 0
