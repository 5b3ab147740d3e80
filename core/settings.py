"""Settings as they are typed (`key=value`), how a run is carried out (`Engine`) and how long it is (`Plan`)."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.annotations import accepts, fit
from core.errors import UserError, one_line, suggestion
from core.trees import paths

KEY = re.compile(r"[A-Za-z_]\w*(\.[\w@/-]+)*")
INT = re.compile(r"[-+]?(0|[1-9]\d*)")  # 007 stays text
ENDS = {"[": "]", "{": "}", '"': '"', "'": "'"}  # of values that are read as YAML
SPACE = "As in YAML, a space follows each colon."
FLOAT = re.compile(r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)|\.nan")


def split(text: str) -> tuple[str, str]:
    """Key and value of `key=value`."""
    key, equals, value = text.partition("=")
    if not equals or not KEY.fullmatch(key):
        bare = key.lstrip("+~-")
        remedy = f" Write {bare}={value or '<value>'}, without blanks." if KEY.fullmatch(bare) else ""
        raise UserError(f"{text!r} is no setting of the form key=value.{remedy}")
    return key, value


def parse(text: str) -> Any:
    """A typed value: null, true, false, numbers, [lists] and {mappings} as in YAML; everything else is text."""
    if text.startswith(tuple(ENDS)):
        try:
            tree: Any = OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            if text[-1] != ENDS[text[0]]:
                message = f"{text} does not end with {ENDS[text[0]]}: the shell divides a setting at its spaces"
                raise UserError(f"{message}. Put the whole setting in quotes.") from None
            message = f"{text} is no valid list, mapping or quoted text: {one_line(error)}"
            raise UserError(f"{message}. {SPACE}") from None
        for path, value in paths(tree):
            if value is None and ":" in path:  # YAML reads {a:1} as the key "a:1" without a value
                raise UserError(f"{text} has no value for {path.removeprefix('value.')!r}. {SPACE}")
        return tree["value"]

    words = {"null": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    if INT.fullmatch(text):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if FLOAT.fullmatch(text) else text


def typed_value(text: str, hint: Any, key: str) -> Any:
    """A typed value that fits, or the text itself where only that fits (`run_dir=2024`)."""
    value = parse(text)
    if isinstance(value, str) and "${" in value:  # a reference, which is looked up later
        return value
    is_text = not isinstance(value, str) and accepts(text, hint) and not accepts(value, hint)
    return text if is_text else fit(value, hint, key)


def options(argv: Sequence[str], hints: Mapping[str, Any], strict: bool = False) -> tuple[dict, list[str]]:
    """A command's own settings, typed by `hints`, and apart from them the overrides for `compose`.

    `strict`: there must be no overrides. Raises: UserError for unknown names and values that do not fit.
    """
    settings, overrides = {}, []
    for text in argv:
        key, value = split(text)
        if key in hints:
            settings[key] = typed_value(value, hints[key], key)
        elif strict:
            raise UserError(f"{text}: there is no setting {key!r}.{suggestion(key, hints)}")
        else:
            overrides.append(text)
    return settings, overrides


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Settings that change no result: loading, logging, checkpoints."""

    workers: int | None = None  # loader processes per rank; None: one core fewer than there are, at most 8
    log_every: int = 20  # steps between two log lines; the device is read only then
    checkpoint_every: int | None = 500  # steps between two checkpoints
    checkpoint_minutes: float | None = 10.0  # whichever comes first; the end is always saved
    keep: int = 2  # newest checkpoints kept
    held_out: int = 10  # times a run that held-out figures are logged, for 5 % of its time at most; 0: never
    deterministic: bool = True  # False: faster on some GPUs, resumes are then no longer bit-equal

    def __post_init__(self):
        for name, least in (("workers", 0), ("log_every", 1), ("checkpoint_every", 1), ("keep", 1), ("held_out", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"engine.{name} is {value}; it must be at least {least}.")
        if self.checkpoint_minutes is not None and self.checkpoint_minutes <= 0:
            raise UserError(f"engine.checkpoint_minutes is {self.checkpoint_minutes}; give minutes above 0, or null.")

    def is_due(self, step: int) -> bool:
        """A checkpoint belongs after this step."""
        return self.checkpoint_every is not None and step % self.checkpoint_every == 0

    def is_late(self, seconds: float) -> bool:
        """The newest checkpoint is older than it may be."""
        return self.checkpoint_minutes is not None and seconds > 60 * self.checkpoint_minutes

    def loader_workers(self, ranks_here: int = 1) -> int:
        if self.workers is not None:
            return self.workers
        return max(0, min(8, len(os.sched_getaffinity(0)) // ranks_here - 1))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Length, batch, seed and precision of a run."""

    batch_size: int  # samples per optimiser step, over all ranks and parts; repeated views don't count
    seed: int = 0
    steps: int | None = None  # wins over epochs
    epochs: float | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False

    def __post_init__(self):
        for name in ("batch_size", "seed", "precision", "compile"):
            if getattr(self, name) is None:
                raise UserError(f"{name}=null: give it a value.")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise UserError(f"precision={self.precision} is unknown; choose auto, fp32 or bf16.")
        for name in ("batch_size", "steps", "epochs"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name}={value} must be above 0.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed} must be from 0 to below 2^63.")
        if self.steps is None and self.epochs is None:
            raise UserError("Give the length of the run: steps= or epochs=.")

    def part_size(self, accumulate: int, world_size: int) -> int:
        """Samples of one forward pass over all ranks. Raises UserError where `batch_size` cannot be divided."""
        if self.batch_size % (accumulate * world_size):
            raise UserError(
                f"batch_size={self.batch_size} cannot be divided into optim.accumulate={accumulate} parts "
                f"on {world_size} process(es); choose a multiple of {accumulate * world_size}."
            )
        return self.batch_size // accumulate


@dataclass(frozen=True)
class Init:
    """`init.from` and `init.part`: the weights that a run starts from. No source: fresh ones."""

    source: str | None = None
    part: str | None = None

    @classmethod
    def of(cls, node: Mapping[str, str | None] | str | None) -> "Init":
        """Raises: UserError for other settings, and for a part of nothing."""
        if node is None:
            return cls()
        if isinstance(node, str):
            raise UserError(f"init={node}: it is init.from={node} now.")
        for name in node:
            if name not in ("from", "part"):
                raise UserError(f"init.{name}: there is no such setting.{suggestion(name, ('from', 'part'))}")
        if node.get("part") is not None and node.get("from") is None:
            raise UserError(f"init.part={node['part']} needs init.from=<run, saved encoder or checkpoint>.")
        return cls(node.get("from"), node.get("part"))


@dataclass(frozen=True, kw_only=True)
class Start:
    """Settings of one start of a run; they are not saved with it.

    `dry_run`: everything up to the first step, nothing is written. `accepts_data`: `data.changed=accept` was given, to
    go on with other samples than before. `restates_schedule`: `optim.schedule=` was given, to go on with another course
    of the rate.
    """

    dry_run: bool = False
    accepts_data: bool = False
    restates_schedule: bool = False

    @classmethod
    def of(cls, words: Sequence[str]) -> tuple["Start", list[str]]:
        """The settings, and apart from them the overrides for `compose`. Raises: UserError."""
        settings, overrides = options(words, {"dry_run": bool, "data.changed": Literal["accept"]})
        start = cls(
            dry_run=settings.get("dry_run", False),
            accepts_data="data.changed" in settings,
            restates_schedule=any(text.startswith("optim.schedule=") for text in overrides),
        )
        return start, overrides


# Annotations of the keys that are in no group.
ROOT = get_type_hints(Plan) | {
    "run_dir": str | None,
    "init": dict[str, str | None] | str | None,
    "init.from": str | None,
    "init.part": str | None,
    "chosen": dict[str, Any],
}
