"""Evaluations, skipped files and facts as HTML tables."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from core.evaluation import verdicts
from core.evaluation.record import about, subject
from core.evaluation.result import label_size
from core.evaluation.verdicts import ABOVE, RANDOM, WINS, WITHIN, WORSE
from core.report.curves import show

LISTED = 200  # skipped files that are named


def table(head: Sequence[str], rows: Iterable[Iterable[str]], numbers: int = 0) -> str:
    """Cells are HTML already; columns from `numbers` on hold figures (0: none)."""
    top = _cells('th scope="col"', map(escape, head), numbers)
    body = ""
    for row in rows:
        body += f"<tr>{_cells('td', row, numbers)}</tr>"
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(values: Mapping[str, str]) -> str:
    pairs = ""
    for name, value in values.items():
        pairs += f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    return f'<dl class="facts">{pairs}</dl>'


def verdict_list(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The verdicts of all evaluations, by their names, each with the subject of its record."""
    entries = ""
    for name, record in records.items():
        for line in verdicts.lines({"task": name, **record}):
            word, _, rest = line.partition(": ")
            subject = about({"task": name, **record})
            entries += f'<li>{verdict(word)}: {escape(rest)} <span class="about">{escape(subject)}</span></li>'
    if not entries:
        return ""
    return f'<ul class="verdicts">{entries}</ul>'


def evaluation(name: str, record: Mapping[str, Any]) -> str:
    """One file of `<run>/evaluation`, `name`: tables for the shapes known here, its JSON below."""
    task = record.get("task", name)
    parts = [f"<h3>{escape(about({'task': name, **record}))}</h3>"]
    if "reason" in record:
        parts.append(f"<p>Not measured: {escape(str(record['reason']))}</p>")
    if task == "published":
        parts.append(published(record))
    for name, figures in record.get("figures", {}).items():
        if "verdict" in figures:
            parts.append(label_figures(name, figures, subject(record)))
        elif _is_skill(figures):
            parts.append(skills(name, figures, record.get("protocol", {}).get("filler", "")))

    lines = ""
    for key, value in record.get("protocol", {}).items():
        lines += f"<li>{escape(str(key))}: {escape(str(value))}</li>"
    if lines:
        parts.append(f"<details><summary>How this was measured</summary><ul>{lines}</ul></details>")

    entries = dict(record)
    entries.pop("skipped", None)
    text = escape(json.dumps(entries, indent=1))
    parts.append(f"<details><summary>All figures (JSON)</summary><pre>{text}</pre></details>")
    return "".join(parts)


def published(record: Mapping[str, Any]) -> str:
    """Figures by the paper's own protocol, in %, of the run and of the network untrained."""
    rows = []
    for name, figure in record["figures"].items():
        rows.append([escape(name), _percent(figure), _percent(record[RANDOM].get(name))])
    reported = record["protocol"].get("reported")
    lines = [record.get("described", "")]
    if reported:
        lines.append(
            f"Published: {verdicts.published_figure(reported)}. Source: {reported.get('source') or 'not named'}."
        )
    text = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return text + table(("figure, %", subject(record), RANDOM), rows, numbers=1)


def skills(objective: str, regions: Mapping[str, Mapping[str, Any]], filler: str) -> str:
    """Skill = 1 - error / error of the better of baseline (`filler`) and zero, by region of the samples."""
    rows = []
    for region, figures in regions.items():
        errors = figures.get("error", {})
        row = [escape(region), _or_dash(figures.get("skill"), interval)]
        row.append(verdict(verdicts.of_skill(figures, filler)))
        for part in ("prediction", "filler", "zero"):
            row.append(_or_dash(errors.get(part), show))
        row.append(_or_dash(figures.get("ceiling"), interval))
        rows.append([*row, str(figures.get("samples", "-")), str(figures.get("tokens", "-"))])

    head = ("region", "skill [95 %]", "result", "error", "baseline's", "zero's", "ceiling", "samples", "tokens")
    return f"<h4>{escape(objective)}: skill on hidden tokens</h4>" + table(head, rows, numbers=3)


def label_figures(label: str, figures: Mapping[str, Any], row: str = "this run") -> str:
    """A metric of one label beside its baselines, best first, and the verdict.

    `row`: the name of our figure's.
    """
    metric, judgement = figures.get("metric", "accuracy"), figures["verdict"]
    judged = verdicts.of_label(figures)
    entries = [("", figures[metric]), *figures["baselines"].items()]
    entries.sort(key=lambda entry: entry[1]["value"], reverse=metric != "rmse")

    rows = []
    for name, figure in entries:
        if name:
            rows.append([escape(name), interval(figure), interval(judgement["differences"][name])])
        else:
            rows.append([f"<strong>{escape(row)}</strong>", interval(figure), ""])

    sentences = [
        f"{verdict(judged.word)}: {interval(judged.difference)} against {escape(judged.baseline)}.",
        f"{label_size(figures)}, {figures['tested']} test samples.",
    ]
    if judgement["check"]:
        trainings = verdicts.trainings(judgement["trainings"])
        sentences.append(f"A check, not a headline figure: {trainings}, headlines take 5.")

    head = (f"{metric} of", "value [95 %]", f"{row} better by [95 %]")
    return f"<h4>{escape(label)}</h4>" + table(head, rows, numbers=1) + f"<p>{' '.join(sentences)}</p>"


def interval(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def verdict(word: str) -> str:
    """A verdict's word in its colour."""
    kind = "plain"
    if word in (WINS, ABOVE, WITHIN):
        kind = "good"
    elif word.startswith(WORSE):
        kind = "bad"
    return f'<span class="verdict {kind}">{escape(word)}</span>'


def skipped(entries: Sequence[tuple[str, str, str]]) -> str:
    """(when, key, reason) of samples that could not be used; each key once."""
    if not entries:
        return "<p>None.</p>"

    once = {key: (when, key, reason) for when, key, reason in reversed(entries)}
    rows = list(reversed(once.values()))
    cells = [map(escape, row) for row in rows[:LISTED]]
    text = "<p>A sample was skipped" if len(rows) == 1 else f"<p>{len(rows)} samples were skipped"
    if len(entries) > len(rows):  # in several epochs
        text += f", {len(entries)} times in all"
    text += ".</p>"
    text += table(("when", "sample", "reason"), cells)
    if len(rows) > LISTED:
        text += f"<p>{len(rows) - LISTED} more are in metrics.jsonl.</p>"
    return text


def _cells(tag: str, contents: Iterable[str], numbers: int) -> str:
    """Cells of a row; `tag`: with its attributes."""
    cells = ""
    for column, content in enumerate(contents):
        kind = ""
        if numbers and column >= numbers:
            kind = ' class="n"'
        cells += f"<{tag}{kind}>{content}</{tag.partition(' ')[0]}>"
    return cells


def _or_dash(value: Any, text: Callable[[Any], str]) -> str:
    if value is None:
        return "-"
    return text(value)


def _percent(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    text = f"{100 * figure['mean']:.2f}"
    if figure["half_interval"] is not None:
        text += f" ± {100 * figure['deviation']:.2f}"
    return text


def _is_skill(figures: Mapping[str, Any]) -> bool:
    return all(isinstance(value, Mapping) and "tokens" in value for value in figures.values())
