"""Points of solids' surfaces: they lie on them, evenly, on the visible side alone, outside of other solids."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from core.world.scene import Scene, sample
from core.world.solids import SHAPES
from modalities.point.surfaces import Body, Draws, ground_points, surface_points

SCENE = sample(0, "train", 0)
EACH_SHAPE = pytest.mark.parametrize("shape", range(8), ids=SHAPES)
PROPORTIONS = pytest.mark.parametrize("proportion", [0.5, 1.0, 2.0])
EYES = np.array([[[3.0], [3.5], [-2.0]], [[3.0], [1.5], [-3.0]]])  # from above, and nearly level


def draws(purpose: int = 7) -> Draws:
    return Draws(SCENE, purpose)


def body(shape: int | str, proportion: float = 1.0, **more) -> Body:
    place = {"scale": 1.2, "yaw": 0.7, "x": 0.3, "z": -0.2} | more
    number = SHAPES.index(shape) if isinstance(shape, str) else shape
    return Body(shape=number, proportion=proportion, **place)


def scene_of(solid: Body) -> Scene:
    """The same solid as a scene of the world: other code for its pose, its distance and its rays."""
    position = tuple(solid.position[:, 0])
    fields = {"shape": solid.shape, "proportion": solid.proportion, "scale": solid.scale, "yaw": solid.yaw}
    return replace(SCENE, **fields, position=position, pitch=0.0, roll=0.0)


@EACH_SHAPE
@PROPORTIONS
def test_points_lie_on_the_surface_of_a_solid_that_stands_on_the_ground(shape, proportion):
    solid = body(shape, proportion)
    points = surface_points(solid, 3000, draws())
    assert points.shape == (3, 3000)
    assert np.abs(scene_of(solid).distance(points.T)).max() < 4e-3 * solid.scale + 1e-12
    assert points[1].min() == pytest.approx(0, abs=0.15)  # tips get few points
    assert points[1].min() > -1e-2


@EACH_SHAPE
def test_a_whole_solid_has_points_on_all_sides(shape):
    solid = body(shape)
    points = surface_points(solid, 2000, draws())
    counts = np.unique((points > solid.position).astype(int).T @ [1, 2, 4], return_counts=True)[1]
    assert len(counts) == 8 and counts.min() > 60  # an octant of the cone's upper half has 4.3 % of its area: 86


def hidden_share(solid: Body, eye: np.ndarray) -> float:
    """Share of the points for a camera that a ray from it does not reach: it meets the solid 15 cm before."""
    points = surface_points(solid, 1500, draws(), camera=eye)
    length = np.linalg.norm(points - eye, axis=0)
    meets = scene_of(solid).cast(np.broadcast_to(eye.T, (1500, 3)), ((points - eye) / length).T)
    return (length - meets > 0.15).mean()


@EACH_SHAPE
@PROPORTIONS
def test_points_for_a_camera_are_met_by_its_rays(shape, proportion):
    for eye in EYES:
        solid = body(shape, proportion)
        assert hidden_share(solid, eye) < 0.02  # the march passes over slivers

        points = surface_points(solid, 1500, draws(), camera=eye)
        normals = scene_of(solid).normal(points.T).T
        assert ((normals * (eye - points)).sum(0) > 0).mean() > 0.9  # at edges normals are between two faces'


@pytest.mark.parametrize("shape", ["torus", "cross"])
def test_the_march_finds_points_behind_other_parts(shape, monkeypatch):
    solid = body(shape, 1.0)
    assert hidden_share(solid, EYES[1]) < 0.02
    monkeypatch.setattr("modalities.point.surfaces.CONCAVE", ())
    assert hidden_share(solid, EYES[1]) > 0.08


def test_a_sphere_is_covered_evenly():
    """Its area between two heights is proportional to their difference (Archimedes)."""
    solid = body("sphere", scale=1.0)
    points = surface_points(solid, 5000, draws()) - solid.position
    for axis in points:
        assert kstest(axis, "uniform", (-0.95, 1.9)).pvalue > 1e-3


def test_the_faces_of_a_box_have_points_by_their_area():
    solid = body("box", 2.0, scale=1.0)
    points = solid.to_frame(surface_points(solid, 20000, draws()))
    on_top = np.abs(points[1]) > 1.44 - 1e-3
    assert on_top.mean() == pytest.approx(1.44**2 / (1.44**2 + 2 * 1.44 * 2.88), abs=0.03)

    # Away from the edges as many for each area.
    middle = (np.abs(points) < [[0.55], [1.25], [0.55]]).sum(0) == 2
    low, high = (points[1][middle & ~on_top] < -0.4).sum(), (points[1][middle & ~on_top] > 0.4).sum()
    assert low == pytest.approx(high, rel=0.06)


def test_no_point_lies_in_a_neighbour():
    big, small = body("torus", 2.0, scale=1.5), body("sphere", scale=0.6, x=2.0)
    for solid, neighbour in ((big, small), (small, big)):
        alone = surface_points(solid, 1000, draws())
        assert (scene_of(neighbour).distance(alone.T) < 0).any()
        points = surface_points(solid, 1000, draws(), [neighbour])
        assert points.shape == (3, 1000) and (scene_of(neighbour).distance(points.T) > 0).all()


def test_the_ground_is_flat_and_ends_at_solids():
    solid = body("box", x=0.5, z=0.0, yaw=0.4)
    points = ground_points(2.5, 4000, draws(), [solid])
    assert (points[1] == 0).all() and np.hypot(points[0], points[2]).max() < 2.5
    assert (scene_of(solid).distance(points.T) > 0).all()

    free = np.pi * 2.5**2 - (1.2 * 1.44) ** 2
    quarter = (points[0] < 0) & (points[2] < -1.5)  # a part of the disc that is far from the solid
    area = 2.5**2 / 2 * (np.arccos(0.6) - 0.6 * 0.8)  # half a segment of the circle beyond 1.5 of 2.5
    assert quarter.mean() == pytest.approx(area / free, abs=0.02)


def test_a_surface_that_is_hidden_is_no_endless_loop():
    inner, outer = body("sphere", scale=0.3), body("sphere", scale=1.5)
    with pytest.raises(RuntimeError, match="0 points of 50"):
        surface_points(inner, 50, draws(), [outer])


def test_draws():
    numbers = draws()
    assert numbers.uniform(2, 3).shape == (2, 3) and 1.5 <= numbers.between(1.5, 1.6) < 1.6
    assert kstest(numbers.normal(2, 2000).ravel(), "norm").pvalue > 1e-3
    assert draws(1).between(0, 1) == draws(1).between(0, 1) != draws(2).between(0, 1)
    other = Draws(sample(0, "train", 1), 1)
    assert other.between(0, 1) != draws(1).between(0, 1)
