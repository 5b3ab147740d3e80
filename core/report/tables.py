"""Evaluations, skipped files and facts as tables."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from core.evaluation.baselines import RANDOM
from core.report.curves import show

LISTED = 200  # skipped files that are named


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Cells are HTML already; columns from `numbers` on hold figures (0: none)."""
    kind = lambda i: ' class="n"' if numbers and i >= numbers else ""  # noqa: E731
    top = "".join(f'<th scope="col"{kind(i)}>{escape(name)}</th>' for i, name in enumerate(head))
    body = ("<tr>" + "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def facts(values: Mapping[str, str]) -> str:
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{pairs}</dl>'


def evaluation(task: str, result: Mapping[str, Any]) -> str:
    """One file of `<run>/evaluation`: tables for the shapes known here, its JSON below."""
    parts = [f"<h3>{escape(task)}</h3>"]
    if "reason" in result:
        parts.append(f"<p>Not measured: {escape(str(result['reason']))}</p>")
    if task == "published":
        parts.append(published(result))
    for name, figures in result.get("figures", {}).items():
        if _is_skill(figures):
            parts.append(skills(name, figures))
        elif "accuracy" in figures:
            parts.append(accuracies(name, figures))
    protocol = result.get("protocol", {})
    if protocol:
        said = "".join(f"<li>{escape(str(key))}: {escape(str(value))}</li>" for key, value in protocol.items())
        parts.append(f"<details><summary>How this was measured</summary><ul>{said}</ul></details>")
    whole = escape(json.dumps({k: v for k, v in result.items() if k != "skipped"}, indent=1))
    parts.append(f"<details><summary>All figures (JSON)</summary><pre>{whole}</pre></details>")
    return "".join(parts)


def published(result: Mapping[str, Any]) -> str:
    """What the paper's own way of measuring gives, in %, and what it gives of the network untrained."""
    rows = [
        [escape(name), _percent(found), _percent(result[RANDOM].get(name))] for name, found in result["figures"].items()
    ]
    return table(("figure, %", "this run", RANDOM), rows, numbers=1)


def skills(objective: str, regions: Mapping[str, Mapping[str, Any]]) -> str:
    """Skill = 1 - error / error of the better of filler and zero, by region of the samples."""
    rows = []
    for region, found in regions.items():
        errors = found.get("error", {})
        rows.append(
            [
                escape(region),
                interval(found["skill"]) if "skill" in found else "-",
                verdict(found.get("result", "no tokens here")),
                *(show(errors[part]) if part in errors else "-" for part in ("prediction", "filler", "zero")),
                interval(found["codec_ceiling"]) if "codec_ceiling" in found else "-",
                str(found.get("samples", "-")),
                str(found.get("tokens", "-")),
            ]
        )
    head = ("region", "skill [95 %]", "result", "error", "filler's", "zero's", "codec's ceiling", "samples", "tokens")
    return f"<h4>{escape(objective)}: skill on hidden tokens</h4>" + table(head, rows, numbers=3)


def accuracies(label: str, figures: Mapping[str, Any]) -> str:
    """A probe beside its baselines, best first, and the verdict."""
    judged = figures["verdict"]
    entries = [("this run", figures["accuracy"]), *figures["baselines"].items()]
    entries.sort(key=lambda entry: -entry[1]["value"])
    gaps = judged["differences"]
    rows = [
        [
            f"<strong>{escape(name)}</strong>" if name == "this run" else escape(name),
            interval(value),
            interval(gaps[name]) if name in gaps else "",
        ]
        for name, value in entries
    ]
    said = [
        f"{verdict(judged['result'])} against the best baseline ({escape(judged['best_baseline'])}).",
        f"{figures['classes']} classes, {figures['tested']} test samples.",
    ]
    if judged["check"]:
        said.append(f"A check, not a headline figure: {judged['trainings']} training(s).")
    head = ("accuracy of", "value [95 %]", "this run minus it [95 %]")
    return f"<h4>{escape(label)}</h4>" + table(head, rows, numbers=1) + f"<p>{' '.join(said)}</p>"


def interval(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def verdict(result: str) -> str:
    kind = "good" if result == "wins" else "plain"
    return f'<span class="verdict {kind}">{escape(result)}</span>'


def skipped(entries: Sequence[tuple[str, str, str]]) -> str:
    """(when, key, reason) of samples that could not be used; each key once."""
    if not entries:
        return "<p>None.</p>"
    once = {key: (when, key, reason) for when, key, reason in reversed(entries)}
    rows = list(reversed(once.values()))
    more = f"<p>{len(rows) - LISTED} more are in metrics.jsonl.</p>" if len(rows) > LISTED else ""
    count = f"<p>{len(rows)} sample(s) were skipped, {len(entries)} time(s) in all.</p>"
    return count + table(("when", "sample", "reason"), [[escape(c) for c in row] for row in rows[:LISTED]]) + more


def _percent(found: Mapping[str, float | None] | None) -> str:
    if found is None:
        return "-"
    spread = "" if found["half_interval"] is None else f" ± {100 * found['deviation']:.2f}"
    return f"{100 * found['mean']:.2f}{spread}"


def _is_skill(figures: Mapping[str, Any]) -> bool:
    return "accuracy" not in figures and all(isinstance(v, Mapping) and "tokens" in v for v in figures.values())
