"""One page over several runs: verdicts, settings that differ, curves in one plot, the same samples side by side."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import explain_write_errors, write_atomic
from core.report import tables
from core.report.curves import COLOURS, chart
from core.report.images import panels
from core.report.page import HELD_OUT, document, evaluations
from core.report.samples import draw_samples
from core.runs import Run, open_run
from core.trees import paths

PICTURES = 4  # samples whose reconstructions stand side by side
DIFFERENCES = 20  # settings that are listed


def write_comparison(folders: Sequence[str | Path]) -> Path:
    """Writes `report_<n>_runs.html` in the first run's folder.

    Raises: UserError where a folder holds no run, or there are more runs than colours.
    """
    if len(folders) > COLOURS:
        raise UserError(f"run=[…] names {len(folders)} runs; one page shows up to {COLOURS}.")
    runs = dict(zip(short_names(folders), map(open_run, folders), strict=True))
    if len(runs) < len(folders):
        raise UserError("run=[…] names a run twice; name each of them once.")

    path = Path(folders[0]) / f"report_{len(runs)}_runs.html"
    with explain_write_errors(path):
        write_atomic(path, comparison(runs))
    return path


def comparison(runs: Mapping[str, Run]) -> str:
    """The HTML of the page; runs by their short names."""
    sections = {
        "Settings that differ": differences(runs),
        "Training curves": curves(runs),
        "Reconstructions": reconstructions(runs),
    }
    for name, run in runs.items():
        sections[f"Evaluation of {name}"] = evaluations(run)
    return document(f"{len(runs)} runs", verdicts(runs), sections)


def short_names(folders: Sequence[str | Path]) -> list[str]:
    """Names of folders that tell them apart: their last parts, as many as it takes."""
    parts = [Path(folder).resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return names


def verdicts(runs: Mapping[str, Run]) -> str:
    """The verdicts of every run, by its name."""
    text = ""
    for name, run in runs.items():
        state = "finished" if run.is_finished else f"unfinished, step {run.done} of {run.steps or '?'}"
        text += f"<h4>{escape(name)} <span class='about'>{state}</span></h4>"
        text += tables.verdict_list(run.evaluations) or "<p>Not evaluated yet.</p>"
    return text


def differences(runs: Mapping[str, Run]) -> str:
    """A table of the settings in which configs differ, one column for each run."""
    flat = [dict(paths(run.config)) for run in runs.values()]
    rows = []
    for key in {key: None for values in flat for key in values}:
        values = [values.get(key, "-") for values in flat]
        if key != "run_dir" and any(value != values[0] for value in values):
            rows.append([escape(key), *(escape(str(value)) for value in values)])

    if not rows:
        return "<p>None: the runs have one config.</p>"
    text = tables.table(["setting", *runs], rows[:DIFFERENCES])
    if len(rows) > DIFFERENCES:
        text += f'<p class="notes">{len(rows) - DIFFERENCES} more settings differ.</p>'
    return text


def curves(runs: Mapping[str, Run]) -> str:
    """Loss and held-out figures over steps, a line for each run."""
    logs = {name: run.train for name, run in runs.items()}
    watched = {name: run.held_out for name, run in runs.items()}

    charts = [_overlay("Loss", logs, "loss", logs=True)]
    for column, title in HELD_OUT.items():
        charts.append(_overlay(title, watched, column))
    text = "".join(charts)
    return f'<div class="charts">{text}</div>' if text else "<p>Nothing is logged yet.</p>"


def reconstructions(runs: Mapping[str, Run]) -> str:
    """The same held-out samples, drawn by every run under the masks of its own method."""
    text = ""
    for name, run in runs.items():
        samples, config = draw_samples(run), run.config
        content = samples.gallery.reconstructions[:PICTURES] if samples.gallery else []
        about = f"{config['modality']['name']} · {config['method']['name']} · {config['size']['name']}"
        text += f"<h3>{escape(name)} <span class='about'>{escape(about)}</span></h3>"
        text += panels(content) if content else f"<p>{escape(' '.join(samples.notes))}</p>"
    return text


def _overlay(title: str, lines: Mapping[str, Sequence[Mapping[str, Any]]], column: str, logs: bool = False) -> str:
    """One chart of a column of several logs, over the union of their steps."""
    steps = sorted({line["step"] for log in lines.values() for line in log})
    values = {}
    for name, log in lines.items():
        by_step = {line["step"]: line.get(column) for line in log}
        values[name] = [by_step.get(step) for step in steps]
    return chart(title, steps, values, logs=logs)
