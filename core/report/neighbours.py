"""A gallery of nearest neighbours: a few held-out samples, each with the five that are most alike."""

from html import escape

import numpy as np

from core.report.features import Encoded, Points
from core.report.images import image

QUERIES, NEAREST = 6, 5


def neighbours(encoded: Encoded) -> str:
    """Rows of a query and its nearest samples by cosine; the reason where there are none."""
    points = encoded.points
    if points is None:
        return f"<p>{escape(encoded.reason)}</p>"
    if not points.keys or len(points.keys) <= NEAREST:
        return "<p>Not drawn: it takes the features of more than five whole samples.</p>"

    order, similarity = nearest(points.features)
    rows = ""
    for query in queries(points):
        cells = _cell(points, query, "query", points.class_name(query))
        for neighbour, cosine in zip(order[query], similarity[query], strict=True):
            cells += _cell(points, int(neighbour), _kind(points, query, neighbour), f"cosine {cosine:.3f}")
        rows += f'<div class="row">{cells}</div>'

    text = f"Query on the left, then its {NEAREST} nearest among {len(points.keys)} held-out samples, by cosine."
    return f'<p class="notes">{escape(text + _agreement(points, order))}</p><div class="neighbours">{rows}</div>'


def nearest(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and cosines (n, 5) of the nearest other rows of features (n, D), the most alike in front."""
    x = features.astype(np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    cosines = x @ x.T
    np.fill_diagonal(cosines, -np.inf)

    order = np.argsort(-cosines, axis=1, kind="stable")[:, :NEAREST]
    return order, np.take_along_axis(cosines, order, 1)


def queries(points: Points) -> list[int]:
    """Points of as many classes as there are, in turns; without classes the first ones."""
    by_class: dict[int, list[int]] = {}
    for point, number in enumerate(points.classes.tolist()):
        by_class.setdefault(number, []).append(point)

    chosen: list[int] = []
    while len(chosen) < min(QUERIES, len(points.classes)):
        for members in by_class.values():
            if members and len(chosen) < QUERIES:
                chosen.append(members.pop(0))
    return chosen


def _agreement(points: Points, order: np.ndarray) -> str:
    """A sentence on how many neighbours share the class of their query, over all points of a known class."""
    known = points.classes >= 0
    if not points.names or not known.any():
        return ""
    shared = points.classes[order[known]] == points.classes[known][:, None]
    chance = np.square(np.bincount(points.classes[known]) / known.sum()).sum()
    return f" Over all of them {shared.mean():.0%} of the neighbours share the class, by chance {chance:.0%} would."


def _kind(points: Points, query: int, neighbour: int) -> str:
    if points.classes[query] < 0 or points.classes[neighbour] < 0:
        return "plain"
    return "same" if points.classes[query] == points.classes[neighbour] else "different"


def _cell(points: Points, point: int, kind: str, text: str) -> str:
    """A sample: its picture, its class, a line of text; framed by whether the class is the query's."""
    picture = image(points.thumbnails[point]) if points.thumbnails else ""
    lines = [points.class_name(point)] if kind != "query" else []
    lines.append(text)
    if not picture:
        lines.insert(0, points.keys[point])
    caption = "<br>".join(escape(line) for line in lines if line)
    return (
        f'<div class="{kind}" title="{escape(points.keys[point])}">{picture}<span class="name">{caption}</span></div>'
    )
