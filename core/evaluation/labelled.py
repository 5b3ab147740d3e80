"""load_labelled: the samples or tokens of a labelled task, their labels, and the rows that train and test."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from torch import Tensor

from core.data.reader import Reader, TokenLabels
from core.data.sources import Item
from core.errors import BadSample, UserError
from core.evaluation.metrics import DEFAULTS, METRICS, LabelKind, Metric
from core.evaluation.record import hash_items
from core.evaluation.settings import LabelledTask, MetricName, Pool, ProtocolOptions, encoder_nodes

TOKEN_LABEL = "token"  # the name of a label that tokens carry


@dataclass(frozen=True)
class Label:
    """A label of samples or tokens. `names`: of its classes, of its questions, or of its values. `metric`: its own."""

    name: str
    kind: LabelKind
    names: Sequence[str] = field(kw_only=True)
    metric: Metric = field(kw_only=True)

    @property
    def unknown(self) -> int | tuple[float, ...]:
        """An item's label where it has none."""
        return -1 if self.kind == "classes" else (float("nan"),) * len(self.names)

    def values(self, items: Sequence[Item]) -> np.ndarray:
        """Class numbers (S,), -1 where unknown; of the other kinds (S, L), NaN where unknown."""
        rows = [item.labels.get(self.name, self.unknown) for item in items]
        if self.kind == "classes":
            return np.array(rows)
        return _with_nan(np.array(rows, dtype=np.float64).reshape(len(rows), len(self.names)), self.kind)

    def is_known(self, y: np.ndarray) -> np.ndarray:
        """(S,) bool: rows of `values` with a label, or some of its answers."""
        return y >= 0 if self.kind == "classes" else ~np.isnan(y).all(1)


@dataclass(frozen=True)
class Fold:
    """Rows of the table of items: `fit`, whose features and labels may be used, and `test`."""

    fit: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class LabelSplit:
    """One label of the items that could be read: y (S,) or (S, L), folds, and groups (S,) or None."""

    label: Label
    y: np.ndarray
    folds: Sequence[Fold] = field(kw_only=True)
    groups: np.ndarray | None = field(kw_only=True, default=None)
    options: ProtocolOptions = field(kw_only=True)

    @property
    def metric(self) -> Metric:
        return self.label.metric

    @cached_property
    def is_known(self) -> np.ndarray:
        return self.label.is_known(self.y)

    @property
    def classes(self) -> np.ndarray | None:
        """Class numbers (S,), for draws by class; None for labels of another kind."""
        return self.y if self.label.kind == "classes" else None

    @cached_property
    def tested(self) -> np.ndarray:
        """Rows that are tested, in the order of every score."""
        return np.concatenate([self.test_rows(fold) for fold in self.folds])

    @property
    def tested_groups(self) -> np.ndarray | None:
        return None if self.groups is None else self.groups[self.tested]

    def test_rows(self, fold: Fold) -> np.ndarray:
        return fold.test[self.is_known[fold.test]]

    def fit_rows(self, fold: Fold) -> np.ndarray:
        return fold.fit[self.is_known[fold.fit]]


@dataclass(frozen=True)
class TokenItems:
    """Samples, the tokens of each by its key, and the keys of those that are tested.

    `kind` and `names` of their label: classes, or answers to several questions.
    """

    samples: Sequence[Item]
    by_sample: Mapping[str, Sequence[Item]]
    tested: frozenset[str] = field(kw_only=True)
    kind: LabelKind = field(kw_only=True, default="classes")
    names: Sequence[str] = field(kw_only=True)

    @property
    def items(self) -> list[Item]:
        return [token for tokens in self.by_sample.values() for token in tokens]

    def select(self, tokens: Sequence[Item]) -> tuple[list[Item], dict[str, Tensor]]:
        """The samples that these tokens are of, and by their keys a flag per token (N,): whether it is one of these."""
        keys = {token.key for token in tokens}
        samples, flags = [], {}
        for sample in self.samples:
            selected = torch.tensor([token.key in keys for token in self.by_sample[sample.key]])
            if selected.any():
                samples.append(sample)
                flags[sample.key] = selected
        return samples, flags


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Everything that a labelled task reads.

    `samples`: each once, those to train on (`fit_samples`) first. `items`: samples, or tokens where those carry the
    labels. `tested`: keys of the items to test; empty where the data set none aside. `hash`: of the items.
    """

    fit_samples: Sequence[Item]
    samples: Sequence[Item]
    items: Sequence[Item]
    tested: frozenset[str]
    labels: Sequence[Label]
    hash: str
    tokens: TokenItems | None = None

    def pool(self, task: LabelledTask) -> Pool | Literal["token"]:
        """How tokens become one vector per item."""
        return task.pool if self.tokens is None else "token"

    def splits(self, items: Sequence[Item], options: ProtocolOptions) -> dict[str, LabelSplit]:
        """The split of every label over the items that could be read, by its name.

        Raises UserError where there are too few samples to learn from or to test.
        """
        is_test = np.array([item.key in self.tested for item in items])
        groups = groups_of(items)
        splits = {}
        for label in self.labels:
            y = label.values(items)
            classes = y if label.kind == "classes" else None
            folds = make_folds(is_test, label.is_known(y), classes=classes, groups=groups, options=options)
            split = LabelSplit(label, y, folds=folds, groups=groups, options=options)
            for fold in folds:
                check_fold(split, fold)
            splits[label.name] = split
        return splits


def load_labelled(task: LabelledTask) -> LabelledData:
    """The items and labels of a task. Raises: UserError where there are no labels, or none that fit its metric."""
    fit_samples = _training_samples(task)
    samples = list({item.key: item for item in [*fit_samples, *task.source.items("test")]}.values())

    # Tokens carry the labels where samples do not.
    tokens = None
    if not any(item.labels for item in samples):
        tokens = token_items(task.loader.reader, samples, {item.key for item in fit_samples})
    if tokens is not None and task.train is not None:
        raise UserError(f"train={task.train} counts samples, but here their tokens carry the labels; give shots=.")

    if tokens is None:
        items, names = samples, label_names(samples, task.source.classes, task.source.questions)
        tested = frozenset(item.key for item in items) - {item.key for item in fit_samples}
        kinds = {name: ("answers" if name in task.source.questions else "classes") for name in names}
    else:
        items, names, tested = tokens.items, {TOKEN_LABEL: tokens.names}, tokens.tested
        kinds = {TOKEN_LABEL: tokens.kind}

    data_hash = hash_items(items)
    labels = []
    for name, parts in names.items():
        label, items = _as_metric(items, name, kinds[name], parts, task.metric)
        labels.append(label)
    if tokens is not None:
        tokens = _with_items(tokens, items)

    return LabelledData(
        fit_samples=fit_samples,
        samples=samples if tokens is not None else items,
        items=items,
        tested=tested,
        labels=labels,
        hash=data_hash,
        tokens=tokens,
    )


def cache_key(task: LabelledTask, data: LabelledData) -> dict:
    """Everything that scores of a task's baselines depend on, but the number of seeds; plain JSON."""
    return {
        "data": data.hash,
        "reader": dict(task.reader_node),
        "nodes": encoder_nodes(task.runs[0]),
        "pool": data.pool(task),
        "options": asdict(task.options) | {"seeds": None},
        "tokens": None if data.tokens is None else sorted(data.tested),
        "metrics": {label.name: label.metric.name for label in data.labels},
    }


def label_names(
    items: Sequence[Item], classes: Mapping[str, list[str]], questions: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Names of classes or questions by label. Raises UserError where there are no labels."""
    names = {**classes, **questions}
    present = {name: parts for name, parts in names.items() if any(name in item.labels for item in items)}
    if not present:
        raise UserError(
            "The data have no labels, which task=knn, linear, svm, retrieval and finetune need. Labels come from class "
            "folders (train/cat/1.jpg) or from a csv list with a column `label`, given as data.root. "
            "Without labels, task=reconstruction can be measured."
        )
    return present


def token_items(reader: Reader, samples: Sequence[Item], fit: Collection[str]) -> TokenItems | None:
    """None where the first sample's tokens have no labels. `fit`: keys of the samples to train on.

    Tokens without a split of their own belong where their sample does; those of neither part of a split (validation)
    lose their label. Samples that cannot be read are left out.
    Raises: UserError where only some samples have labelled tokens.
    """
    by_sample, tested, names, kind = {}, set(), [], "classes"
    for sample in samples:
        try:
            labels = reader.token_labels(sample)
        except BadSample:
            continue
        if labels is None:
            if by_sample:
                raise UserError(f"{sample.key}: its tokens carry no labels, though those of other samples do.")
            return None

        tokens, is_tested = _tokens(sample, labels, sample.key in fit)
        by_sample[sample.key] = tokens
        tested |= {token.key for token, flag in zip(tokens, is_tested, strict=True) if flag}
        kind = "classes" if labels.classes.dim() == 1 else "answers"
        names = list(labels.names) or names or _numbers(labels)

    if not names:
        names = _class_numbers(by_sample)
    readable = [sample for sample in samples if sample.key in by_sample]
    return TokenItems(readable, by_sample, tested=frozenset(tested), kind=kind, names=names)


def groups_of(items: Sequence[Item]) -> np.ndarray | None:
    """The group of each item (S,), or None unless every item carries one."""
    groups = [item.group for item in items]
    return None if None in groups or not groups else np.unique(groups, return_inverse=True)[1]


def make_folds(
    is_test: np.ndarray,
    is_known: np.ndarray,
    *,
    classes: np.ndarray | None,
    groups: np.ndarray | None,
    options: ProtocolOptions,
) -> list[Fold]:
    """The given split as one fold. Where samples carry groups, every sample tested once in folds of whole groups; where
    none is set aside to test, in shuffled folds of labelled samples, with their share of every class if they have one.

    Flags, classes and groups are (S,). Raises UserError where there are fewer groups, or samples of every class, than
    folds.
    """
    rows, folds = np.arange(len(is_test)), options.folds
    if groups is not None and folds:
        count = len(np.unique(groups))
        if folds < 2 or count < folds:
            raise UserError(f"folds={folds} does not fit {count} groups; choose 2 to {count}, or 0 to keep the split.")
        return [Fold(fit, test) for fit, test in GroupKFold(folds).split(rows, groups=groups)]

    if is_test.any():
        return [Fold(rows[~is_test], rows[is_test])]

    rows = rows[is_known]
    most, part = len(rows), "the labels are of"
    if classes is not None:
        most, part = int(np.bincount(classes[rows]).max(initial=0)), "the largest class has"
    if folds < 2 or most < folds:
        raise UserError(
            f"folds={folds}: the data set no samples aside to test, and {part} {most} samples; choose "
            "folds from 2 to that number."
        )

    if classes is None:
        parts = KFold(folds, shuffle=True, random_state=options.seed).split(rows)
    else:
        parts = StratifiedKFold(folds, shuffle=True, random_state=options.seed).split(rows, classes[rows])
    return [Fold(rows[fit], rows[test]) for fit, test in parts]


def check_fold(split: LabelSplit, fold: Fold) -> None:
    """Raises UserError where a fold's labels leave nothing to learn or nothing to test."""
    fit, test = split.y[split.fit_rows(fold)], split.y[split.test_rows(fold)]
    name = split.label.name
    if split.label.kind != "classes":
        for part, rows in (("training", fit), ("test", test)):
            if len(rows) < 2:
                raise UserError(f"Label {name!r}: {len(rows)} {part} samples are labelled; at least two are needed.")
        return

    if len(set(fit)) < 2:
        raise UserError(f"Label {name!r}: the training samples have {len(set(fit))} classes; at least two are needed.")
    if not set(fit) & set(test):
        raise UserError(
            f"Label {name!r}: no class of the test samples occurs in training; check how data.root is split."
        )


def draw_shots(split: LabelSplit, fold: Fold, replicate: int) -> np.ndarray:
    """Labelled training rows; with `shots`, that many of each class (or all it has), drawn anew for each replicate.

    Raises UserError for shots of labels that are no classes.
    """
    rows, options = split.fit_rows(fold), split.options
    if options.shots is None:
        return rows
    if split.classes is None:
        raise UserError(f"shots= counts samples of a class, and label {split.label.name!r} has none; give train=.")

    order = np.random.default_rng([options.seed, replicate, 2]).permutation(rows)
    drawn = [order[split.y[order] == number][: options.shots] for number in np.unique(split.y[rows])]
    return np.sort(np.concatenate(drawn))


def _training_samples(task: LabelledTask) -> list[Item]:
    items = task.source.items("train")
    rows = np.random.default_rng([task.options.seed, 3]).permutation(len(items))[: task.train]
    return [items[row] for row in np.sort(rows)]


def _tokens(sample: Item, labels: TokenLabels, fits: bool) -> tuple[list[Item], list[bool]]:
    """A sample's tokens, and a flag for each: whether it is tested."""
    count = len(labels.classes)
    test = labels.splits.get("test", torch.full((count,), not fits))
    train = labels.splits.get("train", ~test)
    is_known = labels.classes >= 0
    if labels.classes.dim() > 1:
        is_known = is_known.any(1)

    items = []
    rows = zip(labels.classes.tolist(), (is_known & (train | test)).tolist(), strict=True)
    for number, (value, has_label) in enumerate(rows):
        value = tuple(value) if isinstance(value, list) else value
        token_label = {TOKEN_LABEL: value} if has_label else {}
        items.append(replace(sample, key=f"{sample.key}/{number}", labels=token_label))
    return items, test.tolist()


def _numbers(labels: TokenLabels) -> list[str]:
    """Numbers of the questions, as their names."""
    return [str(number) for number in range(labels.classes.shape[1])] if labels.classes.dim() > 1 else []


def _class_numbers(by_sample: Mapping[str, Sequence[Item]]) -> list[str]:
    """Numbers of the classes that occur, and of those below them, as their names."""
    largest = -1
    for tokens in by_sample.values():
        largest = max(largest, max((token.labels.get(TOKEN_LABEL, -1) for token in tokens), default=-1))
    return [str(number) for number in range(largest + 1)]


def _as_metric(
    items: Sequence[Item], name: str, kind: LabelKind, names: Sequence[str], metric_name: MetricName | None
) -> tuple[Label, Sequence[Item]]:
    """The label as its metric takes it, and the items with such labels: classes become answers, or numbers values.

    Without a metric, classes whose names are numbers with decimals are values.
    Raises: UserError where the metric does not fit the kind of label.
    """
    numbers = _as_numbers(names) if kind == "classes" else None
    if metric_name is None and numbers is not None and any(not number.is_integer() for number in numbers):
        metric_name = DEFAULTS["values"]
    metric = METRICS[metric_name or DEFAULTS[kind]]()

    if kind in metric.kinds:
        return Label(name, kind, names=names, metric=metric), items
    if kind == "classes" and "answers" in metric.kinds:
        rows = np.eye(len(names)).tolist()
        items = _relabelled(items, name, [tuple(row) for row in rows])
        return Label(name, "answers", names=names, metric=metric), items
    if numbers is not None and "values" in metric.kinds:
        items = _relabelled(items, name, [(number,) for number in numbers])
        return Label(name, "values", names=[name], metric=metric), items
    raise UserError(
        f"metric={metric.name} takes {' or '.join(metric.kinds)}, and label {name!r} has {kind}"
        f"{' whose names are no numbers' if kind == 'classes' else ''}; {_fitting_metrics(kind)}"
    )


def _fitting_metrics(kind: LabelKind) -> str:
    names = [name for name, metric in METRICS.items() if kind in metric.kinds and not name.startswith("retrieval")]
    return f"choose {' or '.join(names)}."


def _as_numbers(names: Sequence[str]) -> list[float] | None:
    try:
        return [float(name) for name in names]
    except ValueError:
        return None


def _relabelled(items: Sequence[Item], name: str, values: Sequence[tuple[float, ...]]) -> list[Item]:
    """Items whose class number has become a tuple of values."""
    relabelled = []
    for item in items:
        if name in item.labels:
            item = replace(item, labels={**item.labels, name: values[item.labels[name]]})
        relabelled.append(item)
    return relabelled


def _with_items(tokens: TokenItems, items: Sequence[Item]) -> TokenItems:
    """The same tokens with other labels."""
    by_key = {item.key: item for item in items}
    by_sample = {key: [by_key[token.key] for token in part] for key, part in tokens.by_sample.items()}
    return replace(tokens, by_sample=by_sample)


def _with_nan(y: np.ndarray, kind: LabelKind) -> np.ndarray:
    """Answers (S, L) with -1 for unknown, as NaN."""
    return np.where(y < 0, np.nan, y) if kind == "answers" else y
