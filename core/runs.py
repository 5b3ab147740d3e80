"""A run's folder, opened again: its config, its log and evaluations, its trained method, its encoder.

`python -m core.runs` lists the runs below a folder.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import safe_open
from safetensors.torch import load_file

from core.cli import command
from core.config import compose, load, options
from core.config.build import build_at, build_method
from core.data.opening import open_source
from core.encoding import Encoded, Encoding
from core.engine.checkpoint import META, MODEL, STATE, Checkpoints, compare_shapes, find_damage
from core.engine.run_dir import FINISHED
from core.errors import UserError
from core.export import SavedEncoder, load_encoder
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.settings import Engine
from core.tokens import Progress

CHANGEABLE = ("data", "modality.reader", "published")  # what an evaluation may set differently from its run


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: its config, lines of metrics.jsonl by kind, evaluations by task, the newest checkpoint."""

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
        """The log as a table, which pandas takes: a list of values per column ("step", "loss", "lr", …)."""
        if not self.train:
            return {}

        columns = {}
        for name in self.train[-1]:
            columns[name] = [line.get(name) for line in self.train]
        del columns["kind"]
        return columns

    def encoder(self, view: str | None = None) -> SavedEncoder:
        """The trained encoder, in eval mode; `view`: which one, where the method has one for each.

        Raises UserError where the run has not come to its end.
        """
        return load_encoder(self.path, view=view)

    def method(self) -> MaskedAutoencoder:
        """The whole method with the newest checkpoint's weights. Raises UserError where there is none."""
        return open_method(self.path, self.config)

    def encode(self, root: str | Path | None = None, *overrides: str, **settings: Any) -> Encoded:
        """Features of your own samples in memory: arrays, and a table that pandas takes.

        pandas.DataFrame(run.encode("photos").table())

        `root`: your files, by default those of the run; `overrides` and `settings` as for `encoding`.
        """
        if root is not None:
            overrides = (root_override(root), *overrides)
        return self.encoding(*overrides, **settings).collect()

    def encoding(self, *overrides: str, view: str | None = None, **settings: Any) -> Encoding:
        """All samples of the run's data, or of other data by `overrides`, ready to be encoded.

        `settings`: `split`, `tokens`, `batch_size`, `workers` and `device` of `core.encoding.Encoding`.
        Raises: UserError for overrides of anything but the data, and where the run has not come to its end.
        """
        return open_encoding(self.path, *overrides, view=view, **settings)

    def _repr_html_(self) -> str:
        """A notebook's view of the run: its choices and its progress."""
        rows = ""
        for name, value in shown(self.summary).items():
            rows += f"<tr><th>{name}</th><td>{escape(value)}</td></tr>"
        return f"<table>{rows}</table>"

    @property
    def summary(self) -> dict[str, Any]:
        """The key figures, plain JSON; None where there are none yet."""
        state = "unfinished"
        if self.is_finished:
            state = "finished"
        elif self.stops:
            state = f"stopped: {self.stops[-1]['reason']}"

        loss = None
        if self.train:
            loss = self.train[-1]["loss"]

        data = self.config["data"]
        tasks = dict.fromkeys(record["task"] for record in self.evaluations.values())
        return {
            "run": str(self.path),
            "modality": self.config["modality"]["name"],
            "method": self.config["method"]["name"],
            "size": self.config["size"]["name"],
            "data": str(data.get("root") or data["name"]),
            "seed": self.config["seed"],
            "steps": self.done,
            "planned": self.steps,
            "loss": loss,
            "skill": self.skill,
            "evaluations": list(tasks),
            "state": state,
            "last activity": self.last_activity,
        }

    @property
    def skill(self) -> float | None:
        """Held-out skill of the first objective, on the run's own data where it was measured on several."""
        for name in sorted(self.evaluations, key=len):
            record = self.evaluations[name]
            if record["task"] != "reconstruction":
                continue
            for regions in record["figures"].values():
                return regions.get("total", {}).get("skill", {}).get("value")
        return None

    @property
    def last_activity(self) -> str:
        """The time, UTC, at which its config, its log or an evaluation was last written."""
        files = [self.path / "config.yaml", *self.path.glob("*.json*"), *self.path.glob("evaluation/*")]
        newest = max(file.stat().st_mtime for file in files)
        return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%d %H:%M UTC")

    @property
    def last_logged(self) -> str | None:
        """The time, UTC, at which the newest line of the log was written."""
        if not self.train:
            return None
        return datetime.fromtimestamp(self.train[-1]["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")


def open_run(folder: str | Path) -> Run:
    """Reads a run's folder. Raises UserError unless it is one, or where its newest checkpoint is damaged."""
    run = read_run(Path(folder))
    if run.checkpoint is not None:
        damage = find_damage(run.checkpoint)
        if damage:
            name = run.checkpoint.name
            raise UserError(f"The newest checkpoint of run={folder}, {name}, is damaged ({damage}); remove it.")
    return run


def read_run(folder: Path) -> Run:
    """As `open_run`, but the checkpoint's files are not read."""
    check_is_run(folder)
    config = open_config(folder)

    lines: dict[str, list] = {"train": [], "held_out": [], "skip": [], "stop": []}
    for line in read_lines(folder / "metrics.jsonl"):
        lines[line["kind"]].append(line)

    evaluations = {}
    for file in sorted(folder.glob("evaluation/*.json")):
        evaluations[file.stem] = _read_evaluation(file)

    return Run(
        path=folder,
        config=config,
        train=lines["train"],
        held_out=lines["held_out"],
        skips=lines["skip"],
        stops=lines["stop"],
        evaluations=evaluations,
        checkpoint=Checkpoints(folder / "checkpoints", keep=1).newest(),
    )


def open_encoding(path: Path, *overrides: str, view: str | None = None, **settings: Any) -> Encoding:
    """As `Run.encoding`, of a run's folder or a saved encoder, which needs overrides that name data."""
    config = open_config(path, overrides)
    encoder = load_encoder(path, view=view)
    reader, source = open_source(config)
    return Encoding(encoder, reader, source, reader_node=config["modality"]["reader"], **settings)


def list_runs(folder: str | Path) -> Iterator[Run | tuple[Path, str]]:
    """All runs below a folder, by name; of those that cannot be read, the path and the reason."""
    for file in sorted(Path(folder).rglob("config.yaml")):
        try:
            yield read_run(file.parent)
        except UserError as error:
            yield file.parent, str(error)


def expand_runs(runs: Iterable[str | Path]) -> list[Path]:
    """The folders of runs; a folder of runs that differ in seed (`seeds=` of `core.train`) becomes those."""
    paths = []
    for run in map(Path, runs):
        by_seed = _seed_runs(run)
        paths += by_seed or [run]
    return paths


def _seed_runs(folder: Path) -> list[Path]:
    """The runs in a folder that `seeds=` made, by number; empty for any other folder."""
    if (folder / "config.yaml").exists():
        return []
    by_number = {}
    for file in folder.glob("seed*/config.yaml"):
        number = file.parent.name.removeprefix("seed")
        if number.isdecimal():
            by_number[int(number)] = file.parent
    return list(dict(sorted(by_number.items())).values())


def is_saved_encoder(folder: Path) -> bool:
    """Whether a folder holds an encoder alone, such as a converted official one, and no run."""
    return (folder / "config.json").exists() and not (folder / "config.yaml").exists()


def check_is_run(folder: Path) -> None:
    """Raises: UserError for a saved encoder, where a run's masks or log are needed."""
    if is_saved_encoder(folder):
        raise UserError(
            f"run={folder} is a saved encoder, not a run: it has no log, and no masks to reconstruct with. "
            "core.encode and core.evaluate (knn, linear, finetune, …) take it with data.root=<your files>; "
            f"core.train init.from={folder} trains it on, which gives a run."
        )


def open_config(run: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A run's config with overrides of its data.

    After training on generated data, `data.root=` alone means a folder.
    Of a saved encoder, such as a converted official one, the config of its modality with the encoder's
    reader.
    Raises: UserError where there is neither, or for overrides of anything but the data.
    """
    file = run / "config.yaml"
    is_run = file.exists()
    if not is_run and not (run / "config.json").exists():
        by_seed = _seed_runs(run)
        remedy = ""
        if "," in str(run):
            remedy = f" Several are written in brackets, as run=[{run}]."
        if by_seed:
            remedy = f" It holds runs of {len(by_seed)} seeds: give one of them, as run={by_seed[0]}."
        raise UserError(
            f"run={run} is no folder of a run (no config.yaml), nor a saved encoder (no config.json).{remedy}"
        )

    for text in overrides:
        key = text.partition("=")[0]
        if not any(f"{key}.".startswith(f"{name}.") for name in CHANGEABLE):
            raise UserError(
                f"{text}: an evaluation takes its run as it is; it may set {' and '.join(CHANGEABLE)} only."
            )

    if not is_run:
        return _encoder_config(run, overrides)
    keys = {text.partition("=")[0] for text in overrides}
    if "data.root" in keys and "data" not in keys and "root" not in load(file)["data"]:
        overrides = ["data=folder", *overrides]
    return compose([f"config={file}", *overrides])


def root_override(path: str | Path) -> str:
    """`data.root=<path>` for `open_config`; relative ones begin with a dot: "[1].png" would be a list."""
    return f"data.root={os.path.join(os.curdir, path)}"


def _encoder_config(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The config by which samples are read for a saved encoder. Raises: UserError where no data are named."""
    encoder = load_encoder(path, pretrained=False)
    if not any(text.startswith(("data=", "data.root=")) for text in overrides):
        reason = "a saved encoder, which has no data of its own: give data.root=<your files>"
        raise UserError(f"run={path} is {reason}.")
    if "reader" not in encoder.config:
        reason = "saved by an earlier version, without its reader: convert or train it again"
        raise UserError(f"run={path} was {reason}.")

    reader = json.dumps(encoder.config["reader"])  # JSON is YAML
    return compose([f"modality={encoder.view}", "data=folder", f"modality.reader={reader}", *overrides])


def open_method(run: Path, config: Mapping[str, Any]) -> MaskedAutoencoder:
    """The method with the weights of the run's newest checkpoint, or the running mean saved with them.

    Raises: UserError where there is no checkpoint.
    """
    newest = Checkpoints(run / "checkpoints", keep=1).newest()
    if newest is None:
        raise UserError(
            f"run={run} has no checkpoint to reconstruct with; train it first, or choose task=knn or linear."
        )

    method: MaskedAutoencoder = build_method(dict(config), MaskedAutoencoder)
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
    engine: Engine = build_at(config, "engine", Engine)
    return engine.loader_workers()


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


USAGE = """\
python -m core.runs [folder=runs] [--json]    lists the runs below a folder with their key figures

  --json    prints them as JSON instead, one run a line"""
JSON_FLAG = "--json"
WIDTH = 1000  # of a table that no terminal wraps: nothing is cut off


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command(argv, lambda: USAGE, print_runs)


def print_runs(argv: Sequence[str]) -> None:
    """Prints the runs as a table or as JSON. Raises: UserError where there are none."""
    words = [word for word in argv if word != JSON_FLAG]
    settings, _ = options(words, {"folder": str}, strict=True)
    folder = Path(settings.get("folder", "runs"))
    if not folder.is_dir():
        raise UserError(f"folder={folder} does not exist; give the folder that holds your runs.")

    summaries, unreadable = [], []
    for run in list_runs(folder):
        if isinstance(run, Run):
            summaries.append(run.summary)
        else:
            unreadable.append(run)
    if not summaries and not unreadable:
        example = f"python -m core.train run_dir={folder / '<name>'}"
        raise UserError(f"folder={folder} holds no run; {example} makes one.")

    if JSON_FLAG in argv:
        for summary in summaries:
            print(json.dumps(summary))
        for path, reason in unreadable:
            print(json.dumps({"run": str(path), "error": reason}))
        return

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    if summaries:
        console.print(_table(summaries))
    for path, reason in unreadable:
        console.print(f"{path} cannot be read: {reason}", markup=False)


def shown(summary: Mapping[str, Any]) -> dict[str, str]:
    """The key figures of a run as text."""
    texts = {}
    for name in ("run", "modality", "method", "size", "data", "seed"):
        texts[name] = str(summary[name])
    texts["steps"] = f"{summary['steps']} of {summary['planned'] or '?'}"

    for name, digits in (("loss", 4), ("skill", 3)):
        texts[name] = "-"
        if summary[name] is not None:
            texts[name] = f"{summary[name]:.{digits}f}"

    texts["evaluations"] = ", ".join(summary["evaluations"]) or "-"
    texts["state"] = summary["state"]
    texts["last activity"] = summary["last activity"]
    return texts


def _table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = list(map(shown, summaries))
    for name in rows[0]:
        side = "left"
        if name in ("seed", "steps", "loss", "skill"):
            side = "right"
        table.add_column(name, justify=side, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return table


if __name__ == "__main__":
    sys.exit(main())
