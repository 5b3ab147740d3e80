"""The page: one HTML file with everything inside, put together from top to bottom."""

import re
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from html import escape
from pathlib import Path

import torch
from omegaconf import OmegaConf

from core.config.build import build_method
from core.files import explain_write_errors, read_json, write_atomic
from core.reconstruction.pictures import SCORED, TINT, UNSCORED
from core.report import tables
from core.report.confusion import confusions
from core.report.curves import chart
from core.report.embeddings import embeddings
from core.report.features import Encoded, encode_held_out
from core.report.images import panels
from core.report.neighbours import neighbours
from core.report.samples import Samples, draw_samples, with_settings
from core.report.scenes import allowance, script
from core.report.style import STYLE
from core.report.token_pca import token_pca
from core.runs import Run, open_run

MASKS = 4  # samples in the gallery of masks
# Nothing may be loaded from anywhere, nor run, whatever text a file name or config holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
HELD_OUT = {"skill": "Held-out skill (64 samples)", "knn": "Nearest neighbours, accuracy (128 samples)"}
SPEED = {  # column of the log: title, unit, factor
    "lr": ("Learning rate", "", 1),
    "grad_norm": ("Gradient norm", "", 1),
    "samples_per_s": ("Throughput, samples per second", "", 1),
    "data_wait": ("Data wait", " %", 100),
    "mfu": ("Model FLOPs utilisation (MFU)", " %", 100),
    "memory_mb": ("Memory", " MB", 1),
}
NOT_TERMS = {*SPEED, "kind", "step", "epoch", "loss", "skipped", "time"}


def write_report(folder: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Writes `<folder>/report.html` whole or not at all. `overrides`: of the settings of pictures.

    Raises: UserError unless `folder` holds a run, or where overrides do not fit.
    """
    run = open_run(folder)
    path, altered = run.path / "report.html", with_settings(run, overrides)
    content = page(run, draw_samples(altered), encode_held_out(altered))

    with explain_write_errors(path):
        write_atomic(path, content)

    return path


def page(run: Run, samples: Samples, encoded: Encoded) -> str:
    """The HTML of the report."""
    config = run.config
    title = f"{config['modality']['name']} · {config['method']['name']} · {config['size']['name']}"
    sections = {
        "Training curves": curves(run),
        "Masks": masks(samples),
        "Reconstructions": reconstructions(run, samples),
        "Embeddings": embeddings(encoded),
        "Nearest neighbours": neighbours(encoded),
        "Token PCA": token_pca(encoded),
        "Evaluation": evaluations(run),
        "Skipped files": tables.skipped(_skipped(run, samples)),
        "Config": f"<details><summary>config.yaml</summary><pre>{escape(_yaml(config))}</pre></details>",
    }

    return document(title, head(run), sections, script([samples]))


def document(title: str, top: str, sections: Mapping[str, str], code: str = "") -> str:
    """A whole HTML page of sections by their names.

    `top`: HTML between its title and its links. `code`: the only script that may run in it.
    """
    policy, element = POLICY, ""
    if code:
        policy = f"{POLICY}; {allowance(code)}"
        element = f"<script>{code}</script>"

    links = body = ""
    for name, text in sections.items():
        links += f'<a href="#{_anchor(name)}">{escape(name)}</a>'
        body += f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>{text}</section>'

    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        f"<header><h1>{escape(title)}</h1>{top}<nav>{links}</nav></header>{body}{element}</body></html>\n"
    )


def head(run: Run) -> str:
    """State, facts, and the command that repeats the run."""
    config, folder = run.config, run.path
    with torch.device("meta"):
        method = build_method(deepcopy(config))
    total = sum(parameter.numel() for parameter in method.parameters())
    in_encoder = sum(parameter.numel() for parameter in method.encoder.parameters())

    data = config["data"]
    epochs = "0"
    if run.train:
        epochs = f"{run.train[-1]['epoch']:.2f}"
    values = {
        "Modality": config["modality"]["name"],
        "Method": config["method"]["name"],
        "Size": config["size"]["name"],
        "Parameters": f"{total / 1e6:.2f} M, {in_encoder / 1e6:.2f} M of them in the encoder",
        "Data": f"{data['name']} {data.get('root') or ''}".strip(),
        "Steps": f"{run.done} of {run.steps or '?'}, {config['batch_size']} samples each",
        "Epochs": epochs,
        "Seed": str(config["seed"]),
        "Precision": (read_json(folder / "precision.json") or config)["precision"],
        "Last log line": run.last_logged or "none",
        "Folder": str(folder),
    }

    config_path = shlex.quote(str(folder / "config.yaml"))
    again = f"python -m core.train config={config_path} run_dir=<another folder>"
    verdicts = tables.verdict_list(run.evaluations)
    return f"{state(run)}{verdicts}{tables.facts(values)}<p>To repeat it: <code>{escape(again)}</code></p>"


def state(run: Run) -> str:
    """Whether the run is finished, stopped or unfinished."""
    if run.is_finished:
        return '<p class="state">Finished</p>'
    if run.stops:
        stop = run.stops[-1]
        return f'<p class="state open">Stopped in step {stop["step"]}: {escape(stop["reason"])}</p>'

    pictures = ""
    if run.checkpoint:
        pictures = f"; the pictures are by its newest checkpoint, of step {run.step}"
    return f'<p class="state open">Unfinished: step {run.done} of {run.steps or "?"}{pictures}</p>'


def curves(run: Run) -> str:
    """The loss with its terms, then how fast and how well the machine was used."""
    if not run.train:
        return "<p>Nothing is logged yet.</p>"
    steps = [line["step"] for line in run.train]

    losses = {"loss": _column(run, "loss")}
    terms = sorted(set().union(*run.train) - NOT_TERMS)
    if len(terms) > 1:  # a single term is the loss itself
        for term in terms:
            losses[term] = _column(run, term)
    charts = [chart("Loss", steps, losses, logs=True)]

    watched = [line["step"] for line in run.held_out]
    for name, title in HELD_OUT.items():
        charts.append(chart(title, watched, {name: [line.get(name) for line in run.held_out]}))

    for name, (title, unit, factor) in SPEED.items():
        values = {name: _column(run, name, factor)}
        charts.append(chart(title, steps, values, unit, logs=name == "grad_norm"))

    note = "Over steps. Lines are means, bands reach from the least to the greatest value; hover to read."
    return f'<div class="charts">{"".join(charts)}</div><p class="notes">{note}</p>'


def masks(samples: Samples) -> str:
    """The masks of a few samples, with the meaning of their colours."""
    if samples.gallery is None:
        return _notes(samples.notes)

    content = samples.gallery.masks[:MASKS]
    legend = (
        f"{_chip(SCORED)}hidden, and predicted by the decoder in training</span>"
        f"{_chip(UNSCORED)}hidden, and not predicted</span><span>plain: visible to the encoder</span>"
    )
    return f'<p class="legend">{legend}</p>{panels(content, small=True)}'


def reconstructions(run: Run, samples: Samples) -> str:
    """Input, masked input, baseline and prediction of a few samples."""
    if samples.gallery is None:
        return _notes(samples.notes)

    notes = [f"By the weights of step {run.step}.", *samples.notes, *samples.gallery.notes]
    return _notes(notes) + panels(samples.gallery.reconstructions)


def evaluations(run: Run) -> str:
    """Tables of all evaluations; without any, the command that makes one."""
    if not run.evaluations:
        folder = shlex.quote(str(run.path))
        task = "knn"
        if run.config.get("published") is not None:
            task = "published"
        return f"<p>None yet: <code>python -m core.evaluate run={escape(folder)} task={task}</code></p>"

    text = ""
    for name, record in run.evaluations.items():
        text += tables.evaluation(name, record) + confusions(run.path, record)
    return text


def _column(run: Run, name: str, factor: int = 1) -> list[float | None]:
    """The values of a column of the log times `factor`, None where a line lacks it."""
    values = []
    for line in run.train:
        value = line.get(name)
        if value is not None:
            value *= factor
        values.append(value)
    return values


def _skipped(run: Run, samples: Samples) -> list[tuple[str, str, str]]:
    """Of every sample that was skipped: when, its key, and the reason."""
    rows = [(f"step {line['step']}", line["key"], line["reason"]) for line in run.skips]
    for task, result in run.evaluations.items():
        rows += [(task, key, reason) for key, reason in result.get("skipped", ())]
    rows += [("this report", key, reason) for key, reason in samples.skipped]
    return rows


def _chip(colour: Sequence[float]) -> str:
    """The start of a legend's entry: a square of this tint, as over a middling grey."""
    red, green, blue = (round(255 * (TINT * c + (1 - TINT) * 0.6)) for c in colour)
    return f'<span><span class="chip" style="background: rgb({red} {green} {blue})"></span>'


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>'


def _anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())


def _yaml(config: dict) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(config))
