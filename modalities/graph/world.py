"""The generated world as graphs: points on each solid's surface, linked to their nearest neighbours."""

import io
from collections.abc import Iterator, Sequence

import numpy as np

from core.world.scene import Scene
from core.world.source import WorldSource, npy, require_integer

LINKS = 6  # nearest neighbours of a point; links go both ways
RAY_START = 4.0  # metres from the solid's centre


class GraphWorld(WorldSource):
    """`size` points where random rays meet the solid, as .npz files.

    Features: position about the points' mean (metres), unit normal. The label is the solid's shape. Every
    node lies on the solid: for test samples `aux["object"]`, bool (N,), is true everywhere; there is no
    background. Cost: 5 ms a sample on one core at 128 points. `train` and `test` are the numbers of samples,
    `root` and `seed` as in `WorldSource`.
    """

    kind = "graph"
    suffix = ".npz"
    aux_names = ("object",)

    def __init__(self, root: str | None = None, seed: int = 0, train: int = 2048, test: int = 512, size: int = 128):
        self.size = require_integer("size", size, at_least=LINKS + 1)
        super().__init__(root, seed, train, test, f"{size}nodes")

    def make(self, scenes: Sequence[Scene]) -> Iterator[dict[str, bytes]]:
        for scene in scenes:
            points = surface_points(scene, self.size)
            x = np.concatenate([points - points.mean(0), scene.normal(points)], 1).astype(np.float32)

            buffer = io.BytesIO()
            np.savez(buffer, x=x, edge_index=nearest_neighbours(points, LINKS))
            yield {".object.npy": npy(np.ones(self.size, dtype=bool)), ".npz": buffer.getvalue()}


def surface_points(scene: Scene, count: int) -> np.ndarray:
    """(count, 3) points where rays from all sides first meet the solid.

    Rays are aimed at random points of a ball round its centre, as large as the solid.
    """
    # The scene's own numbers are the seed: the same scene gives the same points.
    seed = [int(2**40 * part) for part in (scene.yaw, scene.scale, scene.proportion)]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))

    parts, total = [], 0
    while total < count:
        sides, aims = rng.standard_normal((2, 2 * count, 3))
        origins = RAY_START * sides / np.linalg.norm(sides, axis=1, keepdims=True)
        aims *= (rng.random((2 * count, 1)) ** (1 / 3)) * scene.scale / np.linalg.norm(aims, axis=1, keepdims=True)
        directions = (aims - origins) / np.linalg.norm(aims - origins, axis=1, keepdims=True)

        origins = origins + scene.position
        distance = scene.cast(origins, directions)
        hit = np.isfinite(distance)
        parts.append(origins[hit] + distance[hit, None] * directions[hit])
        total += len(parts[-1])
    return np.concatenate(parts)[:count]


def nearest_neighbours(points: np.ndarray, count: int) -> np.ndarray:
    """(2, E): edges of every point (N, 3) and its `count` nearest ones, in both directions, each once."""
    distance = np.square(points[:, None] - points[None]).sum(2)
    np.fill_diagonal(distance, np.inf)

    neighbours = np.argsort(distance, axis=1)[:, :count]
    linked = np.zeros(distance.shape, dtype=bool)
    np.put_along_axis(linked, neighbours, True, axis=1)
    return np.stack(np.nonzero(linked | linked.T)).astype(np.int64)
