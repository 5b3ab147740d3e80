"""The page: one HTML file with everything inside, put together from top to bottom."""

import shlex
from base64 import b64encode
from collections.abc import Sequence
from copy import deepcopy
from html import escape
from pathlib import Path

import torch
from omegaconf import OmegaConf

from core.config.build import build_method
from core.files import explain_write_errors, read_json, write_atomic
from core.reconstruction.pictures import LOSSLESS, SCORED, TINT, UNASKED, Panel, Raster
from core.report import tables
from core.report.curves import chart
from core.report.embeddings import embeddings
from core.report.samples import Samples, draw_samples
from core.report.style import STYLE
from core.runs import Run, open_run

MASKS = 4  # samples in the gallery of masks
# Nothing may be loaded from anywhere, whatever a file name or config says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SPEED = {
    "lr": ("Learning rate", "", 1),
    "grad_norm": ("Norm of the gradient", "", 1),
    "samples_per_s": ("Samples per second", "", 1),
    "data_wait": ("Time spent waiting for data", " %", 100),
    "mfu": ("Share of the hardware's peak (MFU)", " %", 100),
    "memory_mb": ("Memory", " MB", 1),
}
NOT_TERMS = {*SPEED, "kind", "step", "epoch", "loss", "skipped", "time"}


def write_report(folder: str | Path) -> Path:
    """Writes `<folder>/report.html` whole or not at all. Raises UserError unless `folder` holds a run."""
    run = open_run(folder)
    path = run.path / "report.html"
    content = page(run, draw_samples(run))

    with explain_write_errors(path):
        write_atomic(path, content)

    return path


def page(run: Run, samples: Samples) -> str:
    config = run.config
    title = f"{config['modality']['name']} · {config['method']['name']} · {config['size']['name']}"
    sections = {
        "Curves": curves(run),
        "Masks": masks(samples),
        "Reconstructions": reconstructions(run, samples),
        "Features": embeddings(run),
        "Evaluation": evaluations(run),
        "Skipped files": tables.skipped(_skipped(run, samples)),
        "Config": f"<details><summary>config.yaml</summary><pre>{escape(_yaml(config))}</pre></details>",
    }
    links = "".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in sections)
    body = "".join(f'<section id="{_anchor(name)}"><h2>{name}</h2>{text}</section>' for name, text in sections.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        f"<header><h1>{escape(title)}</h1>{head(run)}<nav>{links}</nav></header>{body}</body></html>\n"
    )


def head(run: Run) -> str:
    """State, facts, and the command that repeats the run."""
    config, folder = run.config, run.path
    with torch.device("meta"):
        method = build_method(deepcopy(config))
    count, inside = (sum(p.numel() for p in part.parameters()) for part in (method, method.encoder))
    data = config["data"]
    values = {
        "Modality": config["modality"]["name"],
        "Method": config["method"]["name"],
        "Size": config["size"]["name"],
        "Parameters": f"{count / 1e6:.2f} M, {inside / 1e6:.2f} M of them in the encoder",
        "Data": " ".join(str(data[key]) for key in ("name", "root") if data.get(key)),
        "Steps": f"{run.done} of {run.steps or '?'}, {config['batch_size']} samples each",
        "Epochs": f"{run.train[-1]['epoch']:.2f}" if run.train else "0",
        "Seed": str(config["seed"]),
        "Precision": (read_json(folder / "precision.json") or config)["precision"],
        "Last log line": run.last_logged or "none",
        "Folder": str(folder),
    }
    again = f"python -m core.train config={shlex.quote(str(folder / 'config.yaml'))} run_dir=<another folder>"
    return f"{state(run)}{tables.facts(values)}<p>To repeat it: <code>{escape(again)}</code></p>"


def state(run: Run) -> str:
    if run.is_finished:
        return '<p class="state">Finished</p>'
    if run.stops:
        stop = run.stops[-1]
        return f'<p class="state open">Stopped in step {stop["step"]}: {escape(stop["reason"])}</p>'
    pictures = f"; the pictures are by its newest checkpoint, of step {run.step}" if run.checkpoint else ""
    return f'<p class="state open">Unfinished: step {run.done} of {run.steps or "?"}{pictures}</p>'


def curves(run: Run) -> str:
    """The loss with its terms, then how fast and how well the machine was used."""
    if not run.train:
        return "<p>Nothing is logged yet.</p>"
    x = [line["step"] for line in run.train]
    terms = sorted({name for line in run.train for name in line} - NOT_TERMS)
    losses = ["loss", *terms] if len(terms) > 1 else ["loss"]
    charts = [chart("Loss", x, {name: [line.get(name) for line in run.train] for name in losses}, logs=True)]
    for name, (title, unit, times) in SPEED.items():
        values = [line[name] * times if name in line else None for line in run.train]
        charts.append(chart(title, x, {name: values}, unit, logs=name == "grad_norm"))
    note = "Over steps. Lines are means, bands reach from the least to the greatest value; hover to read."
    return f'<div class="charts">{"".join(charts)}</div><p class="notes">{note}</p>'


def masks(samples: Samples) -> str:
    if samples.gallery is None:
        return _notes(samples.notes)
    panels = samples.gallery.masks[:MASKS]
    legend = (
        f"{_chip(SCORED)}hidden, and answered by the decoder in training</span>"
        f"{_chip(UNASKED)}hidden, and not asked for</span><span>plain: seen by the encoder</span>"
    )
    return f'<p class="legend">{legend}</p>{_panels(panels, small=True)}'


def reconstructions(run: Run, samples: Samples) -> str:
    if samples.gallery is None:
        return _notes(samples.notes)
    notes = [f"By the weights of step {run.step}.", *samples.notes, *samples.gallery.notes]
    return _notes(notes) + _panels(samples.gallery.reconstructions)


def evaluations(run: Run) -> str:
    if not run.evaluations:
        folder = shlex.quote(str(run.path))
        task = "knn" if run.config.get("published") is None else "published"
        return f"<p>None yet: <code>python -m core.evaluate run={escape(folder)} task={task}</code></p>"
    return "".join(tables.evaluation(task, result) for task, result in run.evaluations.items())


def _skipped(run: Run, samples: Samples) -> list[tuple[str, str, str]]:
    found = [(f"step {line['step']}", line["key"], line["reason"]) for line in run.skips]
    for task, result in run.evaluations.items():
        found += [(task, key, reason) for key, reason in result.get("skipped", ())]
    return found + [("this report", key, reason) for key, reason in samples.skipped]


def _logged(run: Run) -> int:
    return run.train[-1]["step"] if run.train else run.step


def _panels(panels: Sequence[Panel], small: bool = False) -> str:
    films = bool(panels) and panels[0].arranged == "rows"
    kind = " films" if films else " small" if small else ""
    return f'<div class="samples{kind}">{"".join(_panel(panel) for panel in panels)}</div>'


def _panel(panel: Panel) -> str:
    if panel.arranged == "rows":
        inside = "".join(f'<span class="name">{escape(r.label)}</span>{_image(r)}' for r in panel.rasters)
    else:
        inside = "".join(f'<div>{_image(r)}<span class="name">{escape(r.label)}</span></div>' for r in panel.rasters)
    return (
        f'<figure class="sample"><figcaption>{escape(panel.title)}</figcaption>'
        f'<div class="{panel.arranged}">{inside}</div></figure>'
    )


def _image(raster: Raster) -> str:
    width, height = raster.size
    exact, times = (' class="exact"', 2) if height <= LOSSLESS else ("", 1)
    source = f"data:{raster.mime};base64,{b64encode(raster.data).decode()}"
    size = f'width="{width * times}" height="{height * times}"'
    return f'<img{exact} {size} loading="lazy" alt="{escape(raster.alt)}" src="{source}">'


def _chip(colour: Sequence[float]) -> str:
    red, green, blue = (round(255 * (TINT * c + (1 - TINT) * 0.6)) for c in colour)  # as over a middling grey
    return f'<span><span class="chip" style="background: rgb({red} {green} {blue})"></span>'


def _notes(notes: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>'


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _yaml(config: dict) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(config))
