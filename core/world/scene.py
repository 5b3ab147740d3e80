"""A sample of the generated world: a coloured solid, its motion, its backdrop. y is up; units are metres."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.world.motions import MOTIONS
from core.world.solids import SOLIDS, Solid
from core.world.tracing import trace

Array = NDArray[np.floating]

FRAMES_PER_TIME = 8

PALETTE = np.array(
    [
        (0.90, 0.12, 0.12),  # red
        (0.95, 0.80, 0.08),  # yellow
        (0.12, 0.70, 0.22),  # green
        (0.08, 0.75, 0.85),  # cyan
        (0.16, 0.28, 0.92),  # blue
        (0.85, 0.18, 0.78),  # magenta
    ]
)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """A solid's pose at one time () or many (T,).

    A point p of the solid's frame is at position + scale · rotation @ p in the world.
    """

    position: Array  # (..., 3)
    rotation: Array  # (..., 3, 3)
    scale: Array  # (...)


@dataclass(frozen=True, kw_only=True)
class Backdrop:
    """Behind the solid: one hue, brightness from `upper` at the top to `lower` at the bottom. In [0, 1]."""

    hue: float
    saturation: float
    upper: float
    lower: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A solid that may move. Points are in world coordinates; a unit of time is about a cycle of a motion."""

    shape: int  # entry of SHAPES
    motion: int  # entry of MOVES
    proportion: float
    scale: float
    position: tuple[float, float, float]  # at rest
    yaw: float  # radians, about the solid's axis, then roll, then pitch
    pitch: float
    roll: float
    colours: tuple[int, int]  # entries of the palette: upper and lower half
    backdrop: Backdrop
    rate: float  # cycles per unit of time; negative runs backwards
    phase: float  # cycles
    amplitude: float

    @property
    def solid(self) -> Solid:
        return SOLIDS[self.shape]

    def pose(self, time: ArrayLike = 0.0) -> Pose:
        """The pose at a time () or at times (T,)."""
        time = np.asarray(time, dtype=np.float64)
        angle = 2 * np.pi * (self.rate * time + self.phase)
        offset = MOTIONS[self.motion](angle, self.amplitude)

        # Components that a motion leaves alone are single numbers.
        parts = offset.x, offset.y, offset.z, offset.pitch, offset.roll, offset.scale
        x, y, z, pitch, roll, scale, _ = np.broadcast_arrays(*parts, time)
        return Pose(
            position=np.stack([x, y, z], axis=-1) + self.position,
            rotation=rotations(self.yaw, self.pitch + pitch, self.roll + roll),
            scale=self.scale * scale,
        )

    def distance(self, points: Array, time: float = 0.0) -> Array:
        """Signed distance (...) from points (..., 3) to the surface at one time; negative inside."""
        distance = self.solid.distance(self.to_solid_frame(points, time), self.proportion)
        return self.pose(time).scale * distance

    def normal(self, points: Array, time: float = 0.0) -> Array:
        """Outward unit normals (..., 3) at points (..., 3) on or near the surface."""
        normals = self.solid.normal(self.to_solid_frame(points, time), self.proportion)
        return normals @ self.pose(time).rotation.T

    def colour(self, points: Array, time: float = 0.0) -> Array:
        """Unlit colour (..., 3) in [0, 1] of the solid at points (..., 3)."""
        upper = self.to_solid_frame(points, time)[..., 1] > 0
        return PALETTE[np.where(upper, *self.colours)]

    def cast(self, origins: Array, directions: Array, time: float = 0.0) -> Array:
        """Lengths (R,) of rays from origins (R, 3) along unit directions (R, 3) to the solid; inf for misses."""
        pose = self.pose(time)
        origins = self.to_solid_frame(origins, time)
        directions = directions @ pose.rotation
        proportions = np.full(len(origins), self.proportion)
        return pose.scale * trace(self.solid, proportions, origins.T, directions.T)

    def to_solid_frame(self, points: Array, time: float = 0.0) -> Array:
        """World points (..., 3) in the solid's frame, where its colours and its distance are fixed."""
        pose = self.pose(time)
        return (points - pose.position) @ pose.rotation / pose.scale


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Ranges from which scenes are drawn, uniformly."""

    stretch: float  # proportion is in 1 ± stretch
    jitter: float  # position is in ± jitter (x), ± 0.7 jitter (y, z)
    tilt: float  # pitch and roll are in ± tilt, in radians
    moving: bool


STILL = Ranges(stretch=0.2, jitter=0.2, tilt=0.2, moving=False)
MOVING = Ranges(stretch=0.1, jitter=0.15, tilt=0.1, moving=True)


def sample(seed: int, split: str, index: int, ranges: Ranges = STILL) -> Scene:
    """Scene `index` of a split: a pure function of its arguments.

    With other ranges the same index is the same solid with the same colours before the same backdrop, so
    that samples of different kinds are matched.
    """
    shape, motion = labels(seed, split, index)

    # The order of the draws is part of the world's definition.
    draw = iter(uniforms(16, seed, split, index, 0))
    upper = int(6 * next(draw))
    lower = (upper + 1 + int(5 * next(draw))) % 6  # never the same colour
    backdrop = Backdrop(
        hue=next(draw),
        saturation=0.4 * next(draw),
        upper=0.35 + 0.6 * next(draw),
        lower=0.35 + 0.6 * next(draw),
    )
    scale = 1.25 + 0.25 * next(draw)
    yaw = 2 * np.pi * next(draw)
    proportion = 1 + ranges.stretch * (2 * next(draw) - 1)
    position = tuple(ranges.jitter * part * (2 * next(draw) - 1) for part in (1.0, 0.7, 0.7))
    pitch = ranges.tilt * (2 * next(draw) - 1)
    roll = ranges.tilt * (2 * next(draw) - 1)

    # The course of the motion is drawn apart, so that it changes nothing above.
    rate, sense, phase, amplitude = uniforms(4, seed, split, index, 1)
    return Scene(
        shape=shape,
        motion=motion if ranges.moving else 0,
        proportion=proportion,
        scale=scale,
        position=position,
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        colours=(upper, lower),
        backdrop=backdrop,
        rate=(0.8 + 0.4 * rate) * (1 if sense < 0.5 else -1),
        phase=phase,
        amplitude=0.45 * (0.75 + 0.25 * amplitude),
    )


def labels(seed: int, split: str, index: int) -> tuple[int, int]:
    """Shape and motion of a sample.

    Of 8 consecutive samples (from a multiple of 8) no two have the same shape or the same motion; of 64, no
    two have the same pair: a Latin square with shuffled rows and names.
    """
    block, position = divmod(index, 64)
    row, column = divmod(position, 8)

    shapes, motions, turns = _square(seed, split, block)
    shape = int(shapes[row, column])
    motion = int(motions[(shape + turns[row]) % 8])
    return shape, motion


@lru_cache(maxsize=4096)
def _square(seed: int, split: str, block: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Random permutations of 0 … 7: shapes (8, 8) by row, motions (8,), and turns (8,) of the rows."""
    draws = uniforms(80, seed, split, block, 2)
    order = np.argsort(draws.reshape(10, 8), axis=1, kind="stable")
    return order[:8], order[8], order[9]


def uniforms(count: int, seed: int, split: str, index: int, purpose: int) -> Array:
    """`count` draws from [0, 1), a pure function of the other arguments."""
    key = np.random.SeedSequence([seed, int.from_bytes(split.encode(), "big"), index, purpose])
    return doubles(np.random.PCG64(key), count)


def doubles(bits: np.random.PCG64, count: int) -> Array:
    """The next `count` draws from [0, 1). Raw bits, which NumPy guarantees to stay the same in all its versions."""
    raw = bits.random_raw(count)
    return (raw >> np.uint64(11)) * 2.0**-53  # the upper 53 bits, as many as a double holds


def rotations(yaw: ArrayLike, pitch: ArrayLike, roll: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3): yaw about y first, then roll about z, then pitch about x.

    Yaw comes first so that a nod is always towards the viewer and a rock always sideways.
    """
    yaw, pitch, roll = np.broadcast_arrays(yaw, pitch, roll)
    about_y = _matrix([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_z = _matrix([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    about_x = _matrix([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return about_x @ about_z @ about_y


def _matrix(rows: Sequence[Sequence[ArrayLike]]) -> Array:
    """Nine numbers () or (T,) -> (..., 3, 3)."""
    numbers = np.stack(np.broadcast_arrays(*[number for row in rows for number in row]), axis=-1)
    return numbers.reshape(*numbers.shape[:-1], 3, 3)
