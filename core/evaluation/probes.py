"""probe: predictions from frozen features, settings chosen on a validation part, and a score per test unit.

Probes of classes, of answers to several questions, and of values stand below each other for every task.
"""

import warnings
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC
from torch import Tensor, nn

from core.errors import UserError
from core.evaluation.labelled import Fold, LabelSplit, draw_shots
from core.evaluation.metrics import LabelKind, Metric
from core.evaluation.projection import scale_overall, standardise, whiten
from core.evaluation.settings import EpisodeProbe, Kernel, Task

VALIDATION = 0.2  # of the training samples
MOST_CHOOSING = 5_000  # training samples used for choosing; the chosen setting is then fitted on all of them
WIDTHS = (16, 32, 64, 128, 256)  # components kept when whitening, to choose from
TEMPERATURE = 0.07  # of the votes of neighbours
QUERIES = 1024  # compared with the training samples at a time
STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # λ of linear probes, strong to weak: each starts from the last
ITERATIONS = 500  # of L-BFGS
TOLERANCE = 1e-4  # of its gradient, as in scikit-learn
SVM_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C
LINEAR_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of linear ones, whose products grow with the width
SVM_FOLDS = 10
FIRST = 5  # ranked samples among which a hit counts
GRAM_ROWS = 10_000  # a kernel's matrix has no more on a side, and takes 0.8 GB at most
YES_FROM = {"answers": 0.5, "values": 0.0}  # subtracted from a mean of labels: answers are yes from 0 on
PARTS = ("train", "validation", "test")
Rescale = Callable[[ndarray, ndarray], ndarray]  # features (S, D), rows to fit on -> features


class Probe(ABC):
    """Predicts labels from features. Its docstring stands in the record."""

    name: Task
    settings: tuple[float, ...]  # to choose from; none: features are taken as they are
    default: float | None  # where there are too few samples to choose
    symbol: str = ""  # of the setting

    @abstractmethod
    def predict(self, x: ndarray, y: ndarray, queries: ndarray, settings: Sequence[Any]) -> list[ndarray]:
        """Predictions for `queries` (Q, D) by each setting, learned from x (S, D) and y (S,) or (S, L)."""

    def predict_by_rest(self, x: ndarray, y: ndarray) -> ndarray:
        """A prediction for every row of x (S, D) from all others, where nothing is trained."""
        raise NotImplementedError(f"task={self.name} trains, and leaves out whole folds")


@dataclass(frozen=True)
class Choice:
    """A form of the features and a setting of the probe.

    `validation`: their figure on the validation part, or None.
    """

    form: str
    setting: float | None
    validation: float | None


@dataclass
class Scores:
    """Scores (R, T, …) by seed and test unit, and the choices on validation in each seed and fold."""

    units: ndarray
    choices: list[Choice] = field(default_factory=list)


def probe_scores(
    probe: Probe,
    tables: Sequence[ndarray],
    split: LabelSplit,
    rescale: Rescale,
    fixed: Mapping[str, float] | None = None,
) -> dict[str, Scores]:
    """Scores of "plain" features, of "whitened" ones, and of whichever validation prefers ("chosen").

    `tables`: features (S, D), one per seed of the encoder; with fewer than seeds they take turns.
    `rescale`: of plain features. `fixed`: settings by name, whose scores on features as they are stand under
    that name.
    """
    seeds = split.options.seeds
    units: dict[tuple[str, int], list[ndarray]] = defaultdict(list)  # by form and seed
    choices: dict[str, list[Choice]] = defaultdict(list)
    for number, x in enumerate(tables):
        for fold in split.folds:
            families = {"plain": {"plain": rescale(x, fold.fit)}}
            if probe.settings:
                families["whitened"] = _whitened_forms(x, fold.fit)

            computed: dict[tuple, ndarray] = {}
            for seed in range(number, seeds, len(tables)):
                results = _fold_results(probe, families, split, fold, seed, computed)
                for name, setting in (fixed or {}).items():
                    results[name] = _fixed_result(probe, x, split, fold, seed, setting)
                for name, (choice, scores) in results.items():
                    units[name, seed].append(scores)
                    choices[name].append(choice)

    scores = {}
    for name in choices:
        by_seed = [split.metric.join(units[name, seed]) for seed in range(seeds)]
        scores[name] = Scores(np.stack(by_seed), choices[name])
    return scores


def choose(
    probe: Probe,
    forms: Mapping[str, ndarray],
    y: ndarray,
    parts: tuple[ndarray, ndarray] | None,
    metric: Metric,
) -> Choice:
    """The form and setting with the best figure on the validation part; of equal ones the first.

    `forms`: features of all samples by name; `parts`: the training samples as `validation_parts` gives
    them; None: too few to choose, the first form and the default setting are taken.
    """
    if parts is None or not probe.settings:
        return Choice(next(iter(forms)), probe.default, None)

    fitting, validation = parts
    best, best_utility = Choice(next(iter(forms)), probe.default, None), -np.inf
    for form, x in forms.items():
        predictions = probe.predict(x[fitting], y[fitting], x[validation], probe.settings)
        for setting, prediction in zip(probe.settings, predictions, strict=True):
            value = metric.value(metric.score(y[validation], prediction)[None])
            if metric.utility(value) > best_utility:
                best, best_utility = Choice(form, setting, value), metric.utility(value)
    return best


def validation_parts(
    classes: ndarray | None,
    rows: ndarray,
    *,
    groups: ndarray | None,
    rng: np.random.Generator,
    share: float = VALIDATION,
    most: int | None = MOST_CHOOSING,
) -> tuple[ndarray, ndarray] | None:
    """Training samples `rows` as (fitting, validation) at random: by whole groups, if any, or by class.

    At most `most` of them; None: all. `classes` (S,): None where labels are no classes. None where a class
    would have no sample to fit (so at one shot), or less than two groups remain.
    """
    rows = rng.permutation(rows)[:most]
    numbers = np.zeros(len(rows), dtype=int)
    if classes is not None:
        numbers = classes[rows]

    held_out = np.zeros(len(rows), dtype=bool)
    if groups is not None:
        units = rng.permutation(np.unique(groups[rows]))
        held_out = np.isin(groups[rows], units[: max(1, round(share * len(units)))])
    else:
        for number in np.unique(numbers):
            of_class = np.flatnonzero(numbers == number)
            held_out[of_class[: max(1, round(share * len(of_class)))]] = True

    fitting, validation = rows[~held_out], rows[held_out]
    fitted_classes = set(numbers[~held_out])
    if not len(validation) or set(numbers) - fitted_classes:
        return None
    if classes is not None and len(fitted_classes) < 2:
        return None
    return np.sort(fitting), np.sort(validation)


def plain_rescale(probe: Probe, *, is_raw: bool) -> Rescale:
    """Rescaling of features for a probe, unless whitened.

    Standardising principal components would whiten them, so raw input is divided by one number only; so is
    everything for kNN and retrieval, whose cosine is blind to it, and for support vectors, whose kernel is.
    """
    if probe.name == "linear" and not is_raw:
        return standardise
    return scale_overall


def _whitened_forms(x: ndarray, fit: ndarray) -> dict[str, ndarray]:
    white = whiten(x, fit)
    full = white.shape[1]
    widths = [width for width in WIDTHS if width < full]

    # All components of few samples are mostly noise; the widest counts only where samples outnumber it.
    if full * 2 <= len(fit) and full <= WIDTHS[-1]:
        widths.append(full)
    return {f"whitened to {width}": white[:, :width] for width in widths or [full]}


def _fold_results(
    probe: Probe,
    families: Mapping[str, Mapping[str, ndarray]],
    split: LabelSplit,
    fold: Fold,
    seed: int,
    computed: dict[tuple, ndarray],
) -> dict[str, tuple[Choice, ndarray]]:
    """Each family's choice, and the scores of its test rows when fitted on all training rows.

    And the better's.

    `computed`: scores that the next seed may need again.
    """
    rows, test = draw_shots(split, fold, seed), split.test_rows(fold)
    rng = np.random.default_rng([split.options.seed, seed, 1])
    parts = validation_parts(split.classes, rows, groups=split.groups, rng=rng)

    results = {}
    for family, forms in families.items():
        choice = choose(probe, forms, split.y, parts, split.metric)
        key = (choice.form, choice.setting, rows.tobytes())
        if key not in computed:
            x = forms[choice.form]
            if fold.leaves_one_out:
                prediction = probe.predict_by_rest(x[rows], split.y[rows])
            else:
                prediction = probe.predict(x[rows], split.y[rows], x[test], [choice.setting])[0]
            computed[key] = split.metric.score(split.y[test], prediction)
        results[family] = (choice, computed[key])

    results["chosen"] = max(results.values(), key=lambda result: _utility(result[0], split.metric))
    return results


def _fixed_result(
    probe: Probe, x: ndarray, split: LabelSplit, fold: Fold, seed: int, setting: float
) -> tuple[Choice, ndarray]:
    """Scores of the test rows by a setting that nobody chose here, on features as they are."""
    rows, test = draw_shots(split, fold, seed), split.test_rows(fold)
    prediction = probe.predict(x[rows], split.y[rows], x[test], [setting])[0]
    return Choice("as they are", setting, None), split.metric.score(split.y[test], prediction)


def _utility(choice: Choice, metric: Metric) -> float:
    if choice.validation is None:
        return -np.inf
    return metric.utility(choice.validation)


class NeighbourVote(Probe):
    """The k training samples with the highest cosine vote for their classes with weight exp(cosine / 0.07).

    Source: weighted kNN of DINO (facebookresearch/dino), whose default is k = 20.
    """

    name = "knn"
    symbol = "k"
    settings = (1, 5, 10, 20, 50)
    default = 20

    def predict(self, x: ndarray, y: ndarray, queries: ndarray, settings: Sequence[float]) -> list[ndarray]:
        classes, numbers = np.unique(y, return_inverse=True)
        votes = torch.from_numpy(numbers)
        neighbours = list(_neighbours(x, queries, int(max(settings))))
        predictions = []
        for k in map(int, settings):
            parts = []
            for weight, rows in neighbours:
                score = torch.zeros(len(weight), len(classes))
                score.scatter_add_(1, votes[rows[:, :k]], weight[:, :k])
                parts.append(score.argmax(1))
            predictions.append(classes[torch.cat(parts).numpy()])
        return predictions


class NeighbourMean(Probe):
    """The mean over the k training samples with the highest cosine, weighted by exp(cosine / 0.07).

    Of yes/no questions the mean answer less one half; unknown answers do not count.
    """

    name = "knn"
    symbol = "k"
    settings = NeighbourVote.settings
    default = NeighbourVote.default

    def __init__(self, kind: LabelKind):
        self.threshold = YES_FROM[kind]

    def predict(self, x: ndarray, y: ndarray, queries: ndarray, settings: Sequence[float]) -> list[ndarray]:
        labels = torch.from_numpy(y).float()
        is_known, labels = ~labels.isnan(), labels.nan_to_num()
        neighbours = list(_neighbours(x, queries, int(max(settings))))
        predictions = []
        for k in map(int, settings):
            parts = []
            for weight, rows in neighbours:
                weights = weight[:, :k, None] * is_known[rows[:, :k]]
                mean = (weights * labels[rows[:, :k]]).sum(1) / weights.sum(1).clamp(min=1e-30)
                parts.append(mean - self.threshold)
            predictions.append(torch.cat(parts).double().numpy())
        return predictions


class Logistic(Probe):
    """Multinomial logistic regression: mean cross entropy + λ/2 · ‖W‖², by L-BFGS; the setting is λ.

    λ is per sample, so that what is chosen on a part fits the whole. A fit that uses up its iterations is
    taken as it is, for encoders and baselines alike.
    """

    name = "linear"
    symbol = "λ"
    settings = STRENGTHS
    default = 1e-2

    def predict(self, x: ndarray, y: ndarray, queries: ndarray, settings: Sequence[float]) -> list[ndarray]:
        model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
        x, queries = np.asarray(x, dtype=np.float32), np.asarray(queries, dtype=np.float32)
        predictions = []
        for strength in settings:
            model.set_params(C=1 / (strength * len(x)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(x, y)
            predictions.append(model.predict(queries))
        return predictions


class LogisticAnswers(Probe):
    """Logistic regression of every question: mean binary cross entropy over known answers + λ/2 · ‖w‖².

    By L-BFGS; the setting is λ.
    """

    name = "linear"
    symbol = "λ"
    settings = STRENGTHS
    default = 1e-2

    def predict(self, x: ndarray, y: ndarray, queries: ndarray, settings: Sequence[float]) -> list[ndarray]:
        inputs, answers = torch.from_numpy(x).double(), torch.from_numpy(y).double()
        is_known = ~answers.isnan()
        share = is_known / is_known.sum(0).clamp(min=1)
        answers = answers.nan_to_num()

        layer = nn.Linear(x.shape[1], y.shape[1]).double()
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        predictions = []
        for strength in settings:
            optimizer = torch.optim.LBFGS(
                layer.parameters(), max_iter=ITERATIONS, tolerance_grad=TOLERANCE, line_search_fn="strong_wolfe"
            )

            def loss(strength: float = strength, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
                optimizer.zero_grad()
                error = F.binary_cross_entropy_with_logits(layer(inputs), answers, reduction="none")
                total = (error * share).sum() + strength / 2 * layer.weight.square().sum()
                total.backward()
                return total

            optimizer.step(loss)
            with torch.no_grad():
                predictions.append(layer(torch.from_numpy(queries).double()).numpy())
        return predictions


class RidgeRegression(Probe):
    """Ridge regression: mean squared error + λ · ‖w‖² on standardised values; the setting is λ."""

    name = "linear"
    symbol = "λ"
    settings = STRENGTHS
    default = 1e-2

    def predict(self, x: ndarray, y: ndarray, queries: ndarray, settings: Sequence[float]) -> list[ndarray]:
        predictions = []
        for strength in settings:
            model = Ridge(alpha=strength * len(x)).fit(x, y)
            predictions.append(model.predict(queries).reshape(len(queries), -1))
        return predictions


class SupportVectors(Probe):
    """RBF support vectors, C chosen by 5-fold search within the training samples, as graph papers report
    them."""

    name = "svm"
    settings = ()
    default = None

    def predict(self, x: ndarray, y: ndarray, queries: ndarray, settings: Sequence[float]) -> list[ndarray]:
        machine, parts = fit_svm(x, y), np.array_split(queries, len(queries) // GRAM_ROWS + 1)
        predictions = np.concatenate(list(map(machine.predict, parts)))
        return [predictions] * len(settings)


class LinearSupportVectors(Probe):
    """Linear support vectors, each pair of classes by itself (libsvm); the setting is C."""

    name = "svm"
    symbol = "C"
    settings = LINEAR_STRENGTHS
    default = 1e-2

    def predict(self, x: ndarray, y: ndarray, queries: ndarray, settings: Sequence[float]) -> list[ndarray]:
        x, queries = np.asarray(x, dtype=np.float64), np.asarray(queries, dtype=np.float64)
        kernel, inputs, others = "linear", x, queries
        if len(x) <= GRAM_ROWS:  # the products of all pairs once for every C
            kernel, inputs, others = "precomputed", x @ x.T, queries @ x.T

        predictions = []
        for strength in settings:
            machine = SVC(kernel=kernel, C=strength).fit(inputs, y)
            predictions.append(machine.predict(others))
        return predictions


class Retrieval(Probe):
    """Training samples ranked by their cosine to every test sample, the query; nothing is trained.

    Without samples set aside to test, every sample is a query among all others. Predictions (Q, C, 3) for
    every class c: the average precision of the ranking if samples of c are the hits, and 1 where the first one
    is of c, or one of the first five.
    """

    name = "retrieval"
    settings = ()
    default = None

    def predict(self, x: ndarray, y: ndarray, queries: ndarray, settings: Sequence[float]) -> list[ndarray]:
        counts = np.bincount(y)
        starts = np.cumsum(counts) - counts
        present = np.flatnonzero(counts)
        hit_number = np.arange(len(y)) - np.repeat(starts, counts) + 1  # of a class's samples in ranked order

        predictions = np.zeros((len(queries), len(counts), 3))
        start = 0
        for cosine in _cosines(x, queries):
            ranked = y[np.argsort(-cosine.numpy(), 1, kind="stable")]
            rank = np.argsort(ranked, 1, kind="stable") + 1  # by class, in ranked order
            precision = np.add.reduceat(hit_number / rank, starts[present], axis=1) / counts[present]
            rows = np.arange(start, start + len(ranked))
            predictions[rows[:, None], present, 0] = precision
            predictions[rows, ranked[:, 0], 1] = 1
            predictions[rows[:, None], ranked[:, :FIRST], 2] = 1
            start += len(ranked)
        return [predictions] * max(1, len(settings))

    def predict_by_rest(self, x: ndarray, y: ndarray) -> ndarray:
        """Predictions (S, C, 3), of each row's own class alone: 0 where no other row is of it."""
        predictions, start = np.zeros((len(x), int(y.max()) + 1, 3)), 0
        ranks = np.arange(1, len(x))
        for cosine in _cosines(x, x):
            rows = np.arange(start, start + len(cosine))
            cosine[torch.arange(len(rows)), torch.from_numpy(rows)] = -torch.inf
            order = np.argsort(-cosine.numpy(), 1, kind="stable")[:, :-1]  # the query itself comes last

            hits = y[order] == y[rows][:, None]
            precision = (hits.cumsum(1) / ranks * hits).sum(1) / np.maximum(hits.sum(1), 1)
            scores = [precision, hits[:, 0], hits[:, :FIRST].any(1)]
            predictions[rows, y[rows]] = np.stack(scores, 1)
            start += len(rows)
        return predictions


def probe_for(task: Task | EpisodeProbe, kind: LabelKind, kernel: Kernel = "rbf") -> Probe:
    """The probe of a task for a kind of label; `kernel` of support vectors. Raises UserError where there is none."""
    probes = {
        ("knn", "classes"): NeighbourVote,
        ("linear", "classes"): Logistic,
        ("linear", "answers"): LogisticAnswers,
        ("linear", "values"): RidgeRegression,
        ("svm", "classes"): SupportVectors,
        ("retrieval", "classes"): Retrieval,
    }
    if task == "knn" and kind != "classes":
        return NeighbourMean(kind)
    if task == "svm" and kernel == "linear":
        probes["svm", "classes"] = LinearSupportVectors
    if (task, kind) not in probes:
        raise UserError(f"task={task} takes classes, not {kind}; choose task=knn, linear or finetune.")
    return probes[task, kind]()


def _neighbours(x: ndarray, queries: ndarray, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights and training rows (q, count) of the nearest by cosine, for some queries at a time."""
    for cosine in _cosines(x, queries):
        near = cosine.topk(min(count, len(x)), dim=1)
        yield ((near.values - 1) / TEMPERATURE).exp(), near.indices


def _cosines(x: ndarray, queries: ndarray) -> Iterator[Tensor]:
    """Cosines (q, S) of some queries at a time with x (S, D)."""
    bank = F.normalize(torch.from_numpy(x).float(), dim=1)
    for part in F.normalize(torch.from_numpy(queries).float(), dim=1).split(QUERIES):
        yield part @ bank.T


def fit_svm(x: ndarray, y: ndarray) -> GridSearchCV | SVC:
    """The search has fewer parts where a class has fewer samples, and with one sample there is none: C = 1."""
    parts = min(5, int(np.unique(y, return_counts=True)[1].min()))
    kernel: Any = scaled_rbf  # scikit-learn takes functions too, which its stubs leave out
    if len(x) > GRAM_ROWS:
        kernel = "rbf"
    machine = SVC(kernel=kernel, random_state=42)
    if parts < 2:
        return machine.fit(x, y)
    return GridSearchCV(machine, {"C": list(SVM_STRENGTHS)}, cv=parts, scoring="accuracy").fit(x, y)


def scaled_rbf(x: ndarray, fitted_to: ndarray) -> ndarray:
    """SVC's own RBF kernel with gamma="scale", between rows (S, D) and (T, D): (S, T).

    One matrix product; libsvm goes through pairs of rows and takes 3 to 6 times as long (3,000 rows of
    width 512).
    """
    variance = fitted_to.var()
    gamma = 1.0
    if variance:
        gamma = 1 / (fitted_to.shape[1] * variance)
    return rbf_kernel(x, fitted_to, gamma=gamma)


def svm_folds(x: ndarray, y: ndarray, folds: int = SVM_FOLDS) -> list[float]:
    """Micro-F1 of each shuffled stratified fold, of RBF support vectors.

    C by search within its training part.

    x (S, D) features, y (S,) classes. The mean is the figure that papers give. The choice of C never sees a
    fold's test part; pooling and recipe were published with the test folds in sight.
    Raises: UserError where a class has fewer samples than folds.
    Source: THUDM/GraphMAE (graph classification).
    """
    classes, counts = np.unique(y, return_counts=True)
    least = int(counts.min(initial=len(y)))
    if len(classes) < 2 or least < folds:
        raise UserError(
            f"The smallest class has {least} samples, {folds} folds need {folds}; there must be two classes."
        )

    scores = []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(x, y):
        predicted = fit_svm(x[train], y[train]).predict(x[test])
        scores.append(float(f1_score(y[test], predicted, average="micro")))
    return scores


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Test figure after the last epoch, and at the latest epoch whose validation figure is the highest.

    The two are named apart because the second depends on a validation set; a table says which it shows.
    """

    final: float
    selected: float
    selected_epoch: int
    validation: float  # the highest


def adam_probe(
    x: Tensor,
    y: Tensor,
    parts: Mapping[str, Tensor],
    *,
    lr: float,
    weight_decay: float,
    epochs: int,
    seed: int = 0,
) -> ProbeResult:
    """Multinomial logistic regression by full-batch Adam with L2 decay: test accuracy.

    x (N, D), y (N,) with -1 unknown, parts: (N,) bool for train, validation, test. The features are taken
    as they are.
    Raises: UserError where a part is empty or test classes are missing in training.
    Source: THUDM/GraphMAE (node classification).
    """
    check_parts(y, parts)
    rows = {name: (flags & (y >= 0)).nonzero()[:, 0] for name, flags in parts.items()}

    def loss(layer: nn.Linear) -> Tensor:
        return F.cross_entropy(layer(x[rows["train"]]), y[rows["train"]])

    def accuracy(layer: nn.Linear, part: str) -> float:
        predictions = layer(x[rows[part]]).argmax(1)
        return float((predictions == y[rows[part]]).double().mean())

    layer = seeded_linear(x.shape[1], int(y.max()) + 1, seed).to(x.device)
    return train_probe(layer, [loss], accuracy, lr=lr, weight_decay=weight_decay, epochs=epochs)


def train_probe(
    layer: nn.Linear,
    losses: Sequence[Callable[[nn.Linear], Tensor]],
    figure: Callable[[nn.Linear, str], float],
    *,
    lr: float,
    weight_decay: float,
    epochs: int,
) -> ProbeResult:
    """Trains a layer by Adam, a step for every loss of an epoch.

    `figure`: of a layer on "validation" or "test".
    """
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr, weight_decay=weight_decay)
    best, test_at_best, best_epoch, test = -1.0, 0.0, 0, 0.0
    for epoch in range(epochs):
        for loss in losses:
            optimizer.zero_grad()
            loss(layer).backward()
            optimizer.step()

        with torch.no_grad():
            validation, test = figure(layer, "validation"), figure(layer, "test")
        if validation >= best:
            best, test_at_best, best_epoch = validation, test, epoch
    return ProbeResult(final=test, selected=test_at_best, selected_epoch=best_epoch, validation=best)


def seeded_linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    """A linear layer whose initial weights are a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs)


def check_parts(y: Tensor, parts: Mapping[str, Tensor]) -> None:
    """Raises UserError naming the part that is missing or empty, or the classes that training lacks."""
    for name in PARTS:
        if name not in parts or not bool((parts[name] & (y >= 0)).any()):
            raise UserError(f"The {name} split has no labelled sample; a probe needs train, validation and test.")

    trained, tested = set(y[parts["train"]].tolist()), set(y[parts["test"]].tolist())
    absent = sorted(tested - trained - {-1})
    if absent:
        raise UserError(f"Classes {absent} are tested but have no training sample: split the data anew.")


def random_parts(y: Tensor, shares: tuple[float, float], seed: int) -> dict[str, Tensor]:
    """Train, validation and test flags (N,) at random: `shares` for the first two, the rest is the third."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    sizes = [int(len(y) * shares[0]), int(len(y) * sum(shares))]
    parts = {}
    for name, rows in zip(PARTS, order.tensor_split(sizes), strict=True):
        parts[name] = torch.zeros(len(y), dtype=torch.bool).index_fill(0, rows, True)
    return parts
