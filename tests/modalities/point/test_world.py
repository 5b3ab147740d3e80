"""The generated world as clouds: what they show, in which shares, and that they never change."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from core.errors import UserError
from core.world.scene import sample
from core.world.solids import SHAPES
from core.world.version import WORLD_HASH, WORLD_VERSION
from modalities.image.world import ImageWorld
from modalities.point import world
from modalities.point.world import POINT_HASH, POINT_VERSION, Cloud, PointWorld, arrange, definition_hash

INDICES = range(16)  # every shape twice


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def solids(scene) -> list:
    """The solids of a cloud as scenes of the world: other code for their distance than the sampler's."""
    scenes = []
    for body in arrange(scene).bodies:
        fields = {"shape": body.shape, "proportion": body.proportion, "scale": body.scale, "yaw": body.yaw}
        position = (body.x, body.scale * body.solid.extent(body.proportion)[1], body.z)
        scenes.append(replace(scene, **fields, position=position, pitch=0.0, roll=0.0))
    return scenes


def in_metres(cloud: Cloud) -> np.ndarray:
    return cloud.points * cloud.radius + cloud.centre.T


def test_definition_is_frozen():
    assert definition_hash() == POINT_HASH, "the clouds changed: raise POINT_VERSION and set POINT_HASH"


def test_its_hash_is_its_own(tmp_path):
    name = f"point-v{WORLD_VERSION}-{WORLD_HASH}-seed3-64points-v{POINT_VERSION}-{POINT_HASH}"
    assert PointWorld(str(tmp_path), seed=3, size=64).folder == tmp_path / name
    assert ImageWorld(str(tmp_path)).folder.name == "image-v1-b8d90069-seed0-64px"  # as before there were clouds


def test_files_and_labels(tmp_path):
    source = PointWorld(str(tmp_path), seed=1, train=16, test=8, size=128)
    train, test = source.items("train"), source.items("test")
    assert source.classes == {"shape": SHAPES} and len(SHAPES) == 8
    assert sorted(item.labels["shape"] for item in train) == sorted(2 * list(range(8)))
    assert sorted(item.labels["shape"] for item in test) == list(range(8))
    assert not any(item.aux for item in train)

    for item in test:
        points, flags = item.array(), np.load(item.aux["object"])
        assert points.shape == (128, 3) and points.dtype == np.float32 and points.flags.c_contiguous
        assert flags.shape == (128,) and flags.dtype == bool
        assert arrange(source.scene(item.key)).bodies[0].shape == item.labels["shape"]


@pytest.mark.parametrize("size", [64, 1024, 1000])
def test_clouds_are_centred_and_fill_the_unit_sphere(size):
    for index in INDICES:
        points = Cloud.of(sample(0, "test", index), size).points
        assert np.abs(points.mean(0)).max() < 1e-6
        assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-6)


def test_shares_of_the_points(monkeypatch):
    """Without noise the ground's points are those off every solid."""
    monkeypatch.setattr(world, "NOISE", 0)
    for index in INDICES:
        scene = sample(0, "train", index)
        cloud = Cloud.of(scene, 1024)
        distance = np.abs([solid.distance(in_metres(cloud)) for solid in solids(scene)])
        ground = distance.min(0) > 0.008  # metres; of coordinates in single precision
        assert ground.sum() == 256 and np.abs(in_metres(cloud)[ground, 1]).max() < 1e-6

        assert cloud.labelled.sum() == 1024 - 256 - 2 * 154  # 45 %
        assert (distance[0, cloud.labelled] < 0.007).all()
        others = ~cloud.labelled & ~ground
        assert ((distance[1] < distance[2])[others]).sum() == 154


def test_noise_is_two_centimetres_about_the_surfaces():
    for index in INDICES:
        scene = sample(0, "train", index)
        cloud = Cloud.of(scene, 1024)
        solid = solids(scene)[0]
        distance = solid.distance(in_metres(cloud)[cloud.labelled])
        assert 0.016 < np.sqrt(np.square(distance).mean()) < 0.023
        assert np.abs(distance).max() < 0.1

        # Nearly all other points are of the ground or of the smaller solids.
        others = in_metres(cloud)[~cloud.labelled]
        nearest = np.min([np.abs(others[:, 1]), *(np.abs(small.distance(others)) for small in solids(scene)[1:])], 0)
        assert np.quantile(nearest, 0.95) < 0.05 and nearest.max() < 0.1


def test_the_labelled_solid_is_seen_from_one_side_and_the_smaller_ones_from_all(monkeypatch):
    monkeypatch.setattr(world, "NOISE", 0)
    sides = []
    for index in INDICES:
        scene = sample(0, "test", index)
        arrangement, cloud = arrange(scene), Cloud.of(scene, 1024)
        way = arrangement.camera.T - in_metres(cloud)
        way /= np.linalg.norm(way, axis=1, keepdims=True)

        labelled, small, _ = solids(scene)
        facing = (labelled.normal(in_metres(cloud)) * way).sum(1)[cloud.labelled]
        assert (facing > 0).mean() > 0.9  # at edges normals are between two faces'

        near = np.abs(small.distance(in_metres(cloud))) < 0.005
        facing = (small.normal(in_metres(cloud)) * way).sum(1)[near & ~cloud.labelled]
        assert 0.25 < (facing < 0).mean() < 0.75

        offset = arrangement.camera - arrangement.bodies[0].position
        assert np.linalg.norm(offset) == pytest.approx(4.5) and offset[1] == pytest.approx(4.5 * np.sin(0.42))
        sides.append(np.arctan2(offset[2], offset[0]).item())
    assert np.histogram(sides, 4, (-np.pi, np.pi))[0].all()  # the camera is on any side


def test_ranges_of_the_arrangement():
    arrangements = [arrange(sample(0, "train", index)) for index in range(400)]
    big = [arrangement.bodies[0] for arrangement in arrangements]
    small = [body for arrangement in arrangements for body in arrangement.bodies[1:]]
    assert all(1 <= body.scale < 1.5 and (body.x, body.z) == (0, 0) for body in big)
    assert all(0.35 <= body.scale < 0.6 and 1.7 <= np.hypot(body.x, body.z) < 2.3 for body in small)
    assert {body.shape for body in small} == set(range(8))

    proportions = np.log2([body.proportion for body in big + small])
    assert proportions.min() == pytest.approx(-1, abs=0.02) and proportions.max() == pytest.approx(1, abs=0.02)
    for arrangement in arrangements:
        _, one, two = (np.array([body.x, body.z]) for body in arrangement.bodies)
        assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) <= 0.5 + 1e-9  # 60 degrees or more


def test_order_is_random():
    cloud = Cloud.of(sample(0, "train", 3), 1024)
    first_half = cloud.labelled[:512].sum()
    assert 190 < first_half < 270  # 230 expected; 5 standard deviations are 40


def test_a_cloud_depends_on_seed_split_and_index_alone(tmp_path, monkeypatch):
    sources = []
    for name, chunk_size, cores in (("one", 1, {0}), ("three", 3, {0, 1}), ("all", 128, {0, 1, 2, 3})):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: cores)
        source = PointWorld(str(tmp_path / name), seed=2, train=1, test=24, size=256)
        source.chunk_size = chunk_size
        source.items("test")
        sources.append(source)
    one, three, together = (contents(source.folder / "test") for source in sources)
    assert one == three == together and len(one) == 48

    # Neither seeds nor splits share a cloud.
    clouds = set()
    for seed, split in ((2, "test"), (2, "train"), (3, "test")):
        clouds |= {Cloud.of(sample(seed, split, index), 64).points.tobytes() for index in INDICES}
    assert len(clouds) == 3 * len(INDICES)


def test_another_sampling_shows_the_same_surfaces(tmp_path):
    source = PointWorld(str(tmp_path), train=1, test=8, size=1024)
    for item in source.items("test"):
        points, other = item.array(), source.resample(item.key)
        assert other.shape == (1024, 3) and other.dtype == torch.float32
        assert torch.equal(other, source.resample(item.key))

        cloud = Cloud.of(source.scene(item.key), 1024)
        metres = other.numpy() * cloud.radius + cloud.centre.T
        surfaces = [np.abs(solid.distance(metres)) for solid in solids(source.scene(item.key))]
        assert np.min([*surfaces, np.abs(metres[:, 1])], 0).max() < 0.1

        # No point is shared, and each is about as near to the cloud as points of the cloud are to one another.
        apart = cKDTree(points).query(other.numpy())[0]
        spacing = cKDTree(points).query(points, k=2)[0][:, 1]
        assert apart.min() > 0 and np.median(apart) == pytest.approx(np.median(spacing), rel=0.15)


def test_too_few_points_are_refused():
    with pytest.raises(UserError, match=r"data\.source\.size is 8.*at least 16"):
        PointWorld(size=8)
    assert Cloud.of(sample(0, "train", 0), 16).points.shape == (16, 3)
