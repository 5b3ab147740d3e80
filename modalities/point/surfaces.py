"""Random points of the surfaces of the generated world's solids.

Points near a surface are moved onto it along the gradient of the signed distance: several times faster than
casting rays. Points are (3, N), so that each coordinate is contiguous. y is up; units are metres.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import cos, pi, prod, sin

import numpy as np
from numpy.typing import NDArray

from core.world.scene import Scene, doubles
from core.world.solids import SOLIDS, Cross, Solid, Torus

Array = NDArray[np.floating]
Flags = NDArray[np.bool_]

CLEARANCE = 0.01  # metres: points in another body, or so near it, are dropped
CONCAVE = (Torus, Cross)  # solids with parts that face a camera behind other parts of them
ROUNDS = 100  # of draws until a surface has enough points

# Lengths in the frame of a solid, which is about two units big.
SHELL = 0.1  # points so near the surface are moved onto it
CLOSE = 4e-3  # points farther off after that are dropped
GRAZING = 0.05  # least cosine between the normal and the way to the camera
LIFT = 0.01  # of the march to the camera above the surface, where it begins
TOUCH = 2e-3  # a march so near the surface has met it
STRIDE, STEPS = 0.04, 16  # least length of a step of the march, and their number


class Draws:
    """A stream of random numbers for one purpose. The scene's own numbers are its seed."""

    def __init__(self, scene: Scene, purpose: int):
        numbers = [int(2**40 * part) for part in (scene.yaw, scene.scale, scene.proportion)]
        self.bits = np.random.PCG64(np.random.SeedSequence([*numbers, purpose]))

    def uniform(self, *shape: int) -> Array:
        """Draws from [0, 1)."""
        return doubles(self.bits, prod(shape)).reshape(shape)

    def between(self, low: float, high: float) -> float:
        """One draw from [low, high)."""
        return low + (high - low) * self.uniform(1).item()

    def normal(self, *shape: int) -> Array:
        """Draws from the standard normal distribution, by the transform of Box and Muller."""
        length, turn = self.uniform(2, *shape)
        return np.sqrt(-2 * np.log(1 - length)) * np.cos(2 * pi * turn)


@dataclass(frozen=True, kw_only=True)
class Body:
    """A solid that stands upright on the ground, y = 0."""

    shape: int  # entry of SHAPES
    proportion: float
    scale: float
    yaw: float  # radians
    x: float
    z: float

    @property
    def solid(self) -> Solid:
        return SOLIDS[self.shape]

    @property
    def position(self) -> Array:
        """(3, 1): the origin of the solid's frame."""
        _, height, _ = self.solid.extent(self.proportion)
        return np.array([[self.x], [self.scale * height], [self.z]])

    def to_frame(self, points: Array) -> Array:
        """Points of the world in the solid's frame."""
        return turn((points - self.position) / self.scale, -self.yaw)

    def to_world(self, points: Array) -> Array:
        """Points of the solid's frame in the world."""
        return turn(points, self.yaw) * self.scale + self.position

    def is_clear(self, points: Array) -> Flags:
        """Flags (N,) of the points outside the solid and not too near it."""
        # Most points are far from its box, at whatever yaw.
        half_x, _, half_z = self.scale * np.array(self.solid.extent(self.proportion)) + CLEARANCE
        clear = np.square(points[0] - self.x) + np.square(points[2] - self.z) > half_x**2 + half_z**2

        rows = np.flatnonzero(~clear)
        distance = self.solid.distance(self.to_frame(points[:, rows]).T, self.proportion)
        clear[rows] = self.scale * distance > CLEARANCE
        return clear


def surface_points(
    body: Body,
    count: int,
    draws: Draws,
    neighbours: Sequence[Body] = (),
    camera: Array | None = None,
) -> Array:
    """(3, count) points of the body's surface outside its neighbours; `camera` (3, 1): those visible from there.

    Of flat and round parts alike as many for each area; convex edges get more than their share, since the shell
    round them is projected onto a line.
    """
    # Of a whole surface mostly more than a third is visible.
    at_once = count if camera is None else 3 * count
    return _collect(_surface(body, camera, draws, at_once), count, neighbours)


def ground_points(radius: float, count: int, draws: Draws, bodies: Sequence[Body]) -> Array:
    """(3, count) points of the ground up to `radius` from the origin, outside all bodies."""
    return _collect(_disc(radius, draws, 2 * count), count, bodies)


def turn(points: Array, yaw: float) -> Array:
    """Points (3, N) turned about y, in the sense of `core.world.scene.rotations`."""
    x, y, z = points
    return np.stack([cos(yaw) * x + sin(yaw) * z, y, cos(yaw) * z - sin(yaw) * x])


def _collect(rounds: Iterator[Array], count: int, neighbours: Sequence[Body]) -> Array:
    """The first `count` points outside the neighbours."""
    parts, total = [], 0
    for points in islice(rounds, ROUNDS):
        for body in neighbours:
            points = points[:, body.is_clear(points)]

        parts.append(points)
        total += points.shape[1]
        if total >= count:
            return np.concatenate(parts, axis=1)[:, :count]

    raise RuntimeError(f"a surface gave {total} points of {count} in {ROUNDS} rounds: almost all of it is hidden")


def _disc(radius: float, draws: Draws, count: int) -> Iterator[Array]:
    """Points of a disc on the ground, `count` at a time."""
    while True:
        share, angle = draws.uniform(2, count)
        across, angle = radius * np.sqrt(share), 2 * pi * angle
        yield np.stack([across * np.cos(angle), np.zeros(count), across * np.sin(angle)])


def _surface(body: Body, camera: Array | None, draws: Draws, count: int) -> Iterator[Array]:
    """Points of the body's surface, up to about `count` at a time."""
    half = np.array(body.solid.extent(body.proportion))[:, None] + SHELL
    while True:
        # Of points uniform in the box mostly more than a fifth are near the surface.
        points = half * (2 * draws.uniform(3, 5 * count) - 1)
        distance = body.solid.distance(points.T, body.proportion)
        near = np.flatnonzero(np.abs(distance) < SHELL)[: int(1.1 * count)]

        points, normals = _project(body, points[:, near], distance[near])
        if camera is not None:
            points = points[:, _visible(body, points, normals, body.to_frame(camera))]
        yield body.to_world(points)


def _project(body: Body, points: Array, distance: Array) -> tuple[Array, Array]:
    """Moves points (3, N) of the solid's frame onto its surface. Returns those that reach it, and their normals.

    `distance` (N,): from the points to the surface.
    """
    normals = body.solid.normal(points.T, body.proportion).T

    # Twice, since distances are too small beyond some edges.
    for _ in range(2):
        points = points - distance * normals
        distance = body.solid.distance(points.T, body.proportion)

    close = np.flatnonzero(np.abs(distance) < CLOSE)
    return points[:, close], normals[:, close]


def _visible(body: Body, points: Array, normals: Array, camera: Array) -> Flags:
    """Flags (N,) of the surface points with nothing between them and the camera (3, 1), in the solid's frame."""
    way = camera - points
    way /= np.sqrt(np.square(way).sum(0))
    visible = (normals * way).sum(0) > GRAZING
    if not isinstance(body.solid, CONCAVE):
        return visible

    rows = np.flatnonzero(visible)
    points, way = points[:, rows] + LIFT * normals[:, rows], way[:, rows]
    for _ in range(STEPS):
        distance = body.solid.distance(points.T, body.proportion)
        visible[rows[distance < TOUCH]] = False
        points = points + np.maximum(distance, STRIDE) * way
    return visible
