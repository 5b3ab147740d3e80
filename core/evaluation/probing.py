"""task=knn, linear, svm: features of encoder and baselines, each sample read once, and a probe on all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.evaluation.baselines import RANDOM, RAW, random_encoder, raw_components
from core.evaluation.cache import keep, recall
from core.evaluation.classification import SUPERVISED, Scores, Task, majority, plain_form, score
from core.evaluation.features import Extractor, Table, extract_once, extractor
from core.evaluation.finetune import supervised
from core.evaluation.labelled import Question, report
from core.evaluation.probe import Probe
from core.export import load_encoder

TRAINED, BESIDE = "trained", "beside"


def evaluate_probe(question: Question, probe: Probe, with_supervised: bool = False) -> dict:
    """The record's figures; `with_supervised`: beside supervised training from scratch at equal compute as well.

    Raises: UserError where there are no labels, or too few to learn from.
    """
    question.names()
    key = question.key() | {"probe": probe.name, "seeds": question.options.seeds}
    kept = recall(key)
    models = _encoders(question) | ({} if kept is not None else _baselines(question))
    table = extract_once(models, question.samples, question.reading, question.data, question.tokens)
    tasks = question.tasks(table)
    if kept is None:
        kept = _score_baselines(question, probe, table, tasks)
        keep(key, kept)
    others = {label: _of(label, kept) for label in tasks}
    protocol = {"probe": " ".join((type(probe).__doc__ or "").split())}
    if probe.settings:
        protocol["selection"] = "settings and whitening on a validation part (20 %) of the training samples"
    if with_supervised:
        more, protocol[SUPERVISED] = supervised(question, table.items, tasks)
        others = {label: {**others[label], SUPERVISED: more[label]} for label in tasks}
    ours = _score_runs(TRAINED, question.runs, probe, table, tasks)
    beside = _score_runs(BESIDE, question.beside, probe, table, tasks) if question.beside else {}
    beside = {label: scores["chosen"].right for label, scores in beside.items()}
    return report(question, table, tasks, ours, others, beside, protocol)


def _encoders(question: Question) -> dict[str, Extractor]:
    return {
        f"{name}/{i}": extractor(load_encoder(path), question.pooling, question.reading.device)
        for name, runs in ((TRAINED, question.runs), (BESIDE, question.beside))
        for i, path in enumerate(runs)
    }


def _score_runs(
    name: str, runs: Sequence[Path], probe: Probe, table: Table, tasks: Mapping[str, Task]
) -> dict[str, dict[str, Scores]]:
    features = [table.features[f"{name}/{i}"] for i in range(len(runs))]
    return {label: score(probe, features, task, plain_form(probe, raw=False)) for label, task in tasks.items()}


def _baselines(question: Question) -> dict[str, Extractor]:
    options, reading = question.options, question.reading
    models = {
        f"{RANDOM}/{i}": extractor(random_encoder(question.runs[0], options.seed, i), question.pooling, reading.device)
        for i in range(options.seeds)
    }
    raw = raw_components(question.fit_items, reading, options.seed, question.tokens is not None)
    return models if raw is None else {**models, RAW: raw}


def _score_baselines(
    question: Question, probe: Probe, table: Table, tasks: Mapping[str, Task]
) -> dict[str, np.ndarray]:
    """What every baseline got right, by "label/baseline"."""
    tables = {RANDOM: [table.features[f"{RANDOM}/{i}"] for i in range(question.options.seeds)]}
    if RAW in table.features:
        tables[RAW] = [table.features[RAW]]
    right = {}
    for label, task in tasks.items():
        right[f"{label}/majority class"] = majority(task)
        for name, features in tables.items():
            scores = score(probe, features, task, plain_form(probe, raw=name == RAW))
            right[f"{label}/{name}"] = scores["plain"].right
            if "whitened" in scores:
                right[f"{label}/{name}, whitened"] = scores["whitened"].right
    return right


def _of(label: str, kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{label}/"): right for name, right in kept.items() if name.startswith(f"{label}/")}
