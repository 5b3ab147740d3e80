"""run_task: settings -> load_labelled -> extract -> probe -> compare -> write, for every task.

Each stage is a function of the one before; `extract_cached` and `cached` wrap two of them.
"""

import json
import os
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core import catalogue
from core.annotations import fit
from core.data.opening import open_source
from core.data.reader import CachedReader, WholeReader
from core.data.sources import Source
from core.errors import UserError
from core.evaluation import record
from core.evaluation.cache import cached
from core.evaluation.compare import (
    CONSTANT,
    chance_scores,
    compare,
    constant_scores,
    random_encoder,
    raw_components,
)
from core.evaluation.features import Extractor, FeatureTable, extract_cached, extractor
from core.evaluation.finetune import contests_of, evaluate_finetune, supervised_scores
from core.evaluation.labelled import LabelledData, LabelSplit, cache_key, load_labelled
from core.evaluation.probes import Probe, Scores, plain_rescale, probe_for, probe_scores
from core.evaluation.published import evaluate_published
from core.evaluation.reconstruction import ReconstructionSettings, measure
from core.evaluation.result import Result
from core.evaluation.settings import (
    EpisodeProbe,
    EvaluationSettings,
    LabelledTask,
    LoaderSettings,
    ProtocolOptions,
    Task,
)
from core.evaluation.verdicts import RANDOM, SUPERVISED
from core.export import load_encoder
from core.interop import ClassifierOptions, official_of
from core.runs import Run, check_is_run, loader_workers, open_config, open_method

TRAINED, RIVAL = "trained", "compare_to"
RUNS = {"run", "compare_to"}  # settings that name runs
FOLDS = {"svm": 10}  # and 5 of other tasks
HEADS = {"linear": ClassifierOptions(), "mlp": ClassifierOptions(head="mlp")}  # beside those of the run's method
EPISODES = {"way": 5, "shots": 10, "folds": 10}  # as published most often
RETRIEVAL_METRICS = ("retrieval_map", "retrieval_top1", "retrieval_top5")


def run_task(
    run: Run | str | Path | Sequence[Run | str | Path], task: Task, *overrides: str, **settings: Any
) -> Result:
    """Evaluates a run, or runs that differ in seed, and writes its record under `<run>/evaluation/`.

    `settings` are those of `python -m core.evaluate` (`seeds=5`, `compare_to="runs/other"`), `overrides`
    those of the data (`"data.root=photos"`).
    Raises: UserError naming the setting that does not fit.
    """
    settings = {"run": run, "task": task, **settings}
    hints = {field.name: field.type for field in fields(EvaluationSettings)}
    unknown = settings.keys() - hints.keys()
    if unknown:
        text = f"There is no setting {' or '.join(sorted(unknown))}; there are {', '.join(hints)}"
        example = f'evaluate(run, "{task}", "data.root=photos")'
        raise UserError(f"{text}. Those of the data follow the task as texts: {example}.")

    for name in RUNS & settings.keys():
        settings[name] = _run_paths(settings[name])
    settings = {name: fit(value, hints[name], name) for name, value in settings.items()}
    words = [f"{name}={_as_text(value)}" for name, value in settings.items()]
    command = f"python -m core.evaluate {shlex.join([*words, *overrides])}"
    return evaluate(EvaluationSettings(**settings), overrides, command)


def evaluate(settings: EvaluationSettings, overrides: Sequence[str], command: str) -> Result:
    """Carries out a task and writes its record, in which `command` stands. Raises UserError."""
    start = time.monotonic()
    config = open_config(settings.runs[0], overrides)
    if overrides:
        _print_account(config)
    head = record.heading(settings, config)
    name = record.file_name(head, _other_data(settings.runs[0], config))
    if settings.task == "reconstruction":
        return Result.of_record(_reconstruct(settings, config, head, name, command=command, start=start))

    if settings.task == "published":
        data_hash, figures = _measure_published(settings, config)
    else:
        data_hash, figures = _evaluate_labelled(settings, config, name)

    origin = record.describe(command, seed=settings.seed, data_hash=data_hash, start=start)
    written = {**head, **figures, **origin}
    record.save(settings.runs[0], written, name)
    return Result.of_record(written)


def _print_account(config: dict) -> None:
    """Prints which samples are read and which are passed over, beside the result: to stderr."""
    _, source = open_source(config)
    for line in source.account().lines():
        print(f"data: {line}", file=sys.stderr, flush=True)


def labelled_task(settings: EvaluationSettings, config: dict) -> LabelledTask:
    """The labelled task that settings and config name. Raises UserError where they do not go together."""
    metric = settings.metric
    if settings.task == "retrieval":
        metric = metric or RETRIEVAL_METRICS[0]
    if (metric in RETRIEVAL_METRICS) != (settings.task == "retrieval"):
        raise UserError(f"task=retrieval and metric={' or '.join(RETRIEVAL_METRICS)} go together.")

    # Trainings read the samples in every epoch, so they are kept decoded.
    reader, source = open_source(config)
    print_left_out(source)
    workers = loader_workers(config)
    if settings.workers is not None:
        workers = settings.workers
    megabytes = config["data"]["cache_mb"] / max(1, workers)
    trains = "finetune" in (settings.task, settings.probe) or settings.supervised
    if trains and megabytes and isinstance(reader, WholeReader):
        reader = CachedReader(reader, megabytes)
    loader = LoaderSettings(reader, settings.batch_size or 64, workers=workers, device=settings.torch_device)

    classifier, pool, fixed = _as_published(settings)
    way, shots, folds = None, _none_for_all(settings.shots), FOLDS.get(settings.task, 5)
    if settings.task == "fewshot":
        way, shots, folds = settings.way or EPISODES["way"], shots or EPISODES["shots"], EPISODES["folds"]
    options = ProtocolOptions(
        shots=shots,
        folds=settings.folds,
        default_folds=folds,
        leave_one_out=settings.task == "retrieval",
        way=way,
        seeds=max(settings.seeds, len(settings.runs), len(settings.rivals)),  # every training counts
        seed=settings.seed,
    )
    return LabelledTask(
        runs=settings.runs,
        source=source,
        is_own_data=all(_is_own_data(run, config) for run in settings.runs),
        loader=loader,
        reader_node=config["modality"]["reader"],
        options=options,
        pool=pool,
        metric=metric,
        train=_none_for_all(settings.train),
        epochs=settings.epochs,
        kernel=settings.kernel,
        fixed=fixed,
        classifier=classifier,
        rivals=settings.rivals,
    )


def _as_published(settings: EvaluationSettings) -> tuple[ClassifierOptions, str, dict[str, float]]:
    """The options of fine-tuning, the pooling, and values of C to measure besides, by whose they are.

    What is not set follows the run's method, where it publishes linear support vectors or the head by this name.
    Raises: UserError where there is no such head.
    """
    official = official_of(load_encoder(settings.runs[0], pretrained=False).config.get("origin", {}).get("method", ""))
    heads, support = dict(HEADS), None
    if official is not None:
        heads |= official.classifiers
        support = official.svm
    if settings.head not in heads:
        raise UserError(f"head={settings.head}: this run's encoder can have {', '.join(heads)}.")

    classifier, pool, fixed = heads[settings.head], None, {}
    for name in ("smoothing", "clip"):
        value = getattr(settings, name)
        if value is not None:
            classifier = replace(classifier, **{name: value})

    if settings.task == "finetune" or settings.probe == "finetune":
        pool = classifier.pool
    elif support is not None and settings.kernel == "linear":
        pool = support.pool
        for data, strength in support.strengths.items():
            fixed[f"C={strength:g} as published for {data}"] = strength
    return classifier, settings.pool or pool or "mean", fixed


def print_left_out(source: Source) -> None:
    """Names on stderr, so that stdout stays for the table, the samples that no evaluation reads."""
    for group in source.account().passed_over:
        examples = ", ".join(group.examples)
        print(f"left out: {group.count} {group.kind}, {group.reason}: {examples}", file=sys.stderr)


def evaluate_probe(
    task: LabelledTask, data: LabelledData, name: Task | EpisodeProbe, *, with_supervised: bool = False
) -> dict:
    """Figures of probes on frozen features.

    `with_supervised`: also supervised training from scratch at equal compute.

    Raises: UserError where there are too few labels to learn from.
    """
    probes = {label.name: probe_for(name, label.kind, task.kernel) for label in data.labels}
    encoders = _encoders(task, data)

    # The first time, baselines read the samples together with the encoders, whose features are cached then.
    key = cache_key(task, data) | {"probe": name, "kernel": task.kernel, "seeds": task.options.seeds}
    arrays = cached(key, lambda: _baseline_arrays(task, data, probes, encoders))
    baselines = defaultdict(dict)
    for key, scores in arrays.items():
        label, name = json.loads(key)
        baselines[label][name] = scores

    table = extract_cached(encoders, data, task.loader)
    splits = data.splits(table.items, task.options)
    ours = _run_scores(TRAINED, task.runs, probes, table, splits, task.fixed)
    rivals = {}
    if task.rivals:
        for label, scores in _run_scores(RIVAL, task.rivals, probes, table, splits).items():
            rivals[label] = scores["chosen"].units

    first = next(iter(probes.values()))
    protocol = {"probe": " ".join((type(first).__doc__ or "").split())}
    if first.settings:
        protocol["selection"] = f"{first.symbol} and whitening on a validation part (20 %) of the training samples"
        protocol["setting"] = first.symbol
    if with_supervised:
        scores, protocol[SUPERVISED] = supervised_scores(task, contests_of(task, data, splits, table.items))
        for label, units in scores.items():
            baselines[label][SUPERVISED] = units

    figures = {"ours": ours, "baselines": baselines, "rivals": rivals}
    return compare(task, data, table, splits, **figures, protocol=protocol)


def _evaluate_labelled(settings: EvaluationSettings, config: dict, name: str) -> tuple[str, dict]:
    """The hash of a labelled task's items, and its figures.

    `name`: of the record, and of a classifier's folder.
    """
    task = labelled_task(settings, config)
    data = load_labelled(task)
    probe = settings.task
    if probe == "fewshot":
        probe = settings.probe or "linear"
    if probe == "finetune":
        figures = evaluate_finetune(task, data, settings.runs[0] / "classifier" / name)
    else:
        figures = evaluate_probe(task, data, probe, with_supervised=settings.supervised)
    return data.hash, figures


def _measure_published(settings: EvaluationSettings, config: dict) -> tuple[str, dict]:
    """The hash of the training items, and figures as the run's experiment measures them."""
    if settings.compare_to is not None:
        raise UserError("task=published takes no compare_to=: evaluate each run by itself; their records compare.")
    if settings.metric is not None:
        raise UserError("task=published takes no metric=: the experiment says how its paper measured.")
    try:
        figures = evaluate_published(settings.runs, config, seed=settings.seed, device=settings.torch_device)
    except UserError as error:
        root = config["data"].get("root")
        if root is None or os.path.exists(root):
            raise
        raise UserError(f"{error}{catalogue.origin(config.get('experiment'))}") from None
    return record.hash_items(open_source(config)[1].items("train")), figures


def _other_data(run: Path, config: Mapping[str, Any]) -> dict | None:
    """The nodes that name other data, or another way to read or measure them, than the run's own.

    None: its own; a saved encoder has none.
    """
    ours = _data_nodes(config)
    if (run / "config.yaml").exists() and ours == _data_nodes(open_config(run)):
        return None
    return ours


def _is_own_data(run: Path, config: Mapping[str, Any]) -> bool:
    return (run / "config.yaml").exists() and config["data"] == open_config(run)["data"]


def _data_nodes(config: Mapping[str, Any]) -> dict:
    return {"data": config["data"], "reader": config["modality"]["reader"], "published": config.get("published")}


def _reconstruct(
    settings: EvaluationSettings, config: dict, head: dict, name: str, *, command: str, start: float
) -> dict:
    if len(settings.runs) > 1:
        raise UserError("task=reconstruction takes one run at a time; core.compare takes several, for their mean.")
    for setting in ("compare_to", "metric"):
        if getattr(settings, setting) is not None:
            raise UserError(
                f"task=reconstruction takes no {setting}=: evaluate each run by itself; their records compare."
            )

    run, device = settings.runs[0], settings.torch_device
    check_is_run(run)
    method = open_method(run, config).to(device)
    batch_size = settings.batch_size or 32
    options = ReconstructionSettings(samples=settings.samples, batch_size=batch_size, seed=settings.seed)
    origin = {"command": command, "start": start, "head": head, "name": name}
    return measure(run, method, config, settings=options, workers=settings.workers, **origin)


def _encoders(task: LabelledTask, data: LabelledData) -> dict[str, Extractor]:
    """The saved encoders of runs and rivals, by "trained/0" and so on."""
    models = {}
    for name, runs in ((TRAINED, task.runs), (RIVAL, task.rivals)):
        for number, run in enumerate(runs):
            models[f"{name}/{number}"] = extractor(load_encoder(run), data.pool(task), task.loader.device)
    return models


def _baseline_models(task: LabelledTask, data: LabelledData) -> dict[str, Extractor]:
    """Untrained encoders, and components of the raw input where samples have one shape, and of descriptors."""
    options, loader, models = task.options, task.loader, {}
    for number in range(options.seeds):
        encoder = random_encoder(task.runs[0], options.seed, number)
        models[f"{RANDOM}/{number}"] = extractor(encoder, data.pool(task), loader.device)

    return models | raw_components(data.fit_samples, loader, seed=options.seed, by_token=data.tokens is not None)


def _run_scores(
    name: str,
    runs: Sequence[Path],
    probes: Mapping[str, Probe],
    table: FeatureTable,
    splits: Mapping[str, LabelSplit],
    fixed: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Scores]]:
    """Scores of the encoders of runs, by label and form; `fixed` as in `probe_scores`."""
    features, scores = _numbered(table, name, len(runs)), {}
    for label, split in splits.items():
        probe = probes[label]
        scores[label] = probe_scores(probe, features, split, plain_rescale(probe, is_raw=False), fixed)
    return scores


def _baseline_arrays(
    task: LabelledTask, data: LabelledData, probes: Mapping[str, Probe], encoders: Mapping[str, Extractor]
) -> dict[str, np.ndarray]:
    """Scores of every baseline, by [label, baseline] as JSON."""
    table = extract_cached({**encoders, **_baseline_models(task, data)}, data, task.loader)
    features = {RANDOM: _numbered(table, RANDOM, task.options.seeds)}
    for name in table.features:
        if name.startswith("PCA"):
            features[name] = [table.features[name]]

    arrays = {}
    for label, split in data.splits(table.items, task.options).items():
        probe = probes[label]
        if probe.name == "retrieval":
            arrays[json.dumps([label, "random order"])] = chance_scores(split)
        else:
            arrays[json.dumps([label, CONSTANT[split.label.kind]])] = constant_scores(split)

        for name, tables in features.items():
            scores = probe_scores(probe, tables, split, plain_rescale(probe, is_raw=name != RANDOM))
            arrays[json.dumps([label, name])] = scores["plain"].units
            if "whitened" in scores:
                arrays[json.dumps([label, f"{name}, whitened"])] = scores["whitened"].units
    return arrays


def _numbered(table: FeatureTable, name: str, count: int) -> list[np.ndarray]:
    """Features of the models "name/0" and so on."""
    return [table.features[f"{name}/{number}"] for number in range(count)]


def _run_paths(runs: Any) -> Any:
    """The folders of runs, given as `Run`s or paths, alone or in a list or tuple.

    Anything else is left for a check.
    """
    if isinstance(runs, list | tuple):
        paths = list(map(_run_paths, runs))
        return paths[0] if len(paths) == 1 else paths
    if isinstance(runs, Run):
        return str(runs.path)
    return str(runs) if isinstance(runs, Path) else runs


def _none_for_all(count: int | Literal["all"]) -> int | None:
    if count == "all":
        return None
    return count


def _as_text(value: Any) -> str:
    """A setting as the command line has it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
