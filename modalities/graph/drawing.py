"""Graphs as line drawings (SVG): a part is cut out, nodes are laid out by distances and coloured."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

SIDE, MARGIN = 300, 14  # pixels
SCALE_HEIGHT = 18  # pixels of the strip below that holds the scale of colours
ROUNDS = 60  # of stress majorisation
EDGE = "#8a929b"


@dataclass(frozen=True)
class Sketch:
    """A graph to be drawn.

    `nodes` (n,): their numbers in the batch; `links` (2, e) between them, each pair once; `positions` (n, 2)
    in [0, 1].
    """

    nodes: np.ndarray
    links: np.ndarray
    _: KW_ONLY
    positions: np.ndarray

    @classmethod
    def of(cls, edge_index: np.ndarray, nodes: np.ndarray) -> "Sketch":
        """The part of a graph (edges (2, E)) between these nodes."""
        # -1: a node that is not drawn.
        number = np.full(max(int(edge_index.max(initial=-1)), int(nodes.max())) + 1, -1)
        number[nodes] = np.arange(len(nodes))

        # Both directions of a link become one, self-loops none.
        links = number[edge_index]
        links = links[:, (links >= 0).all(0) & (links[0] != links[1])]
        links = np.unique(np.sort(links, axis=0), axis=1)
        return cls(nodes, links, positions=lay_out(links, len(nodes)))


def neighbourhood(edge_index: np.ndarray, root: int, most: int) -> np.ndarray:
    """The nodes within the largest number of steps from `root` that are at most `most`.

    Where even its neighbours are more, some of them.
    """
    nodes = front = np.array([root])
    while len(front):
        senders = np.unique(edge_index[0][np.isin(edge_index[1], front)])
        front = np.setdiff1d(senders, nodes)
        if len(nodes) + len(front) > most:
            break
        nodes = np.concatenate([nodes, front])

    # Where even its neighbours are too many, some of them.
    if len(nodes) == 1:
        nodes = np.concatenate([nodes, front[: most - 1]])
    return nodes


def lay_out(links: np.ndarray, count: int) -> np.ndarray:
    """(n, 2) positions in [0, 1] as far apart as along links, by stress majorisation (Gansner et al., 2005).

    Each round solves L(w) · X' = L(w d / ‖x_i − x_j‖) · X, with weights w = d⁻² for distances d along links.
    """
    if count < 2:
        return np.full((count, 2), 0.5)

    graph = csr_matrix((np.ones(links.shape[1]), links), (count, count))
    target = shortest_path(graph, directed=False, unweighted=True)
    is_linked = np.isfinite(target)
    target[~is_linked] = target[is_linked].max() + 1  # components lie side by side

    positions = _classical_scaling(target)
    np.fill_diagonal(target, 1)
    weight = target**-2
    np.fill_diagonal(weight, 0)

    inverse = np.linalg.pinv(_laplacian(weight))
    for _ in range(ROUNDS):
        distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
        pull = weight * target / np.maximum(distance, 1e-6)
        positions = inverse @ (_laplacian(pull) @ positions)

    # Into the unit square, centred along its shorter side.
    positions -= positions.min(0)
    size = max(float(positions.max()), 1e-9)
    return positions / size + (1 - positions.max(0) / size) / 2


def _classical_scaling(distance: np.ndarray) -> np.ndarray:
    """(n, 2) positions from distances (n, n); a little noise parts nodes that it puts on one point."""
    if len(distance) == 2:
        return np.array([[0.0, 0.0], [1.0, 0.0]])

    square = distance**2
    centred = -0.5 * (square - square.mean(0) - square.mean(1)[:, None] + square.mean())
    values, vectors = np.linalg.eigh(centred)
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, 0.05, (len(distance), 2))
    return vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0)) + noise


def _laplacian(weight: np.ndarray) -> np.ndarray:
    return np.diag(weight.sum(1)) - weight


def svg(sketch: Sketch, fill: Sequence[str], marked: np.ndarray, scale: Sequence[str] = ()) -> bytes:
    """The drawing, as a file's content.

    `fill`: a colour a node. `marked` (n,): nodes with a bold outline. `scale`: colours of a legend.
    """
    points = MARGIN + sketch.positions * (SIDE - 2 * MARGIN)
    radius = float(np.clip(60 / max(len(points), 1) ** 0.5, 3.5, 9))

    lines = []
    for start, end in sketch.links.T:
        (x1, y1), (x2, y2) = points[start], points[end]
        lines.append(f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')

    dots = []
    for node in np.argsort(marked, kind="stable"):  # marked nodes last, on top
        outline = f'stroke="{EDGE}" stroke-width="0.8"'
        if marked[node]:
            outline = 'stroke="#111" stroke-width="1.6"'
        x, y = points[node]
        dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill[node]}" {outline}/>')

    bars = []
    for i, colour in enumerate(scale):
        bars.append(f'<rect x="{8 + 14 * i}" y="{SIDE + 4}" width="14" height="9" fill="{colour}"/>')

    height = SIDE + (SCALE_HEIGHT if scale else 0)
    links = f'<g stroke="{EDGE}" stroke-width="0.8" opacity="0.7">{"".join(lines)}</g>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {height}" width="{SIDE}" height="{height}">'
    return "".join([head, links, *dots, *bars, "</svg>"]).encode()
