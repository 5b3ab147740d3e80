"""compare: figures with intervals beside baselines, and the verdict whether an encoder beats them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.loader import evaluation_batches
from core.data.reader import Reader
from core.data.sources import Item
from core.evaluation.features import Extractor, FeatureTable
from core.evaluation.labelled import EPISODE_TESTS, LabelledData, LabelSplit, draw_items, keys_of
from core.evaluation.metrics import METRICS
from core.evaluation.probes import FIRST, YES_FROM, Scores
from core.evaluation.projection import Components, fit_components
from core.evaluation.settings import LabelledTask, LoaderSettings
from core.evaluation.verdicts import of_differences
from core.export import SavedEncoder, load_encoder
from core.seeding import mix

RAW = "PCA of raw input"
HEADLINE_SEEDS = 5  # of training; with fewer a figure is a check
COMPONENTS = 256  # of raw input; fewer where validation says so
FIT_SAMPLES = 4096  # training samples the components are fitted on, drawn at random
CONSTANT = {"classes": "majority class", "answers": "share of yes in training", "values": "mean of training"}


def random_encoder(path: str | Path, seed: int, number: int) -> SavedEncoder:
    """An encoder of the same shape as the saved one, freshly initialised.

    `number`: which of those under `seed`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("random init", seed, number))
        return load_encoder(path, pretrained=False)


def raw_components(
    items: Sequence[Item], loader: LoaderSettings, *, seed: int, by_token: bool = False
) -> dict[str, Extractor]:
    """Projections on the leading components of raw samples, or of their tokens, and of descriptors of samples.

    By the name of the baseline; without those whose rows are of several lengths.
    """
    samples, reader = draw_items(items, FIT_SAMPLES, seed=seed), loader.reader

    rows: dict[str, list[Tensor]] = defaultdict(list)
    count = 0
    for batch in evaluation_batches(samples, reader, loader.batch_size, loader.workers):
        count += 1
        for name, raw in _raw(reader, batch.views[reader.view], by_token).items():
            rows[name].append(raw)

    extractors = {}
    for name, parts in rows.items():
        if len(parts) == count and len({part.shape[1] for part in parts}) == 1:
            components = fit_components(torch.cat(parts), COMPONENTS, seed)
            extractors[name] = _projection(components, reader, name, by_token)
    return extractors


def _raw(reader: Reader, data: Any, by_token: bool) -> dict[str, Tensor]:
    """Raw rows of a batch by the name of the baseline."""
    rows = {}
    raw = reader.raw_features(data, by_token)
    if raw is not None:
        rows[RAW] = raw
    if not by_token:
        for name, descriptor in reader.descriptors(data).items():
            rows[f"PCA of {name}"] = descriptor
    return rows


def _projection(components: Components, reader: Reader, name: str, by_token: bool) -> Extractor:
    return lambda data: components.project(_raw(reader, data, by_token)[name])


def constant_scores(split: LabelSplit) -> np.ndarray:
    """Scores (1, T, …) of one prediction for every unit: the most frequent class of the training samples,
    for every question the share of yes among them, or their mean value."""
    scores = []
    for fold in split.folds:
        y, test = split.y[split.fit_rows(fold)], split.test_rows(fold)
        if split.classes is not None:
            predictions = np.full(len(test), np.bincount(y).argmax())
        else:
            mean = np.nan_to_num(y).sum(0) / np.maximum((~np.isnan(y)).sum(0), 1)
            predictions = np.tile(mean - YES_FROM[split.label.kind], (len(test), 1))
        scores.append(split.metric.score(split.y[test], predictions))
    return split.metric.join(scores)[None]


def chance_scores(split: LabelSplit) -> np.ndarray:
    """Scores (1, T) that a random ranking of the training samples has in the mean, for retrieval.

    With n samples, r of them hits: the average precision is (H_n + (r - 1)(n - H_n) / (n - 1)) / n, H_n = Σ
    1 / k, the first one hits with probability r / n, and none of m with Π (n - r - i) / (n - i), i < m.
    """
    scores = []
    for fold in split.folds:
        counts = np.bincount(split.y[split.fit_rows(fold)])
        total = counts.sum()
        if fold.leaves_one_out:  # the query is no hit
            counts, total = np.maximum(counts - 1, 0), total - 1
        harmonic = (1 / np.arange(1, total + 1)).sum()
        precision = (harmonic + (counts - 1) * (total - harmonic) / max(total - 1, 1)) / total
        steps = np.arange(min(FIRST, total))
        misses = np.maximum(total - counts[:, None] - steps, 0) / (total - steps)
        expected = np.stack([np.where(counts > 0, precision, 0), counts / total, 1 - misses.prod(1)], 1)

        y = split.y[split.test_rows(fold)]
        scores.append(split.metric.score(y, np.broadcast_to(expected, (len(y), *expected.shape))))
    return split.metric.join(scores)[None]


def verdict(
    ours: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    split: LabelSplit,
    *,
    trainings: int,
) -> dict:
    """The differences of scores (R, T, …) to every baseline, above 0 where ours is better, and their verdict.

    `trainings`: how many trainings `ours` comes from.
    """
    metric, differences = split.metric, {}
    for name, theirs in baselines.items():
        gain = metric.gain(ours, theirs, groups=split.tested_groups, seed=split.options.seed)
        differences[name] = gain.as_dict()
    best = max(baselines, key=lambda name: metric.utility(metric.value(baselines[name])))

    return {
        "result": of_differences(differences, best).word,
        "best_baseline": best,
        "difference": differences[best],
        "differences": differences,
        "trainings": trainings,
        "check": trainings < HEADLINE_SEEDS,
    }


def rival_section(ours: np.ndarray, theirs: np.ndarray, split: LabelSplit, *, trainings: int) -> dict:
    """Another training's figure, and the paired difference to it.

    `trainings`: how many trainings it comes from.
    """
    gain = split.metric.gain(ours, theirs, groups=split.tested_groups, seed=split.options.seed)
    return {split.metric.name: figure(theirs, split), "difference": gain.as_dict(), "trainings": trainings}


def figure(scores: np.ndarray, split: LabelSplit) -> dict[str, float]:
    """The figure of scores (R, T, …) with its interval."""
    return split.metric.interval(scores, groups=split.tested_groups, seed=split.options.seed).as_dict()


def compare(
    task: LabelledTask,
    data: LabelledData,
    table: FeatureTable,
    splits: Mapping[str, LabelSplit],
    *,
    ours: Mapping[str, Mapping[str, Scores]],
    baselines: Mapping[str, Mapping[str, np.ndarray]],
    rivals: Mapping[str, np.ndarray],
    protocol: Mapping[str, str],
) -> dict:
    """Figures, baselines and verdict of every label, counts and skipped samples.

    `ours`: scores by label and form; `baselines`: by label and name; `rivals`: of the training to compare
    with, by label, empty where there is none. `protocol`: lines of the task's own.
    """
    figures = {}
    for name, split in splits.items():
        figures[name] = _section(split, ours[name], baselines[name], trainings=len(task.runs))
        if name in rivals:
            scores = ours[name]["chosen"].units
            figures[name]["beside"] = rival_section(scores, rivals[name], split, trainings=len(task.rivals))

    # Of tokens those without a label are for validation, or unknown.
    items = table.items
    if data.tokens is not None:
        items = [item for item in items if item.labels]
    test = len(keys_of(items) & data.tested)
    return {
        "figures": figures,
        "protocol": {**_protocol(task, data, next(iter(splits.values()))), **protocol},
        "counts": {"train": len(items) - test, "test": test, "skipped": len(table.skipped)},
        "skipped": list(map(list, table.skipped)),
    }


def _section(
    split: LabelSplit, ours: Mapping[str, Scores], baselines: Mapping[str, np.ndarray], *, trainings: int
) -> dict:
    """The figures of one label; of classes that training lacks, test samples count as wrong."""
    trained = {}
    for name, scores in ours.items():
        trained[name] = figure(scores.units, split) | {"settings": _settings(scores)}

    preferred = ours["chosen"].units
    section = {
        split.metric.name: figure(preferred, split),
        "trained": trained,
        "baselines": {name: figure(scores, split) for name, scores in baselines.items()},
        "verdict": verdict(preferred, baselines, split, trainings=trainings),
    }
    if split.metric.beside:
        section["metrics"] = _beside(split, preferred, baselines)
    if split.options.way is not None:
        section["episodes"] = _episodes(split, preferred)
    if split.classes is not None:
        section |= {"classes": len(split.label.names), "absent_from_train": _absent_classes(split)}
    else:
        section |= {split.label.kind: len(split.label.names)}
    return section | {
        "tested": len(split.tested),
        "unlabelled": int((~split.is_known).sum()),
        "metric": split.metric.name,
    }


def _beside(
    split: LabelSplit, ours: np.ndarray, baselines: Mapping[str, np.ndarray]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures of all metrics that read the same scores: ours, and those of the baselines by name."""
    figures = {}
    for name in split.metric.beside:
        label = replace(split.label, metric=METRICS[name]())
        of_metric = replace(split, label=label)
        by_name = {baseline: figure(scores, of_metric) for baseline, scores in baselines.items()}
        figures[name] = {"ours": figure(ours, of_metric), "baselines": by_name}
    return figures


def _episodes(split: LabelSplit, scores: np.ndarray) -> dict[str, Any]:
    """The figure of each episode, a mean over seeds, their mean and their deviation, as papers give it."""
    figures, groups = [], split.tested_groups
    for number in range(len(split.folds)):
        figures.append(split.metric.value(scores[:, groups == number]))
    return {"each": figures, "mean": float(np.mean(figures)), "deviation": float(np.std(figures))}


def _absent_classes(split: LabelSplit) -> list[str]:
    """Names of classes that some fold tests and does not train."""
    absent = set()
    for fold in split.folds:
        numbers, counts = np.unique(split.y[split.fit_rows(fold)], return_counts=True)
        if fold.leaves_one_out:
            numbers = numbers[counts > 1]
        absent |= set(split.y[split.test_rows(fold)]) - set(numbers)
    return sorted(split.label.names[int(number)] for number in absent)


def _settings(scores: Scores) -> list[dict]:
    """The choices on validation, and how often each was made."""
    counts, settings = Counter(), []
    for choice in scores.choices:
        counts[choice.form, choice.setting, choice.validation is not None] += 1
    for (form, setting, on_validation), times in counts.most_common():
        entry = {"form": form, "setting": setting, "chosen_on_validation": on_validation, "times": times}
        settings.append(entry)
    return settings


def _protocol(task: LabelledTask, data: LabelledData, split: LabelSplit) -> dict:
    options = task.options
    return {
        "pool": data.pool(task),
        "split": _split_in_words(task, data, split),
        "train": task.train or "all",
        "shots": options.shots or "all",
        "seeds": options.seeds,
        "interval": "95 %, percentile bootstrap over test samples (whole groups where they carry one) and seeds",
    }


def _split_in_words(task: LabelledTask, data: LabelledData, split: LabelSplit) -> str:
    """How samples to test were told from samples to train on, and which of them pre-training may have read."""
    folds, origin = len(split.folds), task.source.account().split_by
    if split.options.way is not None:
        options, place = split.options, f"training and test samples as given ({origin})"
        if not data.tested:
            place = "all of labelled samples, for the data mark none to test"
        sizes = f"{options.way} classes, {options.shots} training and {EPISODE_TESTS} test samples (or all) of each"
        return f"{folds} episodes of {sizes}; drawn here, not the published ones; {place}"
    if split.folds[0].leaves_one_out:
        return f"each of {len(split.tested)} labelled samples by all others, for the data mark none to test"
    if split.groups is not None and folds > 1:
        return f"{folds} folds of whole groups ({len(np.unique(split.groups))} groups) over all samples"
    if folds == 1 and task.source.split_is_drawn:
        return f"drawn at random, for the data mark none ({origin})"
    if folds == 1 and data.tokens is not None:
        return "as given"  # with the tokens, else by the samples that hold them
    if folds == 1:
        return f"as given ({origin})"

    unit = "tokens" if data.tokens is not None else "samples"
    text = f"{folds} folds over all {int(split.is_known.sum())} labelled {unit}"
    if split.classes is not None:
        text += ", by class"
    if data.tested:
        return f"{text}, as folds={folds} asks, beside the split of the data ({origin})"
    if data.tokens is not None:
        return f"{text}; the data mark none to test"
    if not task.is_own_data:
        return f"{text}; the data mark none to test (files that were also trained on were read then, without labels)"
    read = len(keys_of(data.fit_samples) & keys_of(data.items))
    return f"{text}; the data mark none to test, and the run has read {read} of them in training, without labels"
