"""Pictures of scenes under a fixed light: one ray a pixel, a shaded solid before a backdrop with a shadow."""

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from core.world.scene import PALETTE, Scene
from core.world.solids import SOLIDS, Solid
from core.world.tracing import trace

Array = NDArray[np.floating]

DISTANCE, ELEVATION, FOCAL = 4.5, 0.42, 2.4  # metres from the origin; radians; half widths of the picture
LIGHT = np.array([-0.45, 0.75, -0.5]) / np.linalg.norm([-0.45, 0.75, -0.5])  # towards the light
AMBIENT, DIFFUSE = 0.35, 0.75
FLOOR, SHADOW, SHADOW_WIDTH = -1.5, 0.4, 0.75  # metres; share of light taken; in scales of the solid
FRAMES_AT_ONCE = 16  # rays of so many frames fit in a core's cache


@dataclass(frozen=True, kw_only=True)
class Camera:
    """The rays of P pixels, row by row from the upper left."""

    origin: Array  # (3,), of all rays
    directions: Array  # (3, P), unit vectors
    height: Array  # (P,), 1 at the top edge of the picture, -1 at the bottom
    floor: Array  # (2, P): x and z where each ray meets the floor


def camera(size: int, dtype: DTypeLike) -> Camera:
    """The world's camera, for square pictures of `size` pixels; it stands on the side of negative z."""
    forward = np.array([0, -np.sin(ELEVATION), np.cos(ELEVATION)])
    up = np.array([0, np.cos(ELEVATION), np.sin(ELEVATION)])
    sideways = np.cross(forward, up)

    # Rays go through the centres of the pixels of a picture that spans -1 to 1.
    centres = (2 * np.arange(size) + 1) / size - 1
    across, height = np.tile(centres, size), np.repeat(-centres, size)
    directions = sideways[:, None] * across + up[:, None] * height + forward[:, None] * FOCAL
    directions /= np.linalg.norm(directions, axis=0)

    origin = -DISTANCE * forward
    floor = origin[[0, 2], None] + directions[[0, 2]] * (FLOOR - origin[1]) / directions[1]
    return Camera(
        origin=origin.astype(dtype),
        directions=directions.astype(dtype),
        height=height.astype(dtype),
        floor=floor.astype(dtype),
    )


def render(
    scenes: Sequence[Scene],
    times: Sequence[float],
    size: int,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pictures of each scene at each time.

    Returns: colours uint8 (S, T, size, size, 3), and the pixels that show the solid, bool (S, T, size, size).
    """
    colours, solid = radiance(scenes, times, size, np.float32)

    # In place: rounded to the nearest of 256 values.
    colours *= 255
    colours += 0.5
    return np.moveaxis(colours.astype(np.uint8), 2, -1), solid


def radiance(
    scenes: Sequence[Scene], times: Sequence[float], size: int, dtype: DTypeLike
) -> tuple[Array, NDArray[np.bool_]]:
    """As `render`, with colours in [0, 1] of a floating type, (S, T, 3, size, size)."""
    rays = camera(size, dtype)
    count = len(scenes) * len(times)
    colours = np.empty((count, 3, size * size), dtype)
    solid = np.empty((count, size * size), bool)
    for rows, frames in _frames_by_solid(scenes, times, dtype):
        colours[rows], solid[rows] = frames.render(rays)

    shape = len(scenes), len(times)
    return colours.reshape(*shape, 3, size, size), solid.reshape(*shape, size, size)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """F pictures to make, all of the same kind of solid."""

    solid: Solid
    proportion: Array  # (F,)
    position: Array  # (F, 3)
    rotation: Array  # (F, 3, 3)
    scale: Array  # (F,)
    paint: Array  # (2, F, 3), upper and lower half
    hue: Array  # (F, 3), of the backdrop where it is brightest
    brightness: Array  # (2, F), at the top and at the bottom of the picture

    def render(self, rays: Camera) -> tuple[Array, NDArray[np.bool_]]:
        """Colours (F, 3, P) and the pixels of the solid (F, P)."""
        colours = self._backdrop(rays)
        frame, pixel, point = self._intersect(rays)

        # Half-Lambert shading, in the solid's coordinates.
        normal = self.solid.normal(point.T, self.proportion[frame])
        light = (LIGHT.astype(rays.origin.dtype) @ self.rotation)[frame]
        shade = AMBIENT + DIFFUSE * (0.5 + 0.5 * (normal * light).sum(-1))

        half = np.where(point[1] > 0, 0, 1)
        colours[frame, :, pixel] = np.minimum(self.paint[half, frame] * shade[:, None], 1)

        solid = np.zeros((len(colours), colours.shape[2]), bool)
        solid[frame, pixel] = True
        return colours, solid

    def _intersect(self, rays: Camera) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
        """Frame (R,), pixel (R,) and point (3, R), in the solid's coordinates, of every ray that meets it."""
        # Rays in the solid's coordinates. Components come first and are contiguous, as everywhere here.
        origin = np.einsum("fi,fij->jf", rays.origin - self.position, self.rotation) / self.scale
        # Not by matmul, which starts threads of its own.
        terms = self.rotation.transpose(1, 2, 0)[..., None] * rays.directions[:, None, None]
        direction = terms.sum(0).reshape(3, -1)

        pixels = rays.height.size
        proportions, origins = np.repeat(self.proportion, pixels), np.repeat(origin, pixels, axis=1)
        depth = trace(self.solid, proportions, origins, direction)

        met = np.flatnonzero(np.isfinite(depth))
        frame, pixel = np.divmod(met, pixels)
        return frame, pixel, origin[:, frame] + depth[met] * direction[:, met]

    def _backdrop(self, rays: Camera) -> Array:
        """Colours (F, 3, P) behind the solid: a vertical gradient, darker on the floor round its foot."""
        upper, lower = self.brightness[..., None]
        light = lower + (upper - lower) * (0.5 + 0.5 * rays.height)

        # A shadow that fades with the square of the distance from the foot.
        x, z = self.position[:, :1], self.position[:, 2:]
        distance = np.square(rays.floor[0] - x) + np.square(rays.floor[1] - z)
        light *= 1 - SHADOW * np.exp(-distance / np.square(SHADOW_WIDTH * self.scale[:, None]))
        return self.hue[:, :, None] * light[:, None, :]


def _frames_by_solid(
    scenes: Sequence[Scene], times: Sequence[float], dtype: DTypeLike
) -> Iterator[tuple[NDArray[np.intp], Frames]]:
    """All scenes at all times, a few of one solid at a time, with their rows in the order scene by scene."""
    scenes_at_once = max(1, FRAMES_AT_ONCE // len(times))
    for shape, solid in enumerate(SOLIDS):
        members = [index for index, scene in enumerate(scenes) if scene.shape == shape]

        for start in range(0, len(members), scenes_at_once):
            part = members[start : start + scenes_at_once]
            rows = (np.array(part)[:, None] * len(times) + np.arange(len(times))).reshape(-1)
            yield rows, _frames(solid, [scenes[index] for index in part], times, dtype)


def _frames(solid: Solid, scenes: Sequence[Scene], times: Sequence[float], dtype: DTypeLike) -> Frames:
    """The pictures of scenes of one solid, at all times."""
    poses = [scene.pose(times) for scene in scenes]
    proportions, paints, hues, brightness = [], [], [], []
    for scene in scenes:
        backdrop = scene.backdrop
        proportions.append(scene.proportion)
        paints.append(PALETTE[list(scene.colours)])
        hues.append(colorsys.hsv_to_rgb(backdrop.hue, backdrop.saturation, 1.0))
        brightness.append((backdrop.upper, backdrop.lower))

    def at_all_times(values: Sequence[object]) -> Array:
        return np.repeat(np.array(values, dtype), len(times), axis=0)

    return Frames(
        solid=solid,
        proportion=at_all_times(proportions),
        position=np.concatenate([pose.position for pose in poses]).astype(dtype),
        rotation=np.concatenate([pose.rotation for pose in poses]).astype(dtype),
        scale=np.concatenate([pose.scale for pose in poses]).astype(dtype),
        paint=np.moveaxis(at_all_times(paints), 1, 0),
        hue=at_all_times(hues),
        brightness=at_all_times(brightness).T,
    )
