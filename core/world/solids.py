"""The eight solids of the generated world, each a signed-distance function in its frame (y up, about one
unit big).

`distance` is negative inside, positive outside, and never larger than the true distance: its gradient has a
length of at most one, so that a ray may always advance by it. A proportion q stretches most solids along y.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Number = Array | float


class Solid(ABC):
    """A shape without size or pose. Shapes: points (..., 3), proportion broadcastable to (...)."""

    @abstractmethod
    def distance(self, points: Array, proportion: Number) -> Array:
        """Signed distance (...) from each point to the surface, in units of the solid's frame."""

    @abstractmethod
    def radius(self, proportion: Number) -> Number:
        """Radius of a ball round the origin that holds the solid."""

    @abstractmethod
    def extent(self, proportion: float) -> tuple[float, float, float]:
        """Half sizes along x, y, z of the smallest box round the origin that holds the solid."""

    def normal(self, points: Array, proportion: Number, step: float = 4e-3) -> Array:
        """Unit gradient (..., 3) of the distance, by differences at the four corners of a tetrahedron."""
        corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=points.dtype)
        a, b, c, d = (self.distance(points + step * corner, proportion) for corner in corners)
        slope = np.stack([a - b - c + d, d - a - b + c, d - a - c + b])
        return np.moveaxis(slope / np.maximum(_length(*slope), 1e-12), 0, -1)


class Sphere(Solid):
    """Radius 0.95; the proportion changes nothing."""

    def distance(self, points: Array, proportion: Number) -> Array:
        return _length(*_xyz(points)) - 0.95

    def radius(self, proportion: Number) -> Number:
        return 0.95 * np.ones_like(proportion)

    def extent(self, proportion: float) -> tuple[float, float, float]:
        return 0.95, 0.95, 0.95


class Box(Solid):
    """Half sizes 0.72, 0.72 q, 0.72."""

    def distance(self, points: Array, proportion: Number) -> Array:
        return _box(np.abs(points), 0.72, 0.72 * proportion, 0.72)

    def radius(self, proportion: Number) -> Number:
        return 0.72 * _length(2**0.5, proportion)

    def extent(self, proportion: float) -> tuple[float, float, float]:
        return 0.72, 0.72 * proportion, 0.72


class Cylinder(Solid):
    """Radius 0.68 round the y axis, half height 0.85 q."""

    def distance(self, points: Array, proportion: Number) -> Array:
        x, y, z = _xyz(points)
        return _corner(_length(x, z) - 0.68, np.abs(y) - 0.85 * proportion)

    def radius(self, proportion: Number) -> Number:
        return _length(0.68, 0.85 * proportion)

    def extent(self, proportion: float) -> tuple[float, float, float]:
        return 0.68, 0.85 * proportion, 0.68


class Cone(Solid):
    """Base of radius 0.95 at y = -0.95 q, apex at y = 0.95 q."""

    def distance(self, points: Array, proportion: Number) -> Array:
        # In the half plane of a point: distance from the axis, and depth below the apex.
        x, y, z = _xyz(points)
        half = 0.95 * proportion
        across, drop = _length(x, z), half - y

        # The side is a segment from the apex to the base's edge.
        slant = _length(0.95, 2 * half)
        out_x, out_y = 2 * half / slant, 0.95 / slant
        off_side = across * out_x - drop * out_y
        along = across * out_y + drop * out_x
        side = _length(off_side, along - np.clip(along, 0, slant))

        under = drop - 2 * half
        base = _length(np.maximum(across - 0.95, 0), under)

        nearest = np.minimum(side, base)
        return np.where((off_side < 0) & (under < 0), -nearest, nearest)

    def radius(self, proportion: Number) -> Number:
        return 0.95 * _length(1.0, proportion)

    def extent(self, proportion: float) -> tuple[float, float, float]:
        return 0.95, 0.95 * proportion, 0.95


class Torus(Solid):
    """A ring of radius 0.70 round the y axis; its tube has radius 0.38 q."""

    def distance(self, points: Array, proportion: Number) -> Array:
        x, y, z = _xyz(points)
        return _length(_length(x, z) - 0.70, y) - 0.38 * proportion

    def radius(self, proportion: Number) -> Number:
        return 0.70 + 0.38 * proportion

    def extent(self, proportion: float) -> tuple[float, float, float]:
        across = 0.70 + 0.38 * proportion
        return across, 0.38 * proportion, across


class Capsule(Solid):
    """All within 0.58 of the segment from y = -0.42 q to y = 0.42 q."""

    def distance(self, points: Array, proportion: Number) -> Array:
        x, y, z = _xyz(points)
        return _length(x, np.maximum(np.abs(y) - 0.42 * proportion, 0), z) - 0.58

    def radius(self, proportion: Number) -> Number:
        return 0.58 + 0.42 * proportion

    def extent(self, proportion: float) -> tuple[float, float, float]:
        return 0.58, 0.58 + 0.42 * proportion, 0.58


class Octahedron(Solid):
    """|x| + |y| / q + |z| = 1.15. Distances are to the faces' planes: too small beyond edges and corners."""

    def distance(self, points: Array, proportion: Number) -> Array:
        x, y, z = _xyz(np.abs(points))
        return (x + y / proportion + z - 1.15) / np.sqrt(2 + 1 / np.square(proportion))

    def radius(self, proportion: Number) -> Number:
        return 1.15 * np.maximum(1.0, proportion)

    def extent(self, proportion: float) -> tuple[float, float, float]:
        return 1.15, 1.15 * proportion, 1.15


class Cross(Solid):
    """Three boxes of half sizes 0.98, 0.36, 0.36, one along each axis; the one along y is 0.98 q long."""

    def distance(self, points: Array, proportion: Number) -> Array:
        size = np.abs(points)
        arm_x = _box(size, 0.98, 0.36, 0.36)
        arm_y = _box(size, 0.36, 0.98 * proportion, 0.36)
        arm_z = _box(size, 0.36, 0.36, 0.98)
        return np.minimum(np.minimum(arm_x, arm_y), arm_z)

    def radius(self, proportion: Number) -> Number:
        return _length(0.98 * np.maximum(1.0, proportion), 0.36 * 2**0.5)

    def extent(self, proportion: float) -> tuple[float, float, float]:
        return 0.98, max(0.98 * proportion, 0.36), 0.98


SOLIDS: tuple[Solid, ...] = (Sphere(), Box(), Cylinder(), Cone(), Torus(), Capsule(), Octahedron(), Cross())
SHAPES = [type(solid).__name__.lower() for solid in SOLIDS]  # names of the classes, in order of the labels


def _xyz(points: Array) -> tuple[Array, Array, Array]:
    return points[..., 0], points[..., 1], points[..., 2]


def _length(*parts: Number) -> Array:
    """Euclidean length of the vector with these components."""
    return np.sqrt(sum(part * part for part in parts))


def _corner(x: Array, y: Array) -> Array:
    """Distance in the plane to the quadrant x < 0, y < 0."""
    return np.minimum(np.maximum(x, y), 0) + _length(np.maximum(x, 0), np.maximum(y, 0))


def _box(size: Array, x: Number, y: Number, z: Number) -> Array:
    """Distance to a box with half sizes x, y, z; `size` holds absolute coordinates."""
    x, y, z = size[..., 0] - x, size[..., 1] - y, size[..., 2] - z
    interior = np.minimum(np.maximum(np.maximum(x, y), z), 0)
    return interior + _length(np.maximum(x, 0), np.maximum(y, 0), np.maximum(z, 0))
