"""Sphere tracing: how far rays travel until they meet a solid."""

import numpy as np
from numpy.typing import NDArray

from core.world.solids import Solid

Array = NDArray[np.floating]

TOUCH = 1e-3  # a ray this near has met the surface; a sixtieth of what a pixel covers at 64 x 64
STEPS_PER_CHECK = 4  # finished rays are dropped only now and then: dropping costs as much as a step
CHECKS = 64  # a ray that grazes a flat face needs many steps


def trace(solid: Solid, proportion: Array, origins: Array, directions: Array) -> Array:
    """Length of each ray up to the solid's surface, in the solid's frame; inf where the ray misses it.

    Shapes: proportion (R,), origins and unit directions (3, R) -> (R,).
    """
    # Only rays through the ball round the solid are traced; a row of `state` per number that a ray carries.
    depth = np.full(directions.shape[1], np.inf, dtype=directions.dtype)
    rays, enter, leave = _through_ball(solid.radius(proportion), origins, directions)
    onward = directions.take(rays, axis=1)
    start = origins.take(rays, axis=1) + enter * onward
    state = np.concatenate([start, onward, [enter, leave, proportion[rays]]])

    for _ in range(CHECKS):
        near = _advance(solid, state)
        met = near < TOUCH
        depth[rays[met]] = state[6, met]

        # Rays that have met the surface or have left the ball are done.
        active = np.flatnonzero(~met & (state[6] < state[7]))
        if not len(active):
            break
        state, rays = state.take(active, axis=1), rays[active]
    return depth


def _through_ball(radius: Array | float, origins: Array, directions: Array) -> tuple[NDArray[np.intp], Array, Array]:
    """Indices of the rays that pass through a ball round the origin, and the lengths at which they enter
    and leave it.

    Source: the quadratic |origin + t · direction|² = radius², for unit directions.
    """
    closest = -(origins * directions).sum(0)
    discriminant = np.square(closest) - (np.square(origins).sum(0) - np.square(radius))
    half = np.sqrt(np.maximum(discriminant, 0))
    rays = np.flatnonzero((discriminant > 0) & (closest + half > 0))
    return rays, np.maximum(closest - half, 0)[rays], (closest + half)[rays]


def _advance(solid: Solid, state: Array) -> Array:
    """Moves rays in place and returns the distances (R,) before the last move.

    Rows of `state`: point (3), direction (3), length so far, length at which the ray leaves the ball,
    proportion.
    """
    point, direction, travelled, proportion = state[:3], state[3:6], state[6], state[8]
    for _ in range(STEPS_PER_CHECK):
        distance = solid.distance(point.T, proportion)
        point += distance * direction
        travelled += distance
    return distance
