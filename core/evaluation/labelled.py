"""What every labelled task shares: which samples or tokens are asked about, and the record, a section per label."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from core.data.sources import Item, Source
from core.errors import UserError
from core.evaluation.classification import Scores, Task, accuracy, compare, judge
from core.evaluation.features import Pool, Reading, Table
from core.evaluation.protocol import Options, check_classes, groups_of, label_names, make_folds
from core.evaluation.record import hash_items
from core.evaluation.tokens import LABEL, TokenItems, token_items
from core.export import load_encoder

Right = dict[str, dict[str, np.ndarray]]  # what was right (R, T), by label and baseline


@dataclass(frozen=True)
class Question:
    """What is asked: of which runs (one per training seed), on which data, how set.

    `beside`: runs of another training, which are asked the same. `reader`: its config, for the cache. `train`: training
    samples used at most, drawn at random; None: all. `epochs` of fine-tuning; supervised training from scratch gets
    them on top of what pre-training took.
    """

    runs: Sequence[Path]
    source: Source
    reading: Reading
    reader: Mapping
    options: Options
    pool: Pool = "mean"
    train: int | None = None
    epochs: float = 10.0
    beside: Sequence[Path] = ()

    def __post_init__(self):
        for name, runs in (("run", self.runs), ("beside", self.beside)):
            nodes = [_nodes(run) for run in runs]
            for run, other in zip(runs, nodes, strict=True):
                if other != nodes[0]:
                    raise UserError(
                        f"{name}={run} has another encoder than {runs[0]}; only runs that differ in seed go together."
                    )

    @cached_property
    def fit_items(self) -> list[Item]:
        items = self.source.items("train")
        chosen = np.random.default_rng([self.options.seed, 3]).permutation(len(items))[: self.train]
        return [items[i] for i in np.sort(chosen)]

    @cached_property
    def samples(self) -> list[Item]:
        """All that is read, each sample once: those to train on come first."""
        return list({item.key: item for item in [*self.fit_items, *self.source.items("test")]}.values())

    @cached_property
    def tokens(self) -> TokenItems | None:
        """Where tokens carry the labels and samples do not."""
        if any(item.labels for item in self.samples):
            return None
        found = token_items(self.reading.reader, self.samples, {item.key for item in self.fit_items})
        if found is not None and self.train is not None:
            raise UserError(f"train={self.train} counts samples, but here their tokens carry the labels; give shots=.")
        return found

    @cached_property
    def items(self) -> list[Item]:
        """All that is asked about: samples, or tokens where those carry the labels."""
        if self.tokens is None:
            return self.samples
        return [token for tokens in self.tokens.by_sample.values() for token in tokens]

    @cached_property
    def tested(self) -> frozenset[str]:
        """Keys of the items to test; empty where the data set none aside."""
        if self.tokens is not None:
            return self.tokens.tested
        return frozenset(item.key for item in self.items) - {item.key for item in self.fit_items}

    @cached_property
    def data(self) -> str:
        return hash_items(self.items)

    @cached_property
    def classes(self) -> dict[str, list[str]]:
        """Names of the classes, by label. Raises UserError where nothing is labelled."""
        if self.tokens is None:
            return {name: self.source.classes[name] for name in label_names(self.items, self.source.classes)}
        return {LABEL: self.tokens.classes}

    def names(self) -> list[str]:
        """Of the labels. Raises UserError where there are none."""
        return list(self.classes)

    @property
    def pooling(self) -> Pool:
        return self.pool if self.tokens is None else "token"

    def key(self) -> dict:
        """What every baseline depends on; the number of seeds is not among it."""
        return {
            "data": self.data,
            "reader": dict(self.reader),
            "nodes": _nodes(self.runs[0]),
            "pool": self.pooling,
            "options": asdict(self.options) | {"seeds": None},
            "tokens": None if self.tokens is None else sorted(self.tested),
        }

    def tasks(self, table: Table) -> dict[str, Task]:
        """By label. Raises UserError where there are too few samples to learn from or to test."""
        is_test = np.array([item.key in self.tested for item in table.items])
        groups, tasks = groups_of(table.items), {}
        for name in self.names():
            y = table.labels(name)
            folds = make_folds(is_test, y, groups, self.options)
            for fold in folds:
                check_classes(name, y, fold)
            tasks[name] = Task(y, folds, groups, self.options)
        return tasks


def report(
    question: Question,
    table: Table,
    tasks: Mapping[str, Task],
    ours: Mapping[str, Mapping[str, Scores]],
    others: Right,
    beside: Mapping[str, np.ndarray],
    protocol: Mapping[str, str],
) -> dict:
    """Figures, baselines and verdict of every label, counts and skipped samples. `ours`: by label and form.

    `beside`: what the other training got right (R, T), by label; empty where there is none.
    """
    first = next(iter(tasks.values()))
    asked = [item.key for item in table.items if question.tokens is None or item.labels]
    test = sum(key in question.tested for key in asked)
    figures = {
        name: _section(question.classes[name], task, ours[name], others[name], len(question.runs))
        for name, task in tasks.items()
    }
    for name, right in beside.items():
        figures[name]["beside"] = compare(ours[name]["chosen"].right, right, tasks[name], len(question.beside))
    return {
        "figures": figures,
        "protocol": {**_protocol(question, first), **protocol},
        "counts": {"train": len(asked) - test, "test": test, "skipped": len(table.skipped)},
        "skipped": [list(entry) for entry in table.skipped],
    }


def _nodes(run: Path) -> dict:
    """What its encoder is built from."""
    config = load_encoder(run, pretrained=False).config
    return {name: config[name] for name in ("tokenizer", "encoder")}


def _section(
    classes: Sequence[str], task: Task, ours: Mapping[str, Scores], others: Mapping[str, np.ndarray], trainings: int
) -> dict:
    absent = {
        classes[number]
        for fold in task.folds
        for number in set(task.y[fold.test]) - set(task.y[fold.fit])
        if number >= 0
    }
    return {
        "accuracy": accuracy(ours["chosen"].right, task),
        "trained": {
            name: accuracy(scores.right, task) | {"settings": _settings(scores)} for name, scores in ours.items()
        },
        "baselines": {name: accuracy(right, task) for name, right in others.items()},
        "verdict": judge(ours["chosen"].right, others, task, trainings),
        "classes": len(classes),
        "absent_from_train": sorted(absent),  # their test samples count as wrong
        "tested": len(task.tested),
        "unlabelled": int((task.y < 0).sum()),
    }


def _settings(scores: Scores) -> list[dict]:
    """What was chosen on validation, and how often."""
    counts = Counter((choice.form, choice.setting, choice.accuracy is not None) for choice in scores.choices)
    return [
        {"form": form, "setting": setting, "chosen_on_validation": chosen, "times": times}
        for (form, setting, chosen), times in counts.most_common()
    ]


def _protocol(question: Question, task: Task) -> dict:
    options, folds = question.options, len(task.folds)
    split = "as given"
    if folds > 1 and task.groups is not None:
        split = f"{folds} folds of whole groups ({len(np.unique(task.groups))} groups) over all samples"
    elif folds > 1:
        split = f"{folds} folds over all of them, by class; the data set none aside"
    return {
        "pool": question.pooling,
        "split": split,
        "train": question.train or "all",
        "shots": options.shots or "all",
        "seeds": options.seeds,
        "interval": "95 %, percentile bootstrap over test samples (whole groups where they carry one) and seeds",
    }
