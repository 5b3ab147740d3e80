"""What the encoder makes of test samples, on a plane: principal components and t-SNE, coloured by label."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch

from core import seeding
from core.data.loader import evaluation_batches
from core.data.opening import open_source
from core.data.reader import Reader, TokenLabels
from core.data.sources import Item
from core.errors import UserError
from core.evaluation.projection import fit_components
from core.export import SavedEncoder
from core.report.samples import held_out
from core.runs import Run, open_method

SAMPLES, TOKENS = 300, 1000  # drawn at most
TOGETHER = 32  # samples encoded at a time
SIDE, MARGIN, RADIUS = 400, 10, 2.6
FEWEST = 4


@dataclass(frozen=True)
class Points:
    """Features (n, D) of samples or of tokens, class numbers (n,), -1 where unknown, and what they are."""

    features: np.ndarray
    classes: np.ndarray
    names: Sequence[str]  # of the classes
    said: str


def embeddings(run: Run) -> str:
    """Two scatter plots, or the reason why there is none."""
    if run.checkpoint is None:
        return "<p>There is no checkpoint yet.</p>"
    try:
        points = _points(run)
    except UserError as error:
        return f"<p>Not drawn: {escape(str(error))}</p>"
    if len(points.features) < FEWEST:
        return f"<p>Not drawn: {len(points.features)} points say nothing.</p>"
    plane, share = _components(points.features)
    plots = {f"Principal components ({share:.0%} of the variance)": plane, "t-SNE": _neighbours(points.features)}
    charts = "".join(scatter(title, at, points) for title, at in plots.items())
    return f'<p class="notes">{escape(points.said)}</p>{legend(points)}<div class="charts">{charts}</div>'


def scatter(title: str, at: np.ndarray, points: Points) -> str:
    """One plot: at (n, 2), brought to the same square."""
    low, size = at.min(0), max(float(np.ptp(at, axis=0).max()), 1e-9)
    place = MARGIN + (at - low) / size * (SIDE - 2 * MARGIN)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{SIDE - y:.1f}" r="{RADIUS}" fill="{colour(c, len(points.names))}"/>'
        for (x, y), c in zip(place, points.classes, strict=True)
    )
    label = f"{title} of {len(at)} points"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escape(label)}" fill-opacity="0.75">{dots}</svg>'
        "</figure>"
    )


def colour(number: int, classes: int) -> str:
    """Hues evenly round the circle, neighbours of unlike lightness; grey where the class is unknown."""
    if number < 0:
        return "#8a929b"
    return f"hsl({360 * number / max(classes, 1):.0f} 70% {(42, 60)[number % 2]}%)"


def legend(points: Points) -> str:
    chips = (
        f'<span><span class="chip" style="background: {colour(i, len(points.names))}"></span>{escape(name)}</span>'
        for i, name in enumerate(points.names)
    )
    return f'<p class="legend">{"".join(chips)}</p>' if len(points.names) else ""


@torch.no_grad()
def _points(run: Run) -> Points:
    config = deepcopy(run.config)
    reader, source = open_source(config)
    method = open_method(run.path, config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = SavedEncoder(method.tokenizer, method.encoder, {"view": reader.view}).to(device).eval()
    items, _ = held_out(source)
    order = torch.randperm(len(items), generator=seeding.generator(0))[:SAMPLES].tolist()
    chosen = [items[i] for i in order]
    if len(items) == 1 or _class_labels(reader, items[0]) is not None:
        return _of_tokens(encoder, reader, chosen, device)
    label = next(iter(source.classes), "")
    by_key, features, classes = {item.key: item for item in chosen}, [], []
    for batch in evaluation_batches(chosen, reader, TOGETHER, workers=0):
        features.append(encoder(batch.to(device).views[reader.view]).pooled.float().cpu())
        classes += [by_key[key].labels.get(label, -1) for key in batch.keys]
    said = f"Pooled features of {len(classes)} test samples" + (f", coloured by {label}." if label else ".")
    return Points(torch.cat(features).numpy(), np.array(classes), source.classes.get(label, []), said)


def _of_tokens(encoder: SavedEncoder, reader: Reader, items: Sequence[Item], device: torch.device) -> Points:
    by_key, features, classes, names = {item.key: item for item in items}, [], [], []
    for batch in evaluation_batches(items, reader, 1, workers=0):
        tokens = encoder(batch.to(device).views[reader.view]).tokens.flatten(0, 1).float().cpu()
        labels = _class_labels(reader, by_key[batch.keys[0]])
        features.append(tokens)
        classes.append(torch.full((len(tokens),), -1) if labels is None else labels.classes)
        names = names if labels is None else labels.names
        if sum(map(len, features)) >= TOKENS:
            break
    x, y = torch.cat(features), torch.cat(classes)
    rows = torch.randperm(len(x), generator=seeding.generator(0))[:TOKENS]
    names = names or [str(i) for i in range(int(y.max()) + 1)]
    said = f"Features of {len(rows)} tokens out of {len(x)}" + (", coloured by their labels." if names else ".")
    return Points(x[rows].numpy(), y[rows].numpy(), names, said)


def _class_labels(reader: Reader, item: Item) -> TokenLabels | None:
    """Labels of a sample's tokens where each has one class; None where there are none, or answers to questions."""
    labels = reader.token_labels(item)
    return labels if labels is not None and labels.classes.dim() == 1 else None


def _components(x: np.ndarray) -> tuple[np.ndarray, float]:
    """The two leading components (n, 2), and their share of the variance."""
    table = torch.from_numpy(x)
    plane = fit_components(table, 2).project(table).numpy()
    total = float(table.double().var(0, correction=0).sum())
    share = float(plane.astype(np.float64).var(0).sum()) / max(total, 1e-30)
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1]))), share


def _neighbours(x: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    centred = x - x.mean(0)
    size = float(np.abs(centred).max())
    near = min(30.0, (len(x) - 1) / 3)
    start = _components(centred)[0]
    start = 1e-4 * start / max(float(start[:, 0].std()), 1e-30)
    init: Any = start.astype(np.float32)  # an array is taken too, which scikit-learn's stubs leave out
    return TSNE(2, perplexity=near, init=init, random_state=0).fit_transform(centred / (size or 1.0))
