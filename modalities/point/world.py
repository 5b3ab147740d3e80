"""The generated world as clouds: one side of the labelled solid, two smaller solids and the ground."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import torch
from torch import Tensor

from core.world.render import DISTANCE, ELEVATION
from core.world.scene import Scene, sample
from core.world.solids import SHAPES, SOLIDS
from core.world.source import WorldSource, npy, require_integer
from modalities.point.surfaces import Array, Body, Draws, Flags, ground_points, surface_points

# Figures on this view hold for one version of it. A change of the clouds raises it and sets the new hash;
# a test compares it with the code.
POINT_VERSION = 1
POINT_HASH = "fd8be671"

GROUND_SHARE, CLUTTER_SHARE = 0.25, 0.15  # of a cloud's points: the ground's, and each smaller solid's
GROUND_RADIUS = 2.5  # metres from the labelled solid
NOISE = 0.02  # metres: standard deviation along each axis


class PointWorld(WorldSource):
    """Clouds of `size` points as .npy files, float32 (N, 3), y up; the label is the big solid's shape.

    45 % of the points are of the labelled solid (scale 1–1.5), from one side; 15 % of each of two whole smaller
    solids (scale 0.35–0.6) 1.7–2.3 m from it; 25 % of the ground. Any yaw, proportions of 0.5–2, noise of
    0.02 m. Clouds are centred and reach to the unit sphere. Test samples have `aux["object"]`: the points of
    the labelled solid, bool (N,). `train` and `test` are the numbers of samples, `root` and `seed` as in
    `WorldSource`. Cost: 4 ms a cloud of 1,024 points on one core.
    """

    kind = "point"
    suffix = ".npy"
    aux_names = ("object",)

    def __init__(
        self,
        root: str | None = None,
        seed: int = 0,
        train: int = 8192,
        test: int = 512,
        size: int = 1024,
    ):
        self.size = require_integer("size", size, at_least=16)
        super().__init__(root, seed, train, test, f"{size}points-v{POINT_VERSION}-{POINT_HASH}")

    def make(self, scenes: Sequence[Scene]) -> Iterator[dict[str, bytes]]:
        for scene in scenes:
            cloud = Cloud.of(scene, self.size)
            yield {".object.npy": npy(cloud.labelled), ".npy": npy(cloud.points)}

    def resample(self, key: str) -> Tensor:
        """Other points (N, 3) of the same surfaces, float32, with noise of their own.

        They are in the frame of the item with this key: as an answer, their error is the ceiling that
        sampling sets to any skill.
        """
        scene = self.scene(key)
        cloud = Cloud.of(scene, self.size)
        points, _ = sample_points(arrange(scene), self.size, Draws(scene, purpose=2))
        return torch.from_numpy(normalise(points, cloud.centre, cloud.radius))


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A sample; the unit of its points is `radius` metres, their origin `centre`."""

    points: Array  # (N, 3) float32
    labelled: Flags  # (N,): points of the labelled solid
    centre: Array  # (3, 1) metres
    radius: float

    @classmethod
    def of(cls, scene: Scene, size: int) -> "Cloud":
        """The cloud of a scene: a pure function of both arguments."""
        points, labelled = sample_points(arrange(scene), size, Draws(scene, purpose=1))
        centre = points.mean(1, keepdims=True)
        radius = np.sqrt(np.square(points - centre).sum(0).max()).item()
        return cls(points=normalise(points, centre, radius), labelled=labelled, centre=centre, radius=radius)


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """The solids of a cloud, the labelled one first, and the camera (3, 1) that looks at it."""

    bodies: tuple[Body, ...]
    camera: Array


def arrange(scene: Scene) -> Arrangement:
    """The scene's solid, with its shape and yaw, between two smaller ones: a pure function of the scene."""
    draws = Draws(scene, purpose=0)
    labelled = Body(
        shape=scene.shape,
        proportion=2 ** draws.between(-1, 1),
        scale=draws.between(1, 1.5),
        yaw=scene.yaw,
        x=0.0,
        z=0.0,
    )

    # The smaller ones stand apart by 60 degrees or more: neither may lie in the other.
    first_angle = draws.between(0, 2 * pi)
    second_angle = first_angle + draws.between(pi / 3, 5 * pi / 3)
    clutter = [_small_body(draws, angle) for angle in (first_angle, second_angle)]

    # The camera of the world's pictures, but on any side.
    angle = draws.between(0, 2 * pi)
    way = np.array([cos(ELEVATION) * cos(angle), sin(ELEVATION), cos(ELEVATION) * sin(angle)])
    return Arrangement(bodies=(labelled, *clutter), camera=labelled.position + DISTANCE * way[:, None])


def _small_body(draws: Draws, angle: float) -> Body:
    """A body of any shape, seen from the origin at an angle (radians) from the x axis."""
    away = draws.between(1.7, 2.3)
    return Body(
        shape=int(draws.between(0, len(SOLIDS))),
        proportion=2 ** draws.between(-1, 1),
        scale=draws.between(0.35, 0.6),
        yaw=draws.between(0, 2 * pi),
        x=away * cos(angle),
        z=away * sin(angle),
    )


def sample_points(arrangement: Arrangement, size: int, draws: Draws) -> tuple[Array, Flags]:
    """Points (3, size) with noise, in metres and in random order, and flags (size,) of the labelled solid's."""
    labelled, *clutter = arrangement.bodies
    ground, small = round(GROUND_SHARE * size), round(CLUTTER_SHARE * size)
    count = size - ground - small * len(clutter)

    parts = [surface_points(labelled, count, draws, clutter, arrangement.camera)]
    for body in clutter:
        neighbours = [neighbour for neighbour in arrangement.bodies if neighbour is not body]
        parts.append(surface_points(body, small, draws, neighbours))
    parts.append(ground_points(GROUND_RADIUS, ground, draws, arrangement.bodies))

    order = np.argsort(draws.uniform(size), kind="stable")
    points = np.concatenate(parts, axis=1)[:, order]
    return points + NOISE * draws.normal(3, size), order < count


def normalise(points: Array, centre: Array, radius: float) -> Array:
    """Points (3, N) in units of `radius` from `centre`: (N, 3) float32."""
    return ((points - centre) / radius).T.astype(np.float32, order="C")


def definition_hash() -> str:
    """Eight hex digits of small clouds of every shape.

    Coordinates are rounded to 1e-5, so that machines that differ in the last bits agree.
    """
    digest = hashlib.sha256(repr(SHAPES).encode())
    for split in ("train", "test"):
        for index in range(64):
            cloud = Cloud.of(sample(0, split, index), 256)
            digest.update(np.rint(cloud.points.astype(np.float64) * 1e5).astype("<i8").tobytes())
            digest.update(cloud.labelled.tobytes())
    return digest.hexdigest()[:8]
