"""Scenes seen by a camera under a fixed light: one ray a pixel, a shaded solid before a backdrop with a shadow."""

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from core.world.scene import PALETTE, Scene
from core.world.solids import SOLIDS, Solid
from core.world.tracing import trace

Array = NDArray[np.floating]

DISTANCE, ELEVATION, FOCAL = 4.5, 0.42, 2.4  # metres from the origin, radians, in half pictures
LIGHT = np.array([-0.45, 0.75, -0.5]) / np.linalg.norm([-0.45, 0.75, -0.5])  # towards the light
AMBIENT, DIFFUSE = 0.35, 0.75
FLOOR, SHADOW, SHADOW_WIDTH = -1.5, 0.4, 0.75
FRAMES_AT_ONCE = 16  # rays of so many frames fit in a core's cache


@dataclass(frozen=True)
class View:
    """The camera's rays: all from `origin` (3,), along unit `directions` (3, P), row by row from the upper left."""

    origin: Array
    directions: Array
    height: Array  # (P,), 1 at the top edge of the picture, -1 at the bottom
    floor: Array  # (2, P): x and z where each ray meets the floor


def camera(size: int, dtype: DTypeLike) -> View:
    """The world's one camera, for square pictures of `size` pixels; it stands on the side of negative z."""
    forward = np.array([0, -np.sin(ELEVATION), np.cos(ELEVATION)])
    up = np.array([0, np.cos(ELEVATION), np.sin(ELEVATION)])
    right = np.cross(forward, up)
    edge = (2 * np.arange(size) + 1) / size - 1
    across, height = np.tile(edge, size), np.repeat(-edge, size)
    directions = right[:, None] * across + up[:, None] * height + forward[:, None] * FOCAL
    directions /= np.linalg.norm(directions, axis=0)
    origin = -DISTANCE * forward
    floor = origin[[0, 2], None] + directions[[0, 2]] * (FLOOR - origin[1]) / directions[1]
    return View(*(part.astype(dtype) for part in (origin, directions, height, floor)))


def render(scenes: Sequence[Scene], times: Sequence[float], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pictures of each scene at each time.

    Returns: colours uint8 (S, T, size, size, 3), and the pixels that show the solid, bool (S, T, size, size).
    """
    light, solid = radiance(scenes, times, size, np.float32)
    light *= 255
    light += 0.5
    return np.moveaxis(light.astype(np.uint8), 2, -1), solid


def radiance(
    scenes: Sequence[Scene], times: Sequence[float], size: int, dtype: DTypeLike
) -> tuple[Array, NDArray[np.bool_]]:
    """As `render`, with colours in [0, 1] of a floating type, (S, T, 3, size, size)."""
    view = camera(size, dtype)
    count = len(scenes) * len(times)
    colours = np.empty((count, 3, size * size), dtype)
    solid = np.empty((count, size * size), bool)
    for rows, frames in _stacks(scenes, times, dtype):
        colours[rows], solid[rows] = frames.see(view)
    shape = len(scenes), len(times)
    return colours.reshape(*shape, 3, size, size), solid.reshape(*shape, size, size)


@dataclass(frozen=True)
class Frames:
    """F frames that show the same kind of solid."""

    solid: Solid
    proportion: Array  # (F,)
    position: Array  # (F, 3)
    rotation: Array  # (F, 3, 3)
    scale: Array  # (F,)
    paint: Array  # (2, F, 3), upper and lower half
    hue: Array  # (F, 3), of the backdrop where it is brightest
    brightness: Array  # (2, F), at the top and at the bottom of the picture

    def see(self, view: View) -> tuple[Array, NDArray[np.bool_]]:
        """Colours (F, 3, P) and the pixels of the solid (F, P)."""
        colours = self._backdrop(view)
        frame, pixel, point = self._meet(view)
        normal = self.solid.normal(point.T, self.proportion[frame])
        light = (LIGHT.astype(view.origin.dtype) @ self.rotation)[frame]
        shade = AMBIENT + DIFFUSE * (0.5 + 0.5 * (normal * light).sum(-1))
        half = np.where(point[1] > 0, 0, 1)
        colours[frame, :, pixel] = np.minimum(self.paint[half, frame] * shade[:, None], 1)
        solid = np.zeros((len(colours), colours.shape[2]), bool)
        solid[frame, pixel] = True
        return colours, solid

    def _meet(self, view: View) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
        """Frame (R,), pixel (R,) and place in the solid's own frame (3, R) of every ray that meets it."""
        origin = np.einsum("fi,fij->jf", view.origin - self.position, self.rotation) / self.scale
        # Not by matmul, which starts threads of its own. As everywhere here, components come first and are contiguous.
        terms = self.rotation.transpose(1, 2, 0)[..., None] * view.directions[:, None, None]
        direction = terms.sum(0).reshape(3, -1)
        pixels = view.height.size
        depth = trace(self.solid, np.repeat(self.proportion, pixels), np.repeat(origin, pixels, axis=1), direction)
        met = np.flatnonzero(np.isfinite(depth))
        frame, pixel = np.divmod(met, pixels)
        return frame, pixel, origin[:, frame] + depth[met] * direction[:, met]

    def _backdrop(self, view: View) -> Array:
        """Colours (F, 3, P) of what is behind: a vertical gradient, darker on the floor round the foot of the solid."""
        upper, lower = self.brightness[..., None]
        light = lower + (upper - lower) * (0.5 + 0.5 * view.height)
        apart = np.square(view.floor[0] - self.position[:, :1]) + np.square(view.floor[1] - self.position[:, 2:])
        light *= 1 - SHADOW * np.exp(-apart / np.square(SHADOW_WIDTH * self.scale[:, None]))
        return self.hue[:, :, None] * light[:, None, :]


def _stacks(
    scenes: Sequence[Scene], times: Sequence[float], dtype: DTypeLike
) -> Iterator[tuple[NDArray[np.intp], Frames]]:
    """All scenes at all times, sorted into stacks of one solid each, with the rows (scene by scene) they stand for."""
    at_once = max(1, FRAMES_AT_ONCE // len(times))
    for shape, solid in enumerate(SOLIDS):
        members = [row for row, scene in enumerate(scenes) if scene.shape == shape]
        for start in range(0, len(members), at_once):
            chosen = np.array(members[start : start + at_once])
            rows = (chosen[:, None] * len(times) + np.arange(len(times))).reshape(-1)
            yield rows, _stack(solid, [scenes[row] for row in chosen], times, dtype)


def _stack(solid: Solid, scenes: Sequence[Scene], times: Sequence[float], dtype: DTypeLike) -> Frames:
    poses = [scene.pose(times) for scene in scenes]

    def each(values: Sequence[object]) -> Array:
        return np.repeat(np.array(values, dtype), len(times), axis=0)

    backdrops = [scene.backdrop for scene in scenes]
    return Frames(
        solid=solid,
        proportion=each([scene.proportion for scene in scenes]),
        position=np.concatenate([pose.position for pose in poses]).astype(dtype),
        rotation=np.concatenate([pose.rotation for pose in poses]).astype(dtype),
        scale=np.concatenate([pose.scale for pose in poses]).astype(dtype),
        paint=np.moveaxis(each([PALETTE[list(scene.colours)] for scene in scenes]), 1, 0),
        hue=each([colorsys.hsv_to_rgb(behind.hue, behind.saturation, 1.0) for behind in backdrops]),
        brightness=each([(behind.upper, behind.lower) for behind in backdrops]).T,
    )
