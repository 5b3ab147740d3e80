"""One page over several runs: verdicts, settings that differ, curves in one plot, the same samples."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from core.engine.run_dir import flatten
from core.errors import UserError
from core.evaluation.comparison import compare_recorded
from core.files import explain_write_errors, write_atomic
from core.report import tables
from core.report.curves import LINES, chart
from core.report.images import panels
from core.report.page import HELD_OUT, document, evaluations
from core.report.samples import Samples, draw_samples, with_settings
from core.report.scenes import script
from core.runs import Run, open_run

PICTURES = 4  # samples whose reconstructions stand side by side
DIFFERENCES = 20  # settings that are listed


def write_comparison(folders: Sequence[str | Path], overrides: Sequence[str] = ()) -> Path:
    """Writes `report_<n>_runs.html` in the first run's folder. `overrides`: of the settings of pictures.

    Raises: UserError where a folder holds no run, there are more runs than kinds of line, or overrides do not fit.
    """
    if len(folders) > LINES:
        remedy = "name fewer, such as one seed of each; core.compare makes a table of any number"
        raise UserError(f"run=[…] names {len(folders)} runs; one page shows up to {LINES}: {remedy}.")
    runs = dict(zip(short_names(folders), map(open_run, folders), strict=True))
    if len(runs) < len(folders):
        raise UserError("run=[…] names a run twice; name each of them once.")

    path = Path(folders[0]) / f"report_{len(runs)}_runs.html"
    with explain_write_errors(path):
        write_atomic(path, comparison(runs, overrides))
    return path


def comparison(runs: Mapping[str, Run], overrides: Sequence[str] = ()) -> str:
    """The HTML of the page; runs by their short names."""
    samples = {name: draw_samples(with_settings(run, overrides)) for name, run in runs.items()}
    sections = {
        "Figures": figures(runs),
        "Settings that differ": differences(runs),
        "Training curves": curves(runs),
        "Reconstructions": reconstructions(runs, samples),
    }
    for name, run in runs.items():
        sections[f"Evaluation of {name}"] = evaluations(run)
    return document(f"{len(runs)} runs", verdicts(runs), sections, script(samples.values()))


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
        state = "finished"
        if not run.is_finished:
            state = f"unfinished, step {run.done} of {run.steps or '?'}"
        text += f"<h4>{escape(name)} <span class='about'>{state}</span></h4>"
        text += tables.verdict_list(run.evaluations) or "<p>Not evaluated yet.</p>"
    return text


def figures(runs: Mapping[str, Run]) -> str:
    """Tables of the evaluations that are recorded of every run, with means over seeds."""
    remedy = "<p><code>python -m core.compare</code> evaluates runs alike, and makes this table.</p>"
    try:
        comparisons = compare_recorded(list(runs.values()))
    except UserError as error:
        return f"<p>{escape(str(error))}</p>{remedy}"

    text = ""
    for comparison in comparisons:
        text += f'<h3>{escape(comparison.task)}</h3><div class="wide">{comparison.html()}</div>'
    return text or f"<p>No evaluation is recorded of every run by the same settings.</p>{remedy}"


def differences(runs: Mapping[str, Run]) -> str:
    """A table of the settings in which configs differ, one column for each run."""
    configs = [flatten(run.config) for run in runs.values()]
    keys: dict[str, None] = {}
    for config in configs:
        keys |= dict.fromkeys(config)
    keys.pop("run_dir", None)

    rows = []
    for key in keys:
        values = [config.get(key, "-") for config in configs]
        if any(value != values[0] for value in values):
            rows.append([escape(text) for text in (key, *map(str, values))])

    if not rows:
        return "<p>None: the runs have one config.</p>"
    text = tables.table(["setting", *runs], rows[:DIFFERENCES])
    if len(rows) > DIFFERENCES:
        text += f'<p class="notes">{len(rows) - DIFFERENCES} more settings differ.</p>'
    return text


def curves(runs: Mapping[str, Run]) -> str:
    """Loss and held-out figures over steps, a line for each run."""
    logs, watched = {}, {}
    for name, run in runs.items():
        logs[name] = run.train
        watched[name] = run.held_out

    charts = [_overlay("Loss", logs, "loss", logs=True)]
    for column, title in HELD_OUT.items():
        charts.append(_overlay(title, watched, column))
    text = "".join(charts)
    if not text:
        return "<p>Nothing is logged yet.</p>"
    return f'<div class="charts">{text}</div>'


def reconstructions(runs: Mapping[str, Run], samples_by_run: Mapping[str, Samples]) -> str:
    """The same held-out samples, drawn by every run under the masks of its own method."""
    text = ""
    for name, run in runs.items():
        samples, config = samples_by_run[name], run.config
        about = f"{config['modality']['name']} · {config['method']['name']} · {config['size']['name']}"
        text += f"<h3>{escape(name)} <span class='about'>{escape(about)}</span></h3>"
        if samples.gallery and samples.gallery.reconstructions:
            text += panels(samples.gallery.reconstructions[:PICTURES])
        else:
            text += f"<p>{escape(' '.join(samples.notes))}</p>"
    return text


def _overlay(title: str, lines: Mapping[str, Sequence[Mapping[str, Any]]], column: str, *, logs: bool = False) -> str:
    """One chart of a column of several logs, over the union of their steps."""
    columns: dict[str, dict[int, Any]] = {}
    for name, log in lines.items():
        columns[name] = {line["step"]: line.get(column) for line in log}
    steps = sorted(set().union(*columns.values()))

    values = {}
    for name, figures in columns.items():
        values[name] = list(map(figures.get, steps))
    return chart(title, steps, values, logs=logs)
