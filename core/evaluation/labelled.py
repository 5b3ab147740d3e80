"""load_labelled: the samples or tokens of a labelled task, their labels, and the rows that train and test."""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain, compress, islice, starmap

import numpy as np
import torch
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from torch import Tensor

from core.data.reader import Reader, TokenLabels
from core.data.sources import Item
from core.errors import BadSample, UserError
from core.evaluation.metrics import DEFAULTS, METRICS, LabelKind, Metric
from core.evaluation.record import hash_items
from core.evaluation.settings import LabelledTask, MetricName, ProtocolOptions, encoder_nodes

EPISODE_TESTS = 20  # test samples of every class in an episode, as published
TOKEN_LABEL = "token"  # the name of a label that tokens carry


@dataclass(frozen=True)
class Label:
    """A label of samples or tokens.

    `names`: of its classes, of its questions, or of its values. `metric`: its own.
    """

    name: str
    kind: LabelKind
    names: Sequence[str] = field(kw_only=True)
    metric: Metric = field(kw_only=True)

    @property
    def unknown(self) -> int | tuple[float, ...]:
        """An item's label where it has none."""
        if self.kind == "classes":
            return -1
        return (float("nan"),) * len(self.names)

    def values(self, items: Sequence[Item]) -> np.ndarray:
        """Class numbers (S,), -1 where unknown; of the other kinds (S, L), NaN where unknown."""
        rows = [item.labels.get(self.name, self.unknown) for item in items]
        if self.kind == "classes":
            return np.array(rows)

        y = np.array(rows, dtype=np.float64).reshape(len(rows), len(self.names))
        if self.kind == "answers":
            y[y < 0] = np.nan  # -1 in an item
        return y

    def is_known(self, y: np.ndarray) -> np.ndarray:
        """(S,) bool: rows of `values` with a label, or some of its answers."""
        if self.kind == "classes":
            return y >= 0
        return np.logical_not(np.isnan(y).all(1))

    def classes(self, y: np.ndarray) -> np.ndarray | None:
        """`values` (S,) for draws by class; None for labels of another kind."""
        if self.kind == "classes":
            return y
        return None


@dataclass(frozen=True)
class Fold:
    """Rows of the table of items: `fit`, whose features and labels may be used, and `test`.

    `leaves_one_out`: both are the same rows; each is tested by all but itself.
    """

    fit: np.ndarray
    test: np.ndarray
    leaves_one_out: bool = field(kw_only=True, default=False)


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
        return self.label.classes(self.y)

    @cached_property
    def tested(self) -> np.ndarray:
        """Rows that are tested, in the order of every score."""
        return np.concatenate(list(map(self.test_rows, self.folds)))

    @property
    def tested_groups(self) -> np.ndarray | None:
        """Groups (T,) of tested rows that intervals redraw together: whole episodes, else whole groups, if any."""
        if self.options.way is not None:
            counts = [len(self.test_rows(fold)) for fold in self.folds]
            return np.repeat(np.arange(len(counts)), counts)
        if self.groups is None:
            return None
        return self.groups[self.tested]

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
        return list(chain.from_iterable(self.by_sample.values()))

    def select(self, tokens: Sequence[Item]) -> tuple[list[Item], dict[str, Tensor]]:
        """The samples of these tokens, and by key a flag per token (N,): whether it is one of these."""
        selected_keys = keys_of(tokens)
        samples, flags = [], {}
        for sample in self.samples:
            selected = torch.tensor([token.key in selected_keys for token in self.by_sample[sample.key]])
            if selected.any():
                samples.append(sample)
                flags[sample.key] = selected
        return samples, flags


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Everything that a labelled task reads.

    `samples`: each once, those to train on (`fit_samples`) first. `items`: samples, or tokens where those
    carry the labels. `tested`: keys of the items to test; empty where the data set none aside. `hash`: of
    the items.
    """

    fit_samples: Sequence[Item]
    samples: Sequence[Item]
    items: Sequence[Item]
    tested: frozenset[str]
    labels: Sequence[Label]
    hash: str
    tokens: TokenItems | None = None

    def pool(self, task: LabelledTask) -> str:
        """How tokens become one vector per item."""
        if self.tokens is None:
            return task.pool
        return "token"

    def splits(self, items: Sequence[Item], options: ProtocolOptions) -> dict[str, LabelSplit]:
        """The split of every label over the items that could be read, by its name.

        Raises UserError where there are too few samples to learn from or to test.
        """
        is_test = np.array([item.key in self.tested for item in items])
        groups = groups_of(items)
        if self.tested and not is_test.any() and groups is None and not options.folds:
            raise UserError(
                f"None of the {len(self.tested)} test samples can be read, so there is nothing to judge by: "
                "check their files. To be judged in folds over the other samples, give folds=5."
            )

        splits = {}
        for label in self.labels:
            y = label.values(items)
            classes = label.classes(y)
            folds = make_folds(is_test, label.is_known(y), classes=classes, groups=groups, options=options)
            split = LabelSplit(label, y, folds=folds, groups=groups, options=options)
            for fold in folds:
                check_fold(split, fold)
            splits[label.name] = split
        return splits


def load_labelled(task: LabelledTask) -> LabelledData:
    """The items and labels of a task.

    Raises: UserError where there are no labels, or none that fit its metric.
    """
    fit_samples = draw_items(task.source.items("train"), task.train, seed=[task.options.seed, 3])
    fit_keys = keys_of(fit_samples)
    samples = list(_by_key([*fit_samples, *_test_items(task)]).values())

    # Tokens carry the labels where samples do not.
    tokens = None
    if not any(item.labels for item in samples):
        tokens = token_items(task.loader.reader, samples, fit_keys)
    if tokens is not None and task.train is not None:
        raise UserError(f"train={task.train} counts samples, but here their tokens carry the labels; give shots=.")

    if tokens is None:
        items, tested = samples, frozenset(keys_of(samples) - fit_keys)
        if asks_in_folds(task) and groups_of(samples) is None:
            tested = frozenset()
        names = label_names(samples, task.source.classes, task.source.questions)
        kinds: dict[str, LabelKind] = {}
        for name in names:
            kinds[name] = "classes"
            if name in task.source.questions:
                kinds[name] = "answers"
    else:
        items, tested = tokens.items, tokens.tested
        names = {TOKEN_LABEL: tokens.names}
        kinds = {TOKEN_LABEL: tokens.kind}

    # Labels as their metric takes them.
    data_hash = hash_items(items)
    labels = []
    for name, parts in names.items():
        label, items = _as_metric(items, name, kinds[name], parts, task.metric)
        labels.append(label)
    if tokens is None:
        samples = items
    else:
        tokens = _with_items(tokens, items)

    return LabelledData(
        fit_samples=fit_samples,
        samples=samples,
        items=items,
        tested=tested,
        labels=labels,
        hash=data_hash,
        tokens=tokens,
    )


def asks_in_folds(task: LabelledTask) -> bool:
    """Whether samples that the source drew at random to test are asked in folds together with all others.

    `train=` counts the training samples of a split, and so keeps it; episodes keep it too.
    """
    options = task.options
    keeps_split = options.folds == 0 or options.way is not None or task.train is not None
    return task.source.split_is_drawn and not keeps_split


def _test_items(task: LabelledTask) -> Sequence[Item]:
    """The samples to test; none where folds do without and the data have none."""
    try:
        return task.source.items("test")
    except UserError:
        if asks_in_folds(task) or task.options.folds or task.options.way:
            return []
        raise


def keys_of(items: Sequence[Item]) -> set[str]:
    return {item.key for item in items}


def pick(items: Sequence[Item], rows: Iterable[int]) -> list[Item]:
    return [items[row] for row in rows]


def items_of(items: Sequence[Item], keys: Iterable[str]) -> list[Item]:
    """The items with these keys, in their order."""
    by_key = _by_key(items)
    return [by_key[key] for key in keys]


def draw_items(items: Sequence[Item], count: int | None, *, seed: int | Sequence[int]) -> list[Item]:
    """At most `count` items (None: all) at random, in their order."""
    rows = np.random.default_rng(seed).permutation(len(items))[:count]
    return pick(items, np.sort(rows))


def cache_key(task: LabelledTask, data: LabelledData) -> dict:
    """Everything that scores of a task's baselines depend on, but the number of seeds; plain JSON."""
    return {
        "data": data.hash,
        "reader": dict(task.reader_node),
        "nodes": encoder_nodes(task.runs[0]),
        "pool": data.pool(task),
        "options": asdict(task.options) | {"seeds": None},
        "tested": sorted(data.tested),
        "metrics": {label.name: label.metric.name for label in data.labels},
    }


def label_names(
    items: Sequence[Item], classes: Mapping[str, list[str]], questions: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Names of classes or questions by label. Raises UserError where there are no labels."""
    labelled = set()
    for item in items:
        labelled |= item.labels.keys()

    present = {}
    for name, parts in {**classes, **questions}.items():
        if name in labelled:
            present[name] = parts
    if not present:
        raise UserError(
            "The data have no labels, which task=knn, linear, svm, retrieval, fewshot and finetune need. Labels come "
            "from class folders (train/cat/1.jpg) or from a csv list with a column `label`, given as data.root. "
            "Without labels, task=reconstruction can be measured."
        )
    return present


def token_items(reader: Reader, samples: Sequence[Item], fit: Collection[str]) -> TokenItems | None:
    """None where the first sample's tokens have no labels. `fit`: keys of the samples to train on.

    Tokens without a split of their own belong where their sample does; those of neither part of a split
    (validation) lose their label. Samples that cannot be read are left out.
    Raises: UserError where only some samples have labelled tokens.
    """
    readable, by_sample, tested = [], {}, set()
    kind, names, count = "classes", [], 0
    for sample in samples:
        try:
            labels = reader.token_labels(sample)
        except BadSample:
            continue
        if labels is None:
            if by_sample:
                raise UserError(f"{sample.key}: its tokens carry no labels, though those of other samples do.")
            return None

        readable.append(sample)
        tokens, is_tested = _tokens(sample, labels, sample.key in fit)
        by_sample[sample.key] = tokens
        tested |= keys_of(list(compress(tokens, is_tested)))
        names = list(labels.names) or names
        if labels.classes.dim() > 1:
            kind, count = "answers", labels.classes.shape[1]

    if kind == "classes":
        count = _class_count(by_sample)
    names = names or list(map(str, range(count)))
    return TokenItems(readable, by_sample, tested=frozenset(tested), kind=kind, names=names)


def groups_of(items: Sequence[Item]) -> np.ndarray | None:
    """The group of each item (S,), or None unless every item carries one."""
    groups = [item.group for item in items if item.group is not None]
    if len(groups) < len(items) or not groups:
        return None
    return np.unique(groups, return_inverse=True)[1]


def make_folds(
    is_test: np.ndarray,
    is_known: np.ndarray,
    *,
    classes: np.ndarray | None,
    groups: np.ndarray | None,
    options: ProtocolOptions,
) -> list[Fold]:
    """The given split as one fold.

    Where samples carry groups, every sample tested once in folds of whole groups; where none is set aside
    to test, or `options.folds` asks for it, in shuffled folds of labelled samples, with their share of every
    class if they have one; for retrieval each by all others. With `options.way` episodes.

    Flags, classes and groups are (S,). Raises UserError where there are fewer groups, or samples of every
    class, than folds.
    """
    if options.way is not None:
        return make_episodes(is_test, is_known, classes=classes, groups=groups, options=options)

    rows, folds = np.arange(len(is_test)), options.folds
    count = 0
    if groups is not None:
        count = len(np.unique(groups))
    if folds is None:
        folds = options.default_folds
        if count > 1:
            folds = min(folds, count)
    if groups is not None and folds and (count > 1 or options.folds):
        if folds < 2 or count < folds:
            raise UserError(f"folds={folds} does not fit {count} groups; choose 2 to {count}, or 0 to keep the split.")
        return list(starmap(Fold, GroupKFold(folds).split(rows, groups=groups)))

    if is_test.any() and not options.folds:
        return [Fold(rows[~is_test], rows[is_test])]

    rows = rows[is_known]
    if options.leave_one_out and options.folds is None and options.shots is None:
        return [Fold(rows, rows, leaves_one_out=True)]
    most, part = len(rows), "the labels are of"
    if classes is not None:
        most, part = int(np.bincount(classes[rows]).max(initial=0)), "the largest class has"
    if options.folds is None:
        folds = min(folds, max(most, 2))
    if folds < 2 or most < folds:
        remedy = "for the data mark no samples to test"
        if is_test.any():
            remedy = "or 0 to keep the given split"
        raise UserError(f"folds={folds} does not fit: {part} {most} samples; choose 2 to that number, {remedy}.")

    with warnings.catch_warnings():
        # Of a class with fewer samples than folds; the record names classes that a fold does not train.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        if classes is None:
            parts = list(KFold(folds, shuffle=True, random_state=options.seed).split(rows))
        else:
            splitter = StratifiedKFold(folds, shuffle=True, random_state=options.seed)
            parts = list(splitter.split(rows, classes[rows]))
    return [Fold(rows[fit], rows[test]) for fit, test in parts]


def make_episodes(
    is_test: np.ndarray,
    is_known: np.ndarray,
    *,
    classes: np.ndarray | None,
    groups: np.ndarray | None,
    options: ProtocolOptions,
) -> list[Fold]:
    """Episodes of `way` classes at random, and of each class `shots` training rows and `EPISODE_TESTS` test rows.

    Of a class with fewer test rows all. Where none is set aside to test, test rows are drawn from all labelled
    samples outside the training rows, and outside their groups. Flags, classes and groups are (S,).
    Raises: UserError for labels that are no classes, and where too few classes have enough samples.
    """
    if classes is None:
        raise UserError("task=fewshot draws episodes by class, and this label has none.")
    way, shots = options.way, options.shots
    assert way is not None and shots is not None, "episodes have a number of classes and of shots"

    is_apart = bool((is_test & is_known).any())
    fits, tests = {}, {}
    for number in np.unique(classes[is_known]):
        rows = np.flatnonzero(is_known & (classes == number))
        fit, test = rows, rows[shots:]
        if is_apart:
            fit, test = rows[~is_test[rows]], rows[is_test[rows]]
        if len(fit) >= shots and len(test):
            fits[int(number)], tests[int(number)] = fit, test
            if not is_apart:
                tests[int(number)] = rows
    if len(fits) < way:
        raise UserError(
            f"way={way} shots={shots}: {len(fits)} classes have {shots} training samples and one to test; choose fewer."
        )

    episodes = []
    for number in range(options.folds or options.default_folds):
        rng = np.random.default_rng([options.seed, number, 5])
        episode_classes = rng.choice(sorted(fits), way, replace=False)
        fit = np.concatenate([rng.permutation(fits[int(name)])[:shots] for name in episode_classes])
        parts = []
        for name in episode_classes:
            rows = rng.permutation(np.setdiff1d(tests[int(name)], fit))
            if groups is not None and not is_apart:
                rows = rows[~np.isin(groups[rows], groups[fit])]
            if not len(rows):
                raise UserError(f"shots={shots}: the groups of an episode's training samples leave none to test.")
            parts.append(rows[:EPISODE_TESTS])
        episodes.append(Fold(np.sort(fit), np.sort(np.concatenate(parts))))
    return episodes


def check_fold(split: LabelSplit, fold: Fold) -> None:
    """Raises UserError where a fold's labels leave nothing to learn or nothing to test."""
    fit, test = split.y[split.fit_rows(fold)], split.y[split.test_rows(fold)]
    name = split.label.name
    if split.label.kind != "classes":
        # Test samples of several folds are measured together.
        least = 1
        if len(split.folds) == 1:
            least = 2
        for part, count, needed in (("training", len(fit), 2), ("test", len(test), least)):
            if count < needed:
                raise UserError(f"Label {name!r}: {count} {part} samples are labelled; at least two are needed.")
        return

    if len(set(fit)) < 2:
        raise UserError(f"Label {name!r}: the training samples have {len(set(fit))} classes; at least two are needed.")
    if not set(fit) & set(test):
        raise UserError(
            f"Label {name!r}: no class of the test samples occurs in training; check how data.root is split."
        )


def draw_shots(split: LabelSplit, fold: Fold, replicate: int) -> np.ndarray:
    """Labelled training rows; with `shots`, so many of each class (or all), drawn anew for each replicate.

    Raises UserError for shots of labels that are no classes.
    """
    rows, options = split.fit_rows(fold), split.options
    if options.shots is None:
        return rows
    if split.classes is None:
        raise UserError(f"shots= counts samples of a class, and label {split.label.name!r} has none; give train=.")

    order = np.random.default_rng([options.seed, replicate, 2]).permutation(rows)
    shots = [order[split.y[order] == number][: options.shots] for number in np.unique(split.y[rows])]
    return np.sort(np.concatenate(shots))


def _tokens(sample: Item, labels: TokenLabels, fits: bool) -> tuple[list[Item], list[bool]]:
    """A sample's tokens, and a flag for each: whether it is tested."""
    count = len(labels.classes)
    test = labels.splits.get("test", torch.full((count,), not fits))
    train = labels.splits.get("train", ~test)
    values, is_known = labels.classes.tolist(), labels.classes >= 0
    if labels.classes.dim() > 1:
        values, is_known = list(map(tuple, values)), is_known.any(1)

    items = []
    rows = zip(values, (is_known & (train | test)).tolist(), strict=True)
    for number, (value, has_label) in enumerate(rows):
        token = replace(sample, key=f"{sample.key}/{number}", labels={})
        if has_label:
            token = replace(token, labels={TOKEN_LABEL: value})
        items.append(token)
    return items, test.tolist()


def _class_count(by_sample: Mapping[str, Sequence[Item]]) -> int:
    """The largest class number that occurs, and one."""
    largest = -1
    for token in chain.from_iterable(by_sample.values()):
        number = token.labels.get(TOKEN_LABEL, -1)
        assert isinstance(number, int), "classes have one number each"
        largest = max(largest, number)
    return largest + 1


def _as_metric(
    items: Sequence[Item], name: str, kind: LabelKind, names: Sequence[str], metric_name: MetricName | None
) -> tuple[Label, Sequence[Item]]:
    """The label as its metric takes it, and the items with such labels: classes become answers, or numbers
    values.

    Without a metric, classes whose names are numbers with decimals are values.
    Raises: UserError where the metric does not fit the kind of label.
    """
    numbers = None
    if kind == "classes":
        numbers = _as_numbers(names)
    if metric_name is None and numbers is not None and not all(map(float.is_integer, numbers)):
        metric_name = DEFAULTS["values"]
    metric = METRICS[metric_name or DEFAULTS[kind]]()

    if kind in metric.kinds:
        return Label(name, kind, names=names, metric=metric), items
    if kind == "classes" and "answers" in metric.kinds:
        rows = np.eye(len(names)).tolist()
        items = _relabelled(items, name, list(map(tuple, rows)))
        return Label(name, "answers", names=names, metric=metric), items
    if numbers is not None and "values" in metric.kinds:
        items = _relabelled(items, name, list(zip(numbers, strict=True)))
        return Label(name, "values", names=[name], metric=metric), items

    text = kind
    if kind == "classes":
        text = "classes whose names are no numbers"
    raise UserError(
        f"metric={metric.name} takes {' or '.join(metric.kinds)}, and label {name!r} has {text}; choose metric="
        f"{DEFAULTS[kind]}, or see python -m core.evaluate --help."
    )


def _as_numbers(names: Sequence[str]) -> list[float] | None:
    try:
        return list(map(float, names))
    except ValueError:
        return None


def _relabelled(items: Sequence[Item], name: str, values: Sequence[tuple[float, ...]]) -> list[Item]:
    """Items whose class number has become a tuple of values."""
    relabelled = []
    for item in items:
        number = item.labels.get(name)
        if isinstance(number, int):
            item = replace(item, labels={**item.labels, name: values[number]})
        relabelled.append(item)
    return relabelled


def _with_items(tokens: TokenItems, items: Sequence[Item]) -> TokenItems:
    """The same tokens with other labels."""
    remaining, by_sample = iter(items), {}
    for key, part in tokens.by_sample.items():
        by_sample[key] = list(islice(remaining, len(part)))
    return replace(tokens, by_sample=by_sample)


def _by_key(items: Sequence[Item]) -> dict[str, Item]:
    return {item.key: item for item in items}
