"""Features of test samples on a plane: principal components and t-SNE, coloured by label."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
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

SAMPLES, TOKENS = 300, 1000  # shown at most
BATCH_SIZE = 32  # samples encoded at a time
SIDE, MARGIN, RADIUS = 400, 10, 2.6  # of a plot and its dots, in its own units
MIN_POINTS = 4  # fewer are not plotted


@dataclass(frozen=True)
class Points:
    """Features (n, D) of samples or of tokens and their class numbers (n,), -1 where unknown."""

    features: np.ndarray
    classes: np.ndarray
    _: KW_ONLY
    names: Sequence[str]  # of the classes
    note: str  # describes the points


def embeddings(run: Run) -> str:
    """Two scatter plots, or the reason why there is none."""
    if run.checkpoint is None:
        return "<p>There is no checkpoint yet.</p>"

    try:
        points = _points(run)
    except UserError as error:
        return f"<p>Not drawn: {escape(str(error))}</p>"
    if len(points.features) < MIN_POINTS:
        return f"<p>Not drawn: {len(points.features)} points are too few.</p>"

    plane, share = _components(points.features)
    charts = scatter(f"Principal components ({share:.0%} of the variance)", plane, points)
    charts += scatter("t-SNE", _tsne(points.features), points)
    return f'<p class="notes">{escape(points.note)}</p>{legend(points)}<div class="charts">{charts}</div>'


def scatter(title: str, positions: np.ndarray, points: Points) -> str:
    """One plot of the points at `positions` (n, 2), scaled to the same square."""
    low = positions.min(0)
    size = max(float(np.ptp(positions, axis=0).max()), 1e-9)
    pixels = MARGIN + (positions - low) / size * (SIDE - 2 * MARGIN)

    dots = []
    for (x, y), number in zip(pixels, points.classes, strict=True):
        fill = colour(number, len(points.names))
        dots.append(f'<circle cx="{x:.1f}" cy="{SIDE - y:.1f}" r="{RADIUS}" fill="{fill}"/>')

    label = escape(f"{title} of {len(positions)} points")
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{label}" fill-opacity="0.75">'
        f"{''.join(dots)}</svg></figure>"
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


@torch.no_grad()
def _points(run: Run) -> Points:
    """Features of held-out samples, or of their tokens where labels are of tokens or there is only one sample."""
    config = deepcopy(run.config)
    reader, source = open_source(config)
    method = open_method(run.path, config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = SavedEncoder(method.tokenizer, method.encoder, {"view": reader.view}).to(device).eval()

    items, _ = held_out(source)
    order = torch.randperm(len(items), generator=seeding.generator(0))[:SAMPLES].tolist()
    sample = [items[i] for i in order]
    if len(items) == 1 or _class_labels(reader, items[0]) is not None:
        return _points_of_tokens(encoder, reader, sample, device)

    label = next(iter(source.classes), "")
    by_key = {item.key: item for item in sample}
    features, classes = [], []
    for batch in evaluation_batches(sample, reader, BATCH_SIZE, workers=0):
        pooled = encoder(batch.to(device).views[reader.view]).pooled
        features.append(pooled.float().cpu())
        classes += [by_key[key].labels.get(label, -1) for key in batch.keys]

    note = f"Pooled features of {len(classes)} test samples"
    note += f", coloured by {label}." if label else "."
    names = source.classes.get(label, [])
    return Points(torch.cat(features).numpy(), np.array(classes), names=names, note=note)


def _points_of_tokens(encoder: SavedEncoder, reader: Reader, items: Sequence[Item], device: torch.device) -> Points:
    """Features of tokens, sample after sample until there are enough, thinned at random."""
    by_key = {item.key: item for item in items}
    features, classes, names = [], [], []
    count = 0
    for batch in evaluation_batches(items, reader, 1, workers=0):
        tokens = encoder(batch.to(device).views[reader.view]).tokens.flatten(0, 1).float().cpu()
        features.append(tokens)
        count += len(tokens)

        labels = _class_labels(reader, by_key[batch.keys[0]])
        if labels is None:
            classes.append(torch.full((len(tokens),), -1))
        else:
            classes.append(labels.classes)
            names = labels.names

        if count >= TOKENS:
            break

    x, y = torch.cat(features), torch.cat(classes)
    rows = torch.randperm(len(x), generator=seeding.generator(0))[:TOKENS]
    if not names:
        names = [str(number) for number in range(int(y.max()) + 1)]
    note = f"Features of {len(rows)} tokens out of {len(x)}"
    note += ", coloured by their labels." if names else "."
    return Points(x[rows].numpy(), y[rows].numpy(), names=names, note=note)


def _class_labels(reader: Reader, item: Item) -> TokenLabels | None:
    """Labels of a sample's tokens where each has one class; None without labels, or where they are several tasks'."""
    labels = reader.token_labels(item)
    if labels is None or labels.classes.dim() != 1:
        return None
    return labels


def _components(x: np.ndarray) -> tuple[np.ndarray, float]:
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

    start, _ = _components(centred)
    start = 1e-4 * start / max(float(start[:, 0].std()), 1e-30)

    perplexity = min(30.0, (len(x) - 1) / 3)
    init: Any = start.astype(np.float32)  # an array is taken too, which scikit-learn's stubs leave out
    model = TSNE(2, perplexity=perplexity, init=init, random_state=0)
    return model.fit_transform(centred / size)
