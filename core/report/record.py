"""What a run has left in its folder so far."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.engine.checkpoint import META, Checkpoints, find_damage
from core.engine.session import FINISHED
from core.errors import UserError
from core.evaluation.opening import open_config
from core.tokens import Progress


@dataclass(frozen=True)
class Record:
    """One run: its config, the lines of metrics.jsonl by kind, its evaluations, its newest checkpoint."""

    folder: Path
    config: dict[str, Any]
    train: list[dict[str, Any]]
    skips: list[dict[str, Any]]
    stops: list[dict[str, Any]]
    evaluations: dict[str, dict[str, Any]]
    checkpoint: Path | None

    @property
    def is_finished(self) -> bool:
        return (self.folder / FINISHED).exists()

    @property
    def step(self) -> int:
        """Steps done when the newest checkpoint was saved."""
        return json.loads((self.checkpoint / META).read_text())["position"]["step"] if self.checkpoint else 0

    @property
    def done(self) -> int:
        """Steps known to be done, by the log or a checkpoint."""
        return max(self.step, *(line["step"] for line in self.train[-1:]), 0)

    @property
    def steps(self) -> int | None:
        """Steps planned; None where only epochs were given and nothing is logged yet."""
        if self.config["steps"] is not None:
            return int(self.config["steps"])
        per_epoch = self.steps_per_epoch
        return None if per_epoch is None else int(self.config["epochs"] * per_epoch + 1e-6)

    @property
    def steps_per_epoch(self) -> float | None:
        return self.train[-1]["step"] / self.train[-1]["epoch"] if self.train else None

    @property
    def progress(self) -> Progress:
        """Where the checkpoint stands, for masks and targets that follow a schedule."""
        steps, per_epoch = self.steps or max(self.step, 1), self.steps_per_epoch or 1.0
        return Progress(self.step, steps, self.step / per_epoch, steps / per_epoch)

    @property
    def last_logged(self) -> str | None:
        """When the newest line of the log was written, UTC."""
        if not self.train:
            return None
        return datetime.fromtimestamp(self.train[-1]["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")


def read_run(folder: str | Path) -> Record:
    """Raises UserError unless `folder` holds a run."""
    folder = Path(folder)
    config = open_config(folder)
    lines = read_lines(folder / "metrics.jsonl")
    train, skips, stops = ([line for line in lines if line["kind"] == kind] for kind in ("train", "skip", "stop"))
    evaluations = {file.stem: _evaluation(file) for file in sorted(folder.glob("evaluation/*.json"))}
    checkpoint = Checkpoints(folder / "checkpoints", keep=1).newest()
    if checkpoint is not None and (damage := find_damage(checkpoint)):
        raise UserError(f"The newest checkpoint of run={folder}, {checkpoint.name}, is damaged ({damage}); remove it.")
    return Record(folder, config, train, skips, stops, evaluations, checkpoint)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line; a last line that is still being written is left out."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _evaluation(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}); remove it, or evaluate again.") from None
