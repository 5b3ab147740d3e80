"""`python -m core.evaluate`: measures what a run has learned, beside what it costs nothing to reach.

  python -m core.evaluate run=runs/mine task=knn
  python -m core.evaluate run=runs/mine task=linear data.root=flowers shots=10
  python -m core.evaluate run=[runs/s0,runs/s1,runs/s2,runs/s3,runs/s4] task=linear

task=knn             classes by nearest neighbours, beside untrained encoders and components of the raw input
task=linear          classes by logistic regression, beside the same
task=svm             classes by support vectors, as graph papers report them: ten folds, beside the same
task=finetune        classes by training the whole encoder on labels, beside the same training from random weights, as
                     long and for the compute of pre-training on top
task=reconstruction  error at hidden tokens, beside interpolation from the visible ones
task=published       as the paper measured it, where the run's experiment says how

  run=         folder of a run; but for reconstruction also a list of runs that differ in their seed
  beside=      another run, or several that differ in seed, to compare with: all but the last two say by how much
  data.root=   your files; any other data= setting works too. Default: the data of the run
  seed=0       of masks, random weights, shots, validation parts and intervals
  pool=mean    features of a sample: mean, max, sum, first (token), cls, or axis0 (what changes along the first axis,
               such as time)
  train=all    training samples used: all, or a number drawn at random, the same for every contender
  shots=all    labelled samples per class: all, or a number
  folds=5      of whole groups, where all samples carry one (a column `group` or `scene`), and where the data set no
               samples aside to test; 0: the given split. For svm 10
  seeds=3      how often whatever is random is drawn anew
  epochs=10    of fine-tuning
  supervised=  true: knn, linear, svm beside supervised training at equal compute too, which takes long and "wins" needs
  samples=1024 test samples at most, for reconstruction
  batch_size=  workers=  device=

Writes <run>/evaluation/<task>.json and prints it as the last line. Exit codes: 0 done; 2 the input was wrong."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.cli import command
from core.errors import UserError


@dataclass(frozen=True)
class Settings:
    """What the command line may say beside the data."""

    run: str | list[str]
    task: Literal["knn", "linear", "svm", "finetune", "reconstruction", "published"]
    beside: str | list[str] | None = None
    seed: int = 0
    pool: Literal["mean", "max", "sum", "first", "cls", "axis0"] = "mean"
    train: int | Literal["all"] = "all"
    shots: int | Literal["all"] = "all"
    folds: int | None = None
    seeds: int = 3
    epochs: float = 10.0
    supervised: bool = False
    samples: int = 1024
    batch_size: int | None = None
    workers: int | None = None
    device: str | None = None

    def __post_init__(self):
        for name, least in (("train", 1), ("samples", 1), ("batch_size", 1), ("workers", 0)):
            value = getattr(self, name)
            if value not in (None, "all") and value < least:
                raise UserError(f"{name}={value} must be at least {least}.")
        if not self.epochs > 0:
            raise UserError(f"epochs={self.epochs:g} must be above 0.")

    @property
    def runs(self) -> list[Path]:
        return _paths(self.run)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command(argv, lambda: __doc__ or "", lambda given: print(json.dumps(evaluate(given))))


def evaluate(argv: Sequence[str]) -> dict[str, Any]:
    """Carries out the command, prints its table and returns what was written. Raises UserError."""
    # Loaded late: --help and typing errors should not wait for them.
    from core.evaluation import tables
    from core.runs import open_config

    start = time.monotonic()
    settings, overrides = read(argv)
    config = open_config(settings.runs[0], overrides)
    given = f"python -m core.evaluate {shlex.join(argv)}"
    perform = {"reconstruction": _reconstruct, "published": _as_published}.get(settings.task, _classify)
    record = perform(settings, config, given, start)
    print(tables.show(record))
    return record


def read(argv: Sequence[str]) -> tuple[Settings, list[str]]:
    """The command's own settings, and the overrides of the data."""
    from core.config import options

    hints = {name: field.type for name, field in Settings.__dataclass_fields__.items()}
    own, overrides = options(argv, hints)
    lacking = [f"{name}=" for name in ("run", "task") if name not in own]
    if lacking:
        raise UserError(f"Give {' and '.join(lacking)}, as in: python -m core.evaluate run=runs/mine task=knn")
    return Settings(**own), overrides


def _reconstruct(settings: Settings, config: dict, command: str, start: float) -> dict[str, Any]:
    from core.evaluation import reconstruction
    from core.runs import open_method

    if len(settings.runs) > 1:
        raise UserError("task=reconstruction takes one run at a time.")
    if settings.beside is not None:
        raise UserError("task=reconstruction knows no beside=: ask each run by itself; their records compare.")
    method = open_method(settings.runs[0], config).to(_device(settings))
    wanted = reconstruction.Settings(settings.samples, settings.batch_size or 32, settings.seed)
    return reconstruction.measure(settings.runs[0], method, config, command, wanted, start, settings.workers)


def _as_published(settings: Settings, config: dict, command: str, start: float) -> dict[str, Any]:
    from core.data.opening import open_source
    from core.evaluation import record
    from core.evaluation.published import evaluate_published

    if settings.beside is not None:
        raise UserError("task=published knows no beside=: ask each run by itself; their records compare.")
    result = evaluate_published(settings.runs, config, settings.seed, _device(settings))
    found = {**_head(settings, config), **result}
    found |= record.describe(command, settings.seed, open_source(config)[1].items("train"), start)
    record.save(settings.runs[0], found)
    return found


def _head(settings: Settings, config: dict) -> dict[str, Any]:
    runs = [str(run) for run in settings.runs]
    return {"task": settings.task, "run": runs[0] if len(runs) == 1 else runs, "data": config["data"]["name"]}


def _classify(settings: Settings, config: dict, command: str, start: float) -> dict[str, Any]:
    from core.evaluation import record
    from core.evaluation.finetune import evaluate_finetune
    from core.evaluation.knn import Neighbours
    from core.evaluation.linear import Logistic
    from core.evaluation.probing import evaluate_probe
    from core.evaluation.svm import SupportVectors

    question = _question(settings, config)
    if settings.task == "finetune":
        result = evaluate_finetune(question)
    else:
        probe = {"knn": Neighbours, "linear": Logistic, "svm": SupportVectors}[settings.task]()
        result = evaluate_probe(question, probe, settings.supervised)
    found = {**_head(settings, config), "beside": [str(run) for run in question.beside], **result}
    found |= record.describe(command, settings.seed, question.items, start)
    record.save(settings.runs[0], found)
    return found


def _question(settings: Settings, config: dict):
    from core.data.opening import open_source
    from core.data.reader import CachedReader, WholeReader
    from core.evaluation.features import Reading
    from core.evaluation.labelled import Question
    from core.evaluation.protocol import Options
    from core.runs import loader_workers

    reader, source = open_source(config)
    beside = _paths(settings.beside or [])
    workers = loader_workers(config) if settings.workers is None else settings.workers
    megabytes = config["data"]["cache_mb"] / max(1, workers)
    trains = settings.task == "finetune" or settings.supervised
    if trains and megabytes and isinstance(reader, WholeReader):
        reader = CachedReader(reader, megabytes)  # every epoch reads them again
    return Question(
        runs=settings.runs,
        source=source,
        reading=Reading(reader, settings.batch_size or 64, workers, _device(settings)),
        reader=config["modality"]["reader"],
        options=Options(
            shots=None if settings.shots == "all" else settings.shots,
            folds=settings.folds if settings.folds is not None else 10 if settings.task == "svm" else 5,
            seeds=max(settings.seeds, len(settings.runs), len(beside)),  # every training counts
            seed=settings.seed,
        ),
        pool=settings.pool,
        train=None if settings.train == "all" else settings.train,
        epochs=settings.epochs,
        beside=beside,
    )


def _paths(runs: str | list[str]) -> list[Path]:
    return [Path(run) for run in ([runs] if isinstance(runs, str) else runs)]


def _device(settings: Settings):
    import torch

    try:
        return torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"device={settings.device} is no device: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
