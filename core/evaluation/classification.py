"""Labelled tasks beside their baselines, with a verdict on whether an encoder is better than them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from core.evaluation.intervals import Interval, mean_interval
from core.evaluation.probe import Choice, Probe, choose, validation_parts
from core.evaluation.projection import scale_overall, standardise, whiten
from core.evaluation.protocol import Fold, Options, draw_shots

WIDTHS = (16, 32, 64, 128, 256)  # components kept when whitening, to choose from
SUPERVISED = "supervised, equal compute"  # the baseline without which nothing wins
WINS, ABOVE, OPEN = "wins", "above the baselines measured", "not resolvable at this size"
HEADLINE_SEEDS = 5  # of training; with fewer a figure is a check
Form = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Task:
    """One label of a data set: classes (S,) with -1 for unknown, folds, groups (S,) or None."""

    y: np.ndarray
    folds: Sequence[Fold]
    groups: np.ndarray | None
    options: Options

    @property
    def tested(self) -> np.ndarray:
        """Rows that are tested, in the order of every score."""
        rows = np.concatenate([fold.test for fold in self.folds])
        return rows[self.y[rows] >= 0]


@dataclass
class Scores:
    """What was right, (R, T) bool by seed and test sample; and what was chosen on validation in each seed and fold."""

    right: np.ndarray
    choices: list[Choice] = field(default_factory=list)


def score(probe: Probe, tables: Sequence[np.ndarray], task: Task, plain: Form) -> dict[str, Scores]:
    """Scores of the features as they are ("plain"), "whitened", and of whichever validation prefers ("chosen").

    `tables`: features (S, D), one per seed of the encoder; with fewer than seeds they take turns. `plain` rescales.
    """
    seeds, tested = task.options.seeds, len(task.tested)
    names = ("plain", "whitened", "chosen") if probe.settings else ("plain", "chosen")
    scores = {name: Scores(np.zeros((seeds, tested), dtype=bool)) for name in names}
    for number, x in enumerate(tables):
        start = 0
        for fold in task.folds:
            test = fold.test[task.y[fold.test] >= 0]
            families = {"plain": {"plain": plain(x, fold.fit)}}
            if probe.settings:
                families["whitened"] = _whitened(x, fold.fit)
            known: dict[tuple, np.ndarray] = {}
            for seed in range(number, seeds, len(tables)):
                answers = _answers(probe, families, task, fold, test, seed, known)
                answers["chosen"] = max(answers.values(), key=lambda answer: answer[0].accuracy or 0)
                for name, (choice, predicted) in answers.items():
                    scores[name].right[seed, start : start + len(test)] = predicted == task.y[test]
                    scores[name].choices.append(choice)
            start += len(test)
    return scores


def majority(task: Task) -> np.ndarray:
    """What is right (1, T) when every answer is the most frequent class of the training samples."""
    right = []
    for fold in task.folds:
        known = task.y[fold.fit]
        answer = np.bincount(known[known >= 0]).argmax()
        test = fold.test[task.y[fold.test] >= 0]
        right.append(task.y[test] == answer)
    return np.concatenate(right)[None]


def judge(ours: np.ndarray, baselines: Mapping[str, np.ndarray], task: Task, trained: int) -> dict:
    """The verdict over what was right (R, T): "wins" only where the difference to every baseline is surely above 0.

    Without the supervised one among them that is but "above the baselines measured".
    `trained`: how many trainings `ours` comes from.
    """
    differences = {name: _difference(ours, theirs, task) for name, theirs in baselines.items()}
    best = max(baselines, key=lambda name: baselines[name].mean())
    result = OPEN
    if all(each.low > 0 for each in differences.values()):
        result = WINS if SUPERVISED in baselines else ABOVE
    return {
        "result": result,
        "best_baseline": best,
        "difference": differences[best].as_dict(),
        "differences": {name: each.as_dict() for name, each in differences.items()},
        "trainings": trained,
        "check": trained < HEADLINE_SEEDS,
    }


def compare(ours: np.ndarray, theirs: np.ndarray, task: Task, trained: int) -> dict:
    """Another training's accuracy, and the paired difference to it. `trained`: how many trainings it comes from."""
    difference = _difference(ours, theirs, task).as_dict()
    return {"accuracy": accuracy(theirs, task), "difference": difference, "trainings": trained}


def accuracy(right: np.ndarray, task: Task) -> dict[str, float]:
    return _interval(right, task).as_dict()


def _difference(ours: np.ndarray, theirs: np.ndarray, task: Task) -> Interval:
    return _interval(ours.astype(float) - theirs, task)


def _interval(values: np.ndarray, task: Task) -> Interval:
    groups = None if task.groups is None else task.groups[task.tested]
    return mean_interval(values, groups, task.options.seed)


def plain_form(probe: Probe, raw: bool) -> Form:
    """Rescaling that a probe's features get unless whitened.

    Standardising principal components would whiten them, so raw input is divided by one number only; so is everything
    for kNN, whose cosine is blind to it, and for support vectors, whose kernel is.
    """
    return standardise if probe.name == "linear" and not raw else scale_overall


def _whitened(x: np.ndarray, fit: np.ndarray) -> dict[str, np.ndarray]:
    white = whiten(x, fit)
    widths = [width for width in WIDTHS if width < white.shape[1]]
    # All components of few samples are mostly noise; the widest counts only where samples outnumber it.
    widths += [white.shape[1]] if white.shape[1] * 2 <= len(fit) and white.shape[1] <= WIDTHS[-1] else []
    return {f"whitened to {width}": white[:, :width] for width in widths or [white.shape[1]]}


def _answers(
    probe: Probe,
    families: Mapping[str, Mapping[str, np.ndarray]],
    task: Task,
    fold: Fold,
    test: np.ndarray,
    seed: int,
    known: dict[tuple, np.ndarray],
) -> dict[str, tuple[Choice, np.ndarray]]:
    """Each family's choice, and its predictions for rows `test` when fitted on all training rows.

    `known` keeps predictions that the next seed may ask for again.
    """
    rows = draw_shots(task.y, fold.fit, task.options, seed)
    parts = validation_parts(task.y, rows, task.groups, np.random.default_rng([task.options.seed, seed, 1]))
    found = {}
    for family, forms in families.items():
        choice = choose(probe, forms, task.y, parts)
        x, key = forms[choice.form], (choice.form, choice.setting, rows.tobytes())
        if key not in known:
            known[key] = probe.predict(x[rows], task.y[rows], x[test], [choice.setting])[0]
        found[family] = (choice, known[key])
    return found
