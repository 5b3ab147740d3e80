"""Confusion matrices as inline SVG: true classes in rows, shades by the share of a row."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from core.evaluation.classifier import CONFUSION, read_confusion

SIDE = 640  # of the largest matrix, in its own units
CELL = 44  # of a cell at most
LABEL = 120  # in front of the rows
LEGIBLE = 24  # cells smaller than this hold no count
MOST_NAMES = 60  # classes; with more, names are left out
MISTAKES = 5  # most frequent ones that are listed


def confusions(run: Path, record: Mapping[str, Any]) -> str:
    """The matrices of all labels of a fine-tuning; empty where it left none."""
    text = ""
    for label, figures in record.get("figures", {}).items():
        if not isinstance(figures, Mapping) or "classifier" not in figures:
            continue
        folder = run / figures["classifier"]
        text += f"<p>The classifier is in <code>{escape(str(folder))}</code>.</p>"
        matrix = read_confusion(folder / CONFUSION)
        if matrix is not None:
            text += confusion_chart(label, *matrix)
    return text


def confusion_chart(label: str, names: list[str], counts: np.ndarray) -> str:
    """One matrix (C, C) of counts, and its most frequent mistakes in words."""
    cell = min(CELL, SIDE / max(len(names), 1))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    has_names = len(names) <= MOST_NAMES
    left, top = (LABEL, 76) if has_names else (4, 4)

    shapes = []
    for row, name in enumerate(names):
        middle = top + (row + 0.5) * cell
        if has_names:
            text = escape(_short(name))
            shapes.append(f'<text x="{left - 6}" y="{middle + 4:.1f}" text-anchor="end">{text}</text>')
            x = left + (row + 0.5) * cell
            turn = f"rotate(-40 {x:.1f} {top - 6})"
            shapes.append(f'<text x="{x:.1f}" y="{top - 6}" transform="{turn}">{text}</text>')

        for column, other in enumerate(names):
            share, count = shares[row, column], counts[row, column]
            x, y = left + column * cell, top + row * cell
            title = escape(f"{name} predicted as {other}: {count} of {counts[row].sum()}")
            kind = "hit" if row == column else "miss"
            shapes.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
                f'fill-opacity="{share:.3f}"><title>{title}</title></rect>'
            )
            if cell >= LEGIBLE and count:
                tone = ' class="light"' if share > 0.55 else ""
                shapes.append(
                    f'<text{tone} x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="middle">{count}</text>'
                )

    size = len(names) * cell
    width, height = left + size + 70 * has_names, top + size + 4
    shapes.append(f'<rect class="frame" x="{left}" y="{top}" width="{size:.1f}" height="{size:.1f}"/>')
    caption = escape(f"Confusion matrix of {label}: true classes in rows, predicted ones in columns")
    return (
        f'<figure class="chart confusion"><figcaption>{caption}</figcaption>'
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="max-width: {width:.0f}px" role="img" '
        f'aria-label="{caption}">{"".join(shapes)}</svg></figure>{_mistakes(names, counts)}'
    )


def _mistakes(names: list[str], counts: np.ndarray) -> str:
    """The pairs of classes that are confused most often."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:MISTAKES]

    entries = []
    for row, column in zip(*np.unravel_index(pairs, wrong.shape), strict=True):
        if wrong[row, column]:
            entries.append(f"{names[row]} as {names[column]} ({wrong[row, column]} of {counts[row].sum()})")
    if not entries:
        return '<p class="notes">No mistakes.</p>'
    return f'<p class="notes">Most frequent mistakes: {escape("; ".join(entries))}.</p>'


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
