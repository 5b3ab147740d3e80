"""The generated world: its solids, its scenes, how they are seen, and that none of it changes unnoticed."""

import numpy as np
import pytest

from core.world.motions import MOVES
from core.world.render import camera, radiance, render
from core.world.scene import MOVING, PALETTE, STILL, labels, sample
from core.world.solids import SHAPES, SOLIDS
from core.world.tracing import trace
from core.world.version import WORLD_HASH, definition_hash

EACH_SOLID = pytest.mark.parametrize("solid", SOLIDS, ids=SHAPES)
PROPORTIONS = (0.8, 1.0, 1.2)


def cloud(count: int, radius: float = 2.0) -> np.ndarray:
    return np.random.default_rng(0).uniform(-radius, radius, (count, 3))


def test_definition_is_frozen():
    assert definition_hash() == WORLD_HASH, "the world changed: raise WORLD_VERSION and set WORLD_HASH"


# Solids


INSIDE = {
    "sphere": (0.94, 0, 0), "box": (0.7, 0.7, 0.7), "cylinder": (0.66, 0.84, 0), "cone": (0.9, -0.9, 0),
    "torus": (0.7, 0.3, 0), "capsule": (0, 0.99, 0), "octahedron": (1.1, 0, 0), "cross": (0.97, 0.35, 0.35),
}  # fmt: skip
OUTSIDE = {
    "sphere": (0.6, 0.6, 0.6), "box": (0.74, 0, 0), "cylinder": (0.5, 0.5, 0.5), "cone": (0.3, 0.9, 0),
    "torus": (0, 0, 0), "capsule": (0.5, 0.9, 0), "octahedron": (0.6, 0.6, 0), "cross": (0.5, 0.5, 0),
}  # fmt: skip


@EACH_SOLID
def test_distance_is_negative_inside_and_positive_outside(solid):
    name = type(solid).__name__.lower()
    assert solid.distance(np.array(INSIDE[name]), 1.0) < 0 < solid.distance(np.array(OUTSIDE[name]), 1.0)


@EACH_SOLID
@pytest.mark.parametrize("proportion", PROPORTIONS)
def test_distance_never_exceeds_the_way_to_the_surface(solid, proportion):
    points, steps = cloud(4000), cloud(4000, 0.05)
    change = solid.distance(points + steps, proportion) - solid.distance(points, proportion)
    assert (np.abs(change) <= np.linalg.norm(steps, axis=-1) + 1e-12).all()


@EACH_SOLID
@pytest.mark.parametrize("proportion", PROPORTIONS)
def test_ball_holds_the_solid(solid, proportion):
    points = cloud(4000)
    beyond = points * (1.0001 * solid.radius(proportion) / np.linalg.norm(points, axis=-1, keepdims=True))
    assert (solid.distance(beyond, proportion) > 0).all()


@EACH_SOLID
@pytest.mark.parametrize("proportion", (0.3, 0.5, 1.0, 2.0))
def test_box_holds_the_solid_and_touches_it(solid, proportion):
    half = np.array(solid.extent(proportion))
    inside = cloud(400_000, 1.0) * (half + 0.3)
    inside = np.abs(inside[solid.distance(inside, proportion) < 0])
    assert (inside <= half).all() and (inside.max(0) > 0.9 * half).all()


@EACH_SOLID
def test_going_along_the_normal_reaches_the_surface(solid):
    points = cloud(4000, 1.2)
    for _ in range(30):
        points = points - solid.distance(points, 1.0)[:, None] * solid.normal(points, 1.0)
    assert np.quantile(np.abs(solid.distance(points, 1.0)), 0.95) < 1e-3


@EACH_SOLID
def test_tracing_finds_the_first_meeting(solid):
    rng = np.random.default_rng(1)
    origins = rng.normal(size=(3, 400))
    origins *= 3 / np.linalg.norm(origins, axis=0)
    directions = rng.uniform(-0.9, 0.9, (3, 400)) - origins
    directions /= np.linalg.norm(directions, axis=0)
    depth = trace(solid, np.full(400, 0.9), origins, directions)
    lengths = np.arange(0, 6, 2e-3)
    inside = solid.distance(np.moveaxis(origins[..., None] + directions[..., None] * lengths, 0, -1), 0.9) < 0
    first = np.where(inside.any(1), lengths[inside.argmax(1)], np.inf)
    both = np.isfinite(depth) & np.isfinite(first)
    assert both.sum() > 100
    assert (np.isfinite(depth) != np.isfinite(first)).sum() <= 4  # rays that only just touch
    assert np.quantile(np.abs(depth[both] - first[both]), 0.97) < 0.01


# Scenes


@pytest.mark.parametrize("ranges", [STILL, MOVING])
def test_sample_is_a_pure_function(ranges):
    forward = [sample(3, "train", index, ranges) for index in range(70)]
    backward = [sample(3, "train", index, ranges) for index in reversed(range(70))]
    assert forward == backward[::-1]


def test_seeds_and_splits_share_nothing():
    scenes = [sample(seed, split, i) for seed in (0, 1) for split in ("train", "test") for i in range(200)]
    assert len({(scene.yaw, scene.scale) for scene in scenes}) == len(scenes)


def test_every_class_appears_equally_often():
    pairs = [labels(0, "train", index) for index in range(128)]
    for start in range(0, 128, 8):
        shapes, motions = zip(*pairs[start : start + 8], strict=True)
        assert sorted(shapes) == sorted(motions) == list(range(8))
    assert len(set(pairs[:64])) == len(set(pairs[64:])) == 64
    assert pairs[:64] != pairs[64:] != [labels(0, "test", index) for index in range(64)]


def test_draws_stay_in_their_ranges():
    for scene in [sample(0, "train", index, MOVING) for index in range(300)]:
        assert 0.9 <= scene.proportion <= 1.1 and 1.25 <= scene.scale <= 1.5
        assert scene.colours[0] != scene.colours[1] and set(scene.colours) <= set(range(6))
        assert abs(scene.position[0]) <= 0.15 and abs(scene.position[1]) <= 0.105 and abs(scene.pitch) <= 0.1
        assert 0.8 <= abs(scene.rate) <= 1.2 and 0.75 * 0.45 <= scene.amplitude <= 0.45
        assert scene.backdrop.saturation <= 0.4 and 0.35 <= scene.backdrop.upper <= 0.95


def test_other_ranges_keep_the_solid():
    still, moving = sample(0, "test", 5, STILL), sample(0, "test", 5, MOVING)
    same = ("shape", "colours", "backdrop", "scale", "yaw")
    assert [getattr(still, name) for name in same] == [getattr(moving, name) for name in same]


@pytest.mark.parametrize("motion", range(8), ids=MOVES)
def test_motions(motion):
    scene = next(s for s in (sample(0, "train", i, MOVING) for i in range(64)) if s.motion == motion)
    poses = scene.pose(np.arange(16) / 8)
    moved = np.ptp(poses.position, axis=0) > 0.1
    turned = np.ptp(poses.rotation, axis=0).max() > 0.1
    expected = {
        "still": (0, 0, 0, 0), "slide": (1, 0, 0, 0), "bounce": (0, 1, 0, 0), "nod": (0, 0, 0, 1),
        "rock": (0, 0, 0, 1), "orbit": (1, 0, 1, 0), "pulse": (0, 0, 0, 0), "swing": (1, 1, 0, 1),
    }  # fmt: skip
    assert (*moved, turned) == expected[MOVES[motion]]
    assert (np.ptp(poses.scale) > 0.1) == (MOVES[motion] == "pulse")
    one = scene.pose(3 / 8)
    assert np.allclose(one.position, poses.position[3]) and np.allclose(one.rotation, poses.rotation[3])


def test_scene_answers_in_world_coordinates():
    scene = sample(0, "train", 9, MOVING)
    pose = scene.pose(0.3)
    points = scene.pose(0.3).position + cloud(500, 1.5)
    distance = scene.distance(points, 0.3)
    beyond = points - distance[:, None] * scene.normal(points, 0.3)
    assert np.median(np.abs(scene.distance(beyond, 0.3))) < 0.01
    above = ((points - pose.position) @ pose.rotation)[:, 1] > 0
    assert (scene.colour(points, 0.3) == PALETTE[np.where(above, *scene.colours)]).all()


# Pictures


def test_object_pixels_are_those_whose_rays_meet_the_solid():
    scenes = [sample(0, "test", index, MOVING) for index in range(16)]
    times = (0.0, 0.25)
    view = camera(24, np.float64)
    origins = np.broadcast_to(view.origin, (24 * 24, 3))
    cast = [np.isfinite(scene.cast(origins, view.directions.T, time)) for scene in scenes for time in times]
    _, solid = render(scenes, times, 24)
    assert (solid.reshape(32, -1) != np.array(cast)).mean() < 5e-4  # single and double precision, at silhouettes


def test_colours_agree_with_the_object_mask():
    scenes = [sample(0, "test", index) for index in range(16)]
    colours, solid = radiance(scenes, [0.0], 32, np.float64)
    for scene, picture, pixels in zip(scenes, colours[:, 0], solid[:, 0], strict=True):
        paint = PALETTE[list(scene.colours)]
        tint = picture[:, pixels].T / picture[:, pixels].T.max(-1, keepdims=True)
        unclipped = picture[:, pixels].max(0) < 1
        off = np.abs(tint[:, None] - paint / paint.max(-1, keepdims=True)).max(-1)
        assert (off.min(-1)[unclipped] < 1e-9).all()
        behind = picture[:, ~pixels]
        assert np.allclose(behind / behind.max(0), (behind / behind.max(0))[:, :1])  # one hue and saturation


def test_pictures_do_not_depend_on_their_company():
    scenes = [sample(0, "train", index) for index in range(40)]
    together, solid = render(scenes, [0.0, 0.5], 16)
    alone = [render([scene], [time], 16)[0][0, 0] for scene in scenes for time in (0.0, 0.5)]
    assert (together.reshape(80, 16, 16, 3) == np.array(alone)).all()
    assert together.dtype == np.uint8 and solid.dtype == bool


def test_objects_are_in_the_picture_and_stand_out():
    colours, solid = render([sample(0, "train", index) for index in range(256)], [0.0], 32)
    share = solid.mean((1, 2, 3))
    assert share.min() > 0.1 and share.max() < 0.75 and 0.3 < share.mean() < 0.45
    assert solid[:, :, 12:20, 12:20].any((1, 2, 3)).all()  # seen in the middle, or round it (the hole of a torus)
    edge = np.concatenate([solid[..., 0, :], solid[..., -1, :], solid[..., 0], solid[..., -1]], axis=-1)
    assert edge.mean() < 0.05  # tips of the biggest are cut off
    contrast = [p[m].mean(0) - p[~m].mean(0) for p, m in zip(colours[:, 0], solid[:, 0], strict=True)]
    assert np.median(np.abs(contrast).max(-1)) > 40
