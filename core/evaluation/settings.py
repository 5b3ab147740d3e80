"""Settings of an evaluation: of the command, and of the labelled task, its loader and its protocol.

The first stage.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field
from math import inf
from pathlib import Path
from typing import Literal, get_args

import torch

from core.data.reader import Reader
from core.data.sources import Source
from core.encoding import choose_device
from core.errors import UserError, show
from core.export import load_encoder
from core.interop import ClassifierOptions
from core.runs import expand_runs
from core.saved import complete

Task = Literal["knn", "linear", "svm", "retrieval", "fewshot", "finetune", "reconstruction", "published"]
EpisodeProbe = Literal["knn", "linear", "svm", "finetune"]
Kernel = Literal["rbf", "linear"]
Pool = Literal["mean", "max", "sum", "first", "cls", "axis0", "mean+max", "mean,max", "mean,max_rest", "cls,max"]
MetricName = Literal[
    "accuracy",
    "balanced_accuracy",
    "micro_f1",
    "miou",
    "map",
    "roc_auc",
    "r2",
    "rmse",
    "retrieval_map",
    "retrieval_top1",
    "retrieval_top5",
]


# The least values of settings that are numbers.
LEAST = {
    "seed": 0, "train": 1, "shots": 1, "folds": 0, "seeds": 1, "samples": 1, "batch_size": 1, "workers": 0, "way": 2
}  # fmt: skip


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of `core.evaluate` beside those of the data; `core.evaluate` explains them."""

    run: str | list[str]
    task: Task
    _: KW_ONLY
    metric: MetricName | None = None
    compare_to: str | list[str] | None = None
    seed: int = 0
    pool: Pool | None = None
    train: int | Literal["all"] = "all"
    shots: int | Literal["all"] = "all"
    folds: int | None = None
    way: int | None = None
    probe: EpisodeProbe | None = None
    kernel: Kernel = "rbf"
    seeds: int = 3
    epochs: float = 10.0
    head: str = "linear"
    smoothing: float | None = None
    clip: float | None = None
    supervised: bool = False
    samples: int = 1024
    batch_size: int | None = None
    workers: int | None = None
    device: str | None = None

    def __post_init__(self):
        choices = {"task": Task, "pool": Pool, "metric": MetricName, "probe": EpisodeProbe, "kernel": Kernel}
        for name, values in choices.items():
            _check_choice(name, getattr(self, name), values)
        for name, least in LEAST.items():
            _check_least(name, getattr(self, name), least)
        if not 0 < self.epochs < inf:
            raise UserError(f"epochs={self.epochs:g} must be a number above 0.")
        if self.smoothing is not None and not 0 <= self.smoothing < 1:
            raise UserError(f"smoothing={self.smoothing:g} must be from 0 to below 1.")
        if self.clip is not None and not 0 < self.clip < inf:
            raise UserError(f"clip={self.clip:g} must be a number above 0.")
        for name in ("way", "probe"):
            if getattr(self, name) is not None and self.task != "fewshot":
                raise UserError(f"{name}= belongs to task=fewshot, which draws episodes of few classes.")
        for name, runs in (("run", self.run), ("compare_to", self.compare_to)):
            if runs is not None and not runs:
                raise UserError(f"{name}={show(runs)} names no run; give {name}=runs/mine, or leave it out.")

    @property
    def runs(self) -> list[Path]:
        return as_paths(self.run)

    @property
    def rivals(self) -> list[Path]:
        """Runs to compare with."""
        return as_paths(self.compare_to or [])

    @property
    def torch_device(self) -> torch.device:
        """Raises: UserError where `device` names none."""
        return choose_device(self.device)


@dataclass(frozen=True)
class LoaderSettings:
    """How samples are read for an evaluation."""

    reader: Reader
    batch_size: int = 64
    _: KW_ONLY
    workers: int = 0
    device: torch.device | str = "cpu"


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """Split and repetitions of a labelled task.

    `shots`: labelled samples per class, None = all. `folds`: of a cross-validation over all labelled samples;
    0 = keep the split, also one that was drawn at random; None = `default_folds` where samples carry groups
    or the data mark none to test, else the given split. `leave_one_out`: instead of default folds without
    groups, each sample by all others. `seeds`: how often whatever is random is drawn anew
    (random weights, shots, validation). `way`: classes of an episode; None: no episodes. With it `folds` are
    episodes, each of `shots` training and `EPISODE_TESTS` test samples of every class.
    """

    shots: int | None = None
    folds: int | None = None
    default_folds: int = 5
    leave_one_out: bool = False
    way: int | None = None
    seeds: int = 3
    seed: int = 0

    def __post_init__(self):
        for name, least in (("shots", 1), ("folds", 0), ("seeds", 1)):
            _check_least(name, getattr(self, name), least)


@dataclass(frozen=True, kw_only=True)
class LabelledTask:
    """A labelled evaluation: of runs (one per training seed), on the samples of a source.

    `rivals`: runs of another training to compare with. `reader_node`: the reader's config, for the cache.
    `is_own_data`: whether the samples are those of the data that the runs were trained on.
    `train`: training samples used at most, drawn at random; None: all. `epochs` of fine-tuning; supervised
    training from scratch gets them on top of the compute of pre-training. `metric`: None: by the kind of
    label. `kernel` of support vectors; `fixed`: values of their C, by a text that says whose, which are
    measured besides, on features as they are. `classifier`: of fine-tuning.

    Raises: UserError where runs that go together have unlike encoders.
    """

    runs: Sequence[Path]
    source: Source
    loader: LoaderSettings
    reader_node: Mapping
    options: ProtocolOptions
    pool: str = "mean"
    metric: MetricName | None = None
    train: int | None = None
    epochs: float = 10.0
    kernel: Kernel = "rbf"
    fixed: Mapping[str, float] = field(default_factory=dict)
    classifier: ClassifierOptions = field(default_factory=ClassifierOptions)
    is_own_data: bool = True
    rivals: Sequence[Path] = ()

    def __post_init__(self):
        for name, runs in (("run", self.runs), ("compare_to", self.rivals)):
            nodes = list(map(encoder_nodes, runs))
            for run, node in zip(runs, nodes, strict=True):
                if node != nodes[0]:
                    raise UserError(
                        f"{name}={run} has another encoder than {runs[0]}; only runs that differ in seed go together."
                    )


def encoder_nodes(run: Path) -> dict:
    """The config nodes that a run's encoder is built from, with every default."""
    config = load_encoder(run, pretrained=False).config
    nodes = {name: deepcopy(config[name]) for name in ("tokenizer", "encoder")}
    complete(nodes)
    return nodes


def as_paths(runs: str | Path | Sequence[str | Path]) -> list[Path]:
    """The folders of runs; a folder of several seeds stands for its runs."""
    if isinstance(runs, str | Path):
        runs = [runs]
    return expand_runs(runs)


def _check_choice(name: str, value: object, choices: object) -> None:
    if value is not None and value not in get_args(choices):
        raise UserError(f"{name}={value}: choose {', '.join(get_args(choices))}.")


def _check_least(name: str, value: float | str | None, least: int) -> None:
    if value is not None and not isinstance(value, str) and value < least:
        raise UserError(f"{name}={value} must be at least {least}.")
