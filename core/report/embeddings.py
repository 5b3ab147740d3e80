"""Features of test samples on a plane: principal components and t-SNE, coloured by label."""

from html import escape
from typing import Any

import numpy as np
import torch

from core.evaluation.projection import fit_components
from core.report.features import Encoded, Points
from core.report.images import data_uri

SIDE, MARGIN, RADIUS = 400, 12, 3.2  # of a plot and its dots, in its own units
LEAST_HEIGHT = 180  # of a plot whose points lie along a line
THUMBNAIL = 64  # of a sample that is shown on hovering
MIN_POINTS = 4  # fewer are not plotted


def embeddings(encoded: Encoded) -> str:
    """Two scatter plots, or the reason why there is none."""
    points = encoded.points
    if points is None:
        return f"<p>{escape(encoded.reason)}</p>"
    if len(points.features) < MIN_POINTS:
        return f"<p>Not drawn: {len(points.features)} points are too few.</p>"

    plane, share = components(points.features)
    charts = scatter(f"PCA ({share:.0%} of the variance)", plane, points)
    charts += scatter("t-SNE", _tsne(points.features), points)
    return (
        f'<p class="notes">{escape(points.note)}</p>{legend(points)}{_pictures(points)}'
        f'<div class="charts">{charts}</div>'
    )


def scatter(title: str, positions: np.ndarray, points: Points) -> str:
    """One plot of the points at `positions` (n, 2): equal units on both axes, which end where the points do."""
    low, extent = positions.min(0), np.ptp(positions, axis=0)
    scale = (SIDE - 2 * MARGIN) / max(float(extent[0]), 1e-9)
    height = float(extent[1]) * scale + 2 * MARGIN
    if height > SIDE:  # taller than wide
        scale *= (SIDE - 2 * MARGIN) / (height - 2 * MARGIN)
        height = SIDE
    height = max(height, LEAST_HEIGHT)

    size = extent * scale
    offset = (np.array([SIDE, height]) - size) / 2
    pixels = offset + (positions - low) * scale

    dots, targets = [], []
    for point, ((x, y), number) in enumerate(zip(pixels, points.classes, strict=True)):
        fill, y = colour(number, len(points.names)), height - y
        dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" fill="{fill}"/>')
        targets.append(_target(x, y, height, point, points))

    label = escape(f"{title} of {len(positions)} points")
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {SIDE} {height:.0f}" role="img" aria-label="{label}">'
        f'<g fill-opacity="0.75">{"".join(dots)}</g>{"".join(targets)}</svg></figure>'
    )


def colour(number: int, classes: int) -> str:
    """Hues evenly round the circle, neighbours of unlike lightness; grey where the class is unknown."""
    if number < 0:
        return "#8a929b"
    lightness = (42, 60)[number % 2]
    return f"hsl({360 * number / max(classes, 1):.0f} 70% {lightness}%)"


def legend(points: Points) -> str:
    """The names of the classes beside their colours."""
    if not points.names:
        return ""

    chips = ""
    for number, name in enumerate(points.names):
        chip = f'<span class="chip" style="background: {colour(number, len(points.names))}"></span>'
        chips += f"<span>{chip}{escape(name)}</span>"
    return f'<p class="legend">{chips}</p>'


def _target(x: float, y: float, height: float, point: int, points: Points) -> str:
    """An invisible disc over a dot, drawn after all dots, which shows the sample on hovering."""
    if not points.keys:
        return ""

    title = escape(", ".join(filter(None, (points.keys[point], points.class_name(point)))))
    thumbnail = ""
    if points.thumbnails:
        # Beside the dot, within the plot.
        left = x + 6 if x < SIDE / 2 else x - 6 - THUMBNAIL
        top = min(max(y - THUMBNAIL / 2, 0), height - THUMBNAIL)
        frame = f'<rect x="{left:.1f}" y="{top:.1f}" width="{THUMBNAIL}" height="{THUMBNAIL}"/>'
        thumbnail = f'<g class="thumb">{frame}<use href="#sample{point}" x="{left:.1f}" y="{top:.1f}"/></g>'
    disc = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 * RADIUS}"/>'
    return f'<g class="target">{disc}{thumbnail}<title>{title}</title></g>'


def _pictures(points: Points) -> str:
    """The thumbnails once, for both plots."""
    images = ""
    for number, raster in enumerate(points.thumbnails):
        images += f'<image id="sample{number}" width="{THUMBNAIL}" height="{THUMBNAIL}" href="{data_uri(raster)}"/>'
    return f'<svg width="0" height="0" aria-label="thumbnails"><defs>{images}</defs></svg>' if images else ""


def components(x: np.ndarray) -> tuple[np.ndarray, float]:
    """The two leading components (n, 2), and their share of the variance."""
    table = torch.from_numpy(x)
    plane = fit_components(table, 2).project(table).numpy()

    total = float(table.double().var(0, correction=0).sum())
    share = float(plane.astype(np.float64).var(0).sum()) / max(total, 1e-30)

    missing = 2 - plane.shape[1]  # where features vary in fewer directions
    return np.pad(plane, ((0, 0), (0, missing))), share


def _tsne(x: np.ndarray) -> np.ndarray:
    """t-SNE (n, 2) of rows (n, D), started from the principal components at a spread of 1e-4, as is usual."""
    from sklearn.manifold import TSNE

    centred = x - x.mean(0)
    size = float(np.abs(centred).max()) or 1.0

    start, _ = components(centred)
    start = 1e-4 * start / max(float(start[:, 0].std()), 1e-30)

    perplexity = min(30.0, (len(x) - 1) / 3)
    init: Any = start.astype(np.float32)  # an array is taken too, which scikit-learn's stubs leave out
    model = TSNE(2, perplexity=perplexity, init=init, random_state=0)
    return model.fit_transform(centred / size)
