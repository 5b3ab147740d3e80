"""Graphs as line drawings (SVG): part of a big one cut out, nodes laid out by their distances, colours by node."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

SIDE, MARGIN = 300, 14  # pixels
ROUNDS = 60  # of stress majorisation
EDGE = "#8a929b"


@dataclass(frozen=True)
class Sketch:
    """A graph to be drawn: `nodes` (n,) of the batch, `links` (2, e) between them, each pair once, their places."""

    nodes: np.ndarray
    links: np.ndarray
    at: np.ndarray

    @classmethod
    def of(cls, edge_index: np.ndarray, nodes: np.ndarray) -> "Sketch":
        """The part of a graph (edges (2, E)) between these nodes."""
        number = np.full(max(int(edge_index.max(initial=-1)), int(nodes.max())) + 1, -1)
        number[nodes] = np.arange(len(nodes))
        links = number[edge_index]
        links = np.sort(links[:, (links >= 0).all(0) & (links[0] != links[1])], axis=0)
        links = np.unique(links, axis=1)
        return cls(nodes, links, arranged(links, len(nodes)))


def around(edge_index: np.ndarray, root: int, most: int) -> np.ndarray:
    """Nodes of the largest number of whole steps round `root` that are `most` at most; else some of its neighbours."""
    found, front = np.array([root]), np.array([root])
    while len(front):
        reached = np.unique(edge_index[0][np.isin(edge_index[1], front)])
        front = np.setdiff1d(reached, found)
        if len(found) + len(front) > most:
            return found if len(found) > 1 else np.concatenate([found, front[: most - 1]])
        found = np.concatenate([found, front])
    return found


def arranged(links: np.ndarray, count: int) -> np.ndarray:
    """(n, 2) places in [0, 1] as far apart as along links, by stress majorisation (Gansner et al., 2005)."""
    if count < 2:
        return np.full((count, 2), 0.5)
    apart = shortest_path(csr_matrix((np.ones(links.shape[1]), links), (count, count)), directed=False, unweighted=True)
    reached = apart[np.isfinite(apart)].max()
    apart[~np.isfinite(apart)] = reached + 1  # other components stand aside
    place = _by_eigenvectors(apart)
    np.fill_diagonal(apart, 1)
    weight = apart**-2
    np.fill_diagonal(weight, 0)
    inverse = np.linalg.pinv(_laplacian(weight))
    for _ in range(ROUNDS):
        far = np.linalg.norm(place[:, None] - place[None], axis=2)
        pull = weight * apart / np.maximum(far, 1e-6)
        place = inverse @ (_laplacian(pull) @ place)
    place -= place.min(0)
    size = max(float(place.max()), 1e-9)
    return place / size + (1 - place.max(0) / size) / 2


def _by_eigenvectors(apart: np.ndarray) -> np.ndarray:
    """Classical scaling; a little noise parts nodes that it puts on one place."""
    square = apart**2
    centred = -0.5 * (square - square.mean(0) - square.mean(1)[:, None] + square.mean())
    values, vectors = np.linalg.eigh(centred)
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, 0.05, (len(apart), 2))
    if len(apart) == 2:
        return np.array([[0.0, 0.0], [1.0, 0.0]])
    return vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0)) + noise


def _laplacian(weight: np.ndarray) -> np.ndarray:
    return np.diag(weight.sum(1)) - weight


def svg(sketch: Sketch, fill: Sequence[str], marked: np.ndarray, scale: Sequence[str] = ()) -> bytes:
    """The drawing. `fill`: a colour a node; `marked` (n,): nodes with a bold outline; `scale`: colours of a legend."""
    place = MARGIN + sketch.at * (SIDE - 2 * MARGIN)
    radius = float(np.clip(60 / max(len(place), 1) ** 0.5, 3.5, 9))
    lines = "".join(
        f'<path d="M{place[a, 0]:.1f} {place[a, 1]:.1f}L{place[b, 0]:.1f} {place[b, 1]:.1f}"/>'
        for a, b in sketch.links.T
    )
    dots = []
    # Marked nodes are drawn last, over the others.
    for node in np.argsort(marked, kind="stable"):
        outline = 'stroke="#111" stroke-width="1.6"' if marked[node] else f'stroke="{EDGE}" stroke-width="0.8"'
        x, y = place[node]
        dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill[node]}" {outline}/>')
    bars = [f'<rect x="{8 + 14 * i}" y="{SIDE + 4}" width="14" height="9" fill="{c}"/>' for i, c in enumerate(scale)]
    height = SIDE + (18 if scale else 0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {height}" width="{SIDE}" height="{height}">'
        f'<g stroke="{EDGE}" stroke-width="0.8" opacity="0.7">{lines}</g>{"".join(dots)}{"".join(bars)}</svg>'
    ).encode()
