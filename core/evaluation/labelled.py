"""task=knn and task=linear: reads a labelled data set once, scores encoder and baselines, one section per label."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from core.data.sources import Source
from core.errors import UserError
from core.evaluation.baselines import cached, random_encoders, raw_components
from core.evaluation.classification import Scores, Task, accuracy, judge, majority, plain_form, score
from core.evaluation.features import Pool, Reading, Table, extract, extractor
from core.evaluation.probe import Probe
from core.evaluation.protocol import Options, check_classes, groups_of, label_names, make_folds
from core.evaluation.record import hash_items
from core.export import load_encoder


@dataclass(frozen=True)
class Question:
    """What is asked: of which saved encoders (one per training seed), by which probe, on which data."""

    encoders: Sequence[Path]
    probe: Probe
    source: Source
    reading: Reading
    options: Options
    pool: Pool = "mean"

    def key(self, items: Sequence, reader: dict) -> dict:
        """Everything the baselines depend on."""
        nodes = _nodes(self.encoders)
        return {
            "data": hash_items(items),
            "reader": reader,
            "nodes": nodes,
            "probe": self.probe.name,
            "pool": self.pool,
            "options": asdict(self.options),
        }


def evaluate_labels(question: Question, reader: dict) -> dict:
    """Figures, baselines and verdict of every label, counts and skipped samples. `reader`: its config, for the cache.

    Raises: UserError where there are no labels, or too few to learn from.
    """
    source, reading, pool = question.source, question.reading, question.pool
    train, test = source.items("train"), source.items("test")
    names = label_names([*train, *test], source.classes)
    key = question.key([*train, *test], reader)
    ours = {f"trained/{i}": extractor(load_encoder(p), pool, reading.device) for i, p in enumerate(question.encoders)}
    table = extract(ours, [*train, *test], reading)
    keys = {item.key for item in test}
    is_test = np.array([item.key in keys for item in table.items])
    groups = groups_of(table.items)
    folds = make_folds(is_test, groups, question.options.folds)
    tasks = {name: Task(table.labels(name), folds, groups, question.options) for name in names}
    for name, task in tasks.items():
        for fold in folds:
            check_classes(name, task.y, fold)
    others = cached(key, lambda: _score_baselines(question, table, train, tasks))
    return {
        "figures": {name: _section(question, name, task, table, others) for name, task in tasks.items()},
        "protocol": _protocol(question, len(folds), groups),
        "counts": {"train": int((~is_test).sum()), "test": int(is_test.sum()), "skipped": len(table.skipped)},
        "skipped": [list(entry) for entry in table.skipped],
    }


def _nodes(encoders: Sequence[Path]) -> dict:
    """What the encoders are built from. Raises UserError unless they are all alike."""
    configs = [load_encoder(path, pretrained=False).config for path in encoders]
    nodes = [{name: config[name] for name in ("tokenizer", "encoder")} for config in configs]
    for path, other in zip(encoders, nodes, strict=True):
        if other != nodes[0]:
            raise UserError(
                f"run={path} has another encoder than {encoders[0]}; only runs that differ in seed go together."
            )
    return nodes[0]


def _score_baselines(
    question: Question, table: Table, train: Sequence, tasks: dict[str, Task]
) -> dict[str, np.ndarray]:
    """What every baseline got right, by "label/baseline"."""
    reading, options = question.reading, question.options
    models = {
        f"random/{i}": extractor(encoder, question.pool, reading.device)
        for i, encoder in enumerate(random_encoders(question.encoders[0], options.seeds, options.seed))
    }
    components = raw_components(train, reading, options.seed)
    if components is not None:
        models["raw"] = components.project
    found = extract(models, table.items, reading).features
    tables = {"random init": [found[f"random/{i}"] for i in range(options.seeds)]}
    if components is not None:
        tables["PCA of raw input"] = [found["raw"]]
    right = {}
    for label, task in tasks.items():
        right[f"{label}/majority class"] = majority(task)
        for name, features in tables.items():
            plain = plain_form(question.probe, raw=name != "random init")
            scores = score(question.probe, features, task, plain)
            right[f"{label}/{name}"] = scores["plain"].right
            right[f"{label}/{name}, whitened"] = scores["whitened"].right
    return right


def _section(question: Question, label: str, task: Task, table: Table, others: dict[str, np.ndarray]) -> dict:
    count = len(question.encoders)
    features = [table.features[f"trained/{i}"] for i in range(count)]
    ours = score(question.probe, features, task, plain_form(question.probe, raw=False))
    mine = [name for name in others if name.startswith(f"{label}/")]
    baselines = {name.removeprefix(f"{label}/"): others[name] for name in mine}
    names = question.source.classes[label]
    absent = {
        names[number] for fold in task.folds for number in set(task.y[fold.test]) - set(task.y[fold.fit]) if number >= 0
    }
    return {
        "accuracy": accuracy(ours["chosen"].right, task),
        "trained": {
            name: accuracy(scores.right, task) | {"settings": _settings(scores)} for name, scores in ours.items()
        },
        "baselines": {name: accuracy(right, task) for name, right in baselines.items()},
        "verdict": judge(ours["chosen"].right, baselines, task, count),
        "classes": len(names),
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


def _protocol(question: Question, folds: int, groups: np.ndarray | None) -> dict:
    options = question.options
    split = "as given"
    if folds > 1:
        split = f"{folds} folds of whole groups ({len(np.unique(groups))} groups) over all samples"
    return {
        "probe": " ".join((type(question.probe).__doc__ or "").split()),
        "pool": question.pool,
        "split": split,
        "shots": options.shots or "all",
        "seeds": options.seeds,
        "selection": "settings and whitening on a validation part (20 %) of the training samples",
        "interval": "95 %, percentile bootstrap over test samples (whole groups where they carry one) and seeds",
    }
