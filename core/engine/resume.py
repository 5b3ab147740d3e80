"""Whether a start goes on with the run in its directory: same config, same samples, an end that lies ahead."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.data.fingerprint import Fingerprint
from core.engine.checkpoint import META
from core.engine.run_dir import FINISHED, check_config, save_config
from core.errors import UserError
from core.files import read_json, write_json
from core.settings import Start

DATA = "data.json"  # in the run directory: the fingerprint of the samples, and how it changed within the run
LENGTH = ("steps", "epochs")
LENGTHEN = (
    "The rate of this run is a course down to its end, so that another length changes it. State the course anew to go "
    "on: optim.schedule=constant with optim.lr=, or optim.schedule=cosine (as if it had been this long from the start)."
)
SCHEDULE = tuple(
    f"optim.{name}"
    for name in (
        *("schedule", "schedule_epochs", "base_lr", "lr", "min_lr"),
        *("warmup_epochs", "warmup_steps", "warmup_share", "warmup_start"),
        "weight_decay_end",
    )
)


@dataclass(frozen=True, kw_only=True)
class Resume:
    """A checked start. `steps`: those that the run has taken. `is_over`: it has come to the requested end."""

    run_dir: Path
    config: dict[str, Any]
    samples: Fingerprint | None  # of the data; None: they are generated, and the config says all
    steps: int
    is_over: bool
    changes: list[str]  # of the data, in this start and those before

    def begin(self) -> None:
        """Writes the files that make the directory a run, just before the first step."""
        if self.samples is not None:
            write_json(self.run_dir / DATA, {**asdict(self.samples), "changes": self.changes})
        save_config(self.run_dir, self.config)
        (self.run_dir / FINISHED).unlink(missing_ok=True)


def check_resume(
    run_dir: Path, config: dict[str, Any], samples: Fingerprint | None, steps: int, start: Start
) -> Resume:
    """Compares a start, whose end is after `steps` steps, with the run in its directory, if there is one.

    Raises UserError for another config, for other samples without `data.changed=accept`, and for another
    length where the rate depends on it.
    """
    saved = read_json(run_dir / DATA)
    free, remedies = [], {}
    if saved is not None and samples is not None:  # compared by their contents, not by where they lie
        free.append("data.root")

    if start.restates_schedule:
        free += [*LENGTH, *SCHEDULE]
    elif config["optim"]["schedule"] == "constant" and config["optim"].get("weight_decay_end") is None:
        free += LENGTH
    else:
        remedies = {key: LENGTHEN for key in LENGTH}
    check_config(run_dir, config, free, remedies)

    done = steps_done(run_dir)
    is_over = done == steps and (run_dir / FINISHED).exists()
    changes = []
    if done and saved is not None:
        changes = list(saved["changes"])
    if done and not is_over:
        check_end(run_dir, done, steps)
        changes += compare_data(saved, samples, done, start)
    return Resume(
        run_dir=run_dir,
        config=config,
        samples=samples,
        steps=done,
        is_over=is_over,
        changes=changes,
    )


def steps_done(run_dir: Path) -> int:
    """The steps of the newest readable checkpoint, else of a run that came to its end; 0 without any."""
    for folder in sorted((run_dir / "checkpoints").glob("step_*"), reverse=True):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return json.loads((folder / META).read_text(encoding="utf-8"))["position"]["step"]
    return (read_json(run_dir / FINISHED) or {"steps": 0})["steps"]


def check_end(run_dir: Path, done: int, steps: int) -> None:
    """Raises UserError where the run cannot go on from `done` to `steps` steps."""
    if done > steps:
        raise UserError(
            f"{run_dir} holds a run of {done} steps, which cannot end after {steps}: give steps={done} or "
            "more, or another run_dir=."
        )
    if not any((run_dir / "checkpoints").glob("step_*")):
        raise UserError(
            f"{run_dir} holds a finished run of {done} steps without a checkpoint to go on from: choose "
            f"another run_dir=, with init.from={run_dir} to start from its encoder."
        )


def compare_data(
    saved: dict[str, Any] | None,
    samples: Fingerprint | None,
    done: int,
    start: Start,
) -> list[str]:
    """The change of the samples, in words, if there is one. Raises UserError where it is not accepted."""
    if saved is None or samples is None:
        return []

    before = Fingerprint(samples=saved["samples"], names=saved["names"], contents=saved["contents"])
    difference = before.difference(samples)
    if difference is None:
        return []

    change = f"the data changed since step {done}: {difference}"
    if not start.accepts_data:
        raise UserError(
            f"{change}. Give data.changed=accept to go on with the data as they are now; or restore them, or "
            "choose another run_dir=."
        )
    return [change]
