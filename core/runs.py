"""A run's folder, opened again: its config, its log and evaluations, its trained method, its encoder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file

from core.config import compose, load
from core.config.build import build, build_method
from core.engine.checkpoint import META, MODEL, STATE, Checkpoints, compare_shapes, find_damage
from core.engine.run_dir import FINISHED
from core.errors import UserError
from core.export import SavedEncoder, load_encoder
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Progress

CHANGEABLE = ("data", "modality.reader", "published")  # what an evaluation may set differently from its run


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: its config, the lines of metrics.jsonl by kind, its evaluations by task, its newest checkpoint."""

    path: Path
    config: dict[str, Any]
    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    skips: list[dict[str, Any]]
    stops: list[dict[str, Any]]
    evaluations: dict[str, dict[str, Any]]
    checkpoint: Path | None

    @property
    def is_finished(self) -> bool:
        return (self.path / FINISHED).exists()

    @property
    def step(self) -> int:
        """Steps done when the newest checkpoint was saved."""
        if self.checkpoint is None:
            return 0
        return json.loads((self.checkpoint / META).read_text())["position"]["step"]

    @property
    def done(self) -> int:
        """Steps that the log or a checkpoint shows to be done."""
        if not self.train:
            return self.step
        return max(self.step, self.train[-1]["step"])

    @property
    def steps(self) -> int | None:
        """Steps planned; None where only epochs were given and nothing is logged yet."""
        if self.config["steps"] is not None:
            return int(self.config["steps"])

        per_epoch = self.steps_per_epoch
        if per_epoch is None:
            return None
        return int(self.config["epochs"] * per_epoch + 1e-6)

    @property
    def steps_per_epoch(self) -> float | None:
        """By the log; None where it is empty."""
        if not self.train:
            return None
        return self.train[-1]["step"] / self.train[-1]["epoch"]

    @property
    def progress(self) -> Progress:
        """The checkpoint's progress, for masks and targets that follow a schedule."""
        steps, per_epoch = self.steps or max(self.step, 1), self.steps_per_epoch or 1.0
        return Progress(self.step, steps, self.step / per_epoch, steps / per_epoch)

    @property
    def metrics(self) -> dict[str, list[float | None]]:
        """The log as a table, one list of values per column ("step", "loss", "lr", …); pandas takes it as it is."""
        if not self.train:
            return {}

        names = [name for name in self.train[-1] if name != "kind"]
        return {name: self._column(name) for name in names}

    def _column(self, name: str) -> list[float | None]:
        return [line.get(name) for line in self.train]

    def encoder(self, view: str | None = None) -> SavedEncoder:
        """The trained encoder, in eval mode; `view`: which one, where the method has one for each.

        Raises UserError where the run has not come to its end.
        """
        return load_encoder(self.path, view=view)

    def method(self) -> MaskedAutoencoder:
        """The whole method with the newest checkpoint's weights. Raises UserError where there is none."""
        return open_method(self.path, self.config)

    def _repr_html_(self) -> str:
        """A notebook's view of the run: its choices and its progress."""
        loss, steps = "-", f"{self.done} of {self.steps or '?'}"
        if self.train:
            loss = f"{self.train[-1]['loss']:.4f}"
        if self.is_finished:
            steps += ", finished"

        facts = {
            "run": str(self.path),
            "modality": self.config["modality"]["name"],
            "method": self.config["method"]["name"],
            "size": self.config["size"]["name"],
            "steps": steps,
            "loss": loss,
        }

        rows = ""
        for name, value in facts.items():
            rows += f"<tr><th>{name}</th><td>{escape(value)}</td></tr>"
        return f"<table>{rows}</table>"

    @property
    def last_logged(self) -> str | None:
        """The time, UTC, at which the newest line of the log was written."""
        if not self.train:
            return None
        return datetime.fromtimestamp(self.train[-1]["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")


def open_run(folder: str | Path) -> Run:
    """Reads a run's folder. Raises UserError unless it is one, or where its newest checkpoint is damaged."""
    folder = Path(folder)
    config = open_config(folder)

    lines: dict[str, list] = {"train": [], "held_out": [], "skip": [], "stop": []}
    for line in read_lines(folder / "metrics.jsonl"):
        lines[line["kind"]].append(line)

    evaluations = {}
    for file in sorted(folder.glob("evaluation/*.json")):
        evaluations[file.stem] = _read_evaluation(file)

    checkpoint = Checkpoints(folder / "checkpoints", keep=1).newest()
    if checkpoint is not None:
        damage = find_damage(checkpoint)
        if damage:
            raise UserError(
                f"The newest checkpoint of run={folder}, {checkpoint.name}, is damaged ({damage}); remove it."
            )

    return Run(
        path=folder,
        config=config,
        train=lines["train"],
        held_out=lines["held_out"],
        skips=lines["skip"],
        stops=lines["stop"],
        evaluations=evaluations,
        checkpoint=checkpoint,
    )


def open_config(run: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A run's config with overrides of its data; `data.root=` alone, after training on generated data, means a folder.

    Of a saved encoder, such as a converted official one, the config of its modality with the encoder's reader.
    Raises: UserError where there is neither, or for overrides of anything but the data.
    """
    file = run / "config.yaml"
    is_run = file.exists()
    if not is_run and not (run / "config.json").exists():
        raise UserError(f"run={run} is no folder of a run (no config.yaml), nor a saved encoder (no config.json).")

    for text in overrides:
        key = text.partition("=")[0]
        if not any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE):
            raise UserError(
                f"{text}: an evaluation takes its run as it is; it may set {' and '.join(CHANGEABLE)} only."
            )

    if not is_run:
        return _encoder_config(run, overrides)
    keys = {text.partition("=")[0] for text in overrides}
    if "data.root" in keys and "data" not in keys and "root" not in load(file)["data"]:
        overrides = ["data=folder", *overrides]
    return compose([f"config={file}", *overrides])


def _encoder_config(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The config by which samples are read for a saved encoder. Raises: UserError where no data are named."""
    encoder = load_encoder(path, pretrained=False)
    if not any(text.startswith(("data=", "data.root=")) for text in overrides):
        raise UserError(f"run={path} is a saved encoder, which has no data of its own: give data.root=<your files>.")
    if "reader" not in encoder.config:
        raise UserError(f"run={path} was saved by an earlier version, without its reader: convert or train it again.")

    reader = json.dumps(encoder.config["reader"])  # JSON is YAML
    return compose([f"modality={encoder.view}", "data=folder", f"modality.reader={reader}", *overrides])


def open_method(run: Path, config: Mapping[str, Any]) -> MaskedAutoencoder:
    """The method with the weights of the run's newest checkpoint; the running mean of them where one was kept.

    Raises: UserError where there is no checkpoint.
    """
    newest = Checkpoints(run / "checkpoints", keep=1).newest()
    if newest is None:
        raise UserError(
            f"run={run} has no checkpoint to reconstruct with; train it first, or choose task=knn or linear."
        )

    method = build_method(dict(config))
    weights = load_file(newest / MODEL)
    compare_shapes(weights, method, newest)
    method.load_state_dict(weights)

    means = {}
    with safe_open(newest / STATE, "pt") as state:
        for name in state.keys():  # noqa: SIM118 (no mapping)
            if name.startswith("average/"):
                means[name.removeprefix("average/")] = state.get_tensor(name)
    method.load_state_dict(means, strict=False)
    return method


def loader_workers(config: Mapping[str, Any]) -> int:
    """Loader processes, by the run's engine settings."""
    return build(config["engine"], key="engine").loader_workers()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line; a last line that is still being written is left out."""
    if not path.exists():
        return []
    complete = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in complete.splitlines()]


def _read_evaluation(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}); remove it, or evaluate again.") from None
