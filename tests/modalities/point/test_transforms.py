"""Normalisation, sampling and augmentation against their formulas."""

import math

import numpy as np
import pytest
import torch

from core.errors import BadSample
from modalities.point import transforms
from modalities.point.transforms import Draw, Rotate, Scale, Shift

RNG = np.random.default_rng(0)
POINTS = (RNG.normal(size=(300, 5)) * [1, 2, 3, 1, 1] + [4, 5, 6, 7, 8]).astype(np.float32)


def sphere(points: np.ndarray) -> np.ndarray:
    """The published normalisation, written apart."""
    points = points.astype(np.float64)
    xyz = points[:, :3] - points[:, :3].mean(0)
    radius = max(np.linalg.norm(point) for point in xyz)
    return np.c_[xyz / radius, points[:, 3:]]


def rows_of(cloud: torch.Tensor, points: np.ndarray) -> list[int]:
    """The row of `points` that each point of a cloud is, by the channels behind its coordinates."""
    return [int(np.flatnonzero((points[:, 3:] == row[3:]).all(1))[0]) for row in cloud.numpy()]


def test_normalise():
    points = transforms.normalise(POINTS)
    assert np.abs(points[:, :3].mean(0)).max() < 1e-12
    assert np.linalg.norm(points[:, :3], axis=1).max() == pytest.approx(1)
    assert np.allclose(points, sphere(POINTS)) and (points[:, 3:] == POINTS[:, 3:]).all()
    # The coordinates of a map keep their centimetres, and half precision does not overflow.
    far = POINTS.astype(np.float64)
    far[:, :2] += [5e5, 6e6]
    assert np.allclose(transforms.normalise(far)[:, :3], sphere(POINTS)[:, :3], atol=1e-6)
    for factor in (1e-200, 1e200):
        assert np.allclose(transforms.normalise(POINTS.astype(np.float64) * factor)[:, :3], sphere(POINTS)[:, :3])
    half = (POINTS * 3000).astype(np.float16)
    assert np.allclose(transforms.normalise(half)[:, :3], sphere(POINTS)[:, :3], atol=2e-3)


def test_all_points_the_same():
    for row in (POINTS[:1], POINTS[:1] * 1e-30, np.zeros((1, 3))):
        with pytest.raises(BadSample, match="its points are all the same"):
            Draw(4, "random", normalised=True)(row.repeat(9, 0), train=True)


def test_random_points_are_drawn_first_and_then_normalised():
    """As ShapeNet is read: centroid and radius are those of the points drawn, also in evaluation."""
    draw = Draw(40, "random", normalised=True)
    for train in (True, False):
        cloud = draw(POINTS, train)
        rows = rows_of(cloud, POINTS)
        assert cloud.dtype == torch.float32 and len(set(rows)) == 40
        assert np.allclose(cloud, sphere(POINTS[rows]), atol=1e-6)

    torch.manual_seed(3)
    first = draw(POINTS, True)
    assert not torch.equal(first, draw(POINTS, True))
    torch.manual_seed(3)
    assert torch.equal(first, draw(POINTS, True))


def test_a_cloud_with_fewer_points_gives_all():
    cloud = Draw(1024, "random", normalised=True)(POINTS, True)
    assert sorted(rows_of(cloud, POINTS)) == list(range(300)) and rows_of(cloud, POINTS) != list(range(300))
    assert np.allclose(Draw(None, "random", normalised=True)(POINTS, True), sphere(POINTS), atol=1e-6)


@pytest.mark.parametrize("count", [200, 100_000])
def test_random_rows_are_uniform(count):
    """Rows in any order: sums of first and of last ones, over many draws."""
    draws = np.stack([transforms.random_rows(count, 50) for _ in range(400)])
    assert all(len(set(rows)) == 50 for rows in draws) and draws.min() >= 0 and draws.max() < count
    error = count / math.sqrt(12 * 400)
    assert abs(draws[:, 0].mean() - count / 2) < 4 * error and abs(draws[:, -1].mean() - count / 2) < 4 * error


def farthest(points: np.ndarray, count: int) -> list[int]:
    """From row 0 on; points in |x|² <= 1e-3 are no candidates."""
    points = points[:, :3].astype(np.float32)
    rows, distance = [0], np.where(np.square(points).sum(1) <= 1e-3, -1, np.inf)
    while len(rows) < count:
        distance = np.minimum(distance, np.square(points - points[rows[-1]]).sum(1))
        rows.append(int(distance.argmax()))
    return rows


def test_farthest_points_of_the_normalised_cloud():
    for train in (True, False):
        cloud = Draw(40, "farthest", normalised=True)(POINTS, train)
        assert rows_of(cloud, POINTS) == farthest(sphere(POINTS), 40)
        assert np.allclose(cloud, sphere(POINTS)[farthest(sphere(POINTS), 40)], atol=1e-6)


@pytest.mark.parametrize(("count", "more"), [(64, 75), (128, 150), (1024, 1200), (2048, 2400), (290, 300)])
def test_farthest_then_random_as_published(count, more):
    """1,200 for 1,024 points and 2,400 for 2,048, as many as there are; in evaluation the farthest alone."""
    points = np.c_[RNG.normal(size=(2500, 3)), np.arange(2500), np.arange(2500)].astype(np.float32)
    if more == 300:
        points = points[:300]
    rows = farthest(sphere(points), more)
    drawn = rows_of(Draw(count, "farthest_random", normalised=True)(points, True), points)
    assert len(set(drawn)) == count and set(drawn) <= set(rows) and drawn != rows[:count]
    evaluated = rows_of(Draw(count, "farthest_random", normalised=True)(points, False), points)
    assert evaluated == rows[:count]


def test_not_normalised():
    """ScanObjectNN: coordinates as they are."""
    for sampling in ("random", "farthest", "farthest_random"):
        cloud = Draw(40, sampling, normalised=False)(POINTS, True)
        assert np.array_equal(cloud, POINTS[rows_of(cloud, POINTS)])


def test_farthest_points_of_a_tiny_cloud_are_all_different():
    """All of it lies where points count as padding by the published rule."""
    points = POINTS * np.array([1e-4, 1e-4, 1e-4, 1, 1], np.float32)
    rows = rows_of(Draw(40, "farthest", normalised=False)(points, True), points)
    assert len(set(rows)) == 40


def test_farthest_points_of_very_large_clouds(monkeypatch):
    monkeypatch.setattr(transforms, "MOST_FARTHEST", 100)
    cloud = Draw(40, "farthest", normalised=True)(POINTS, True)
    assert len(set(rows_of(cloud, POINTS))) == 40


def augmented(module, count: int = 2000) -> torch.Tensor:
    points = torch.from_numpy(POINTS[:4])
    return torch.stack([module(points) for _ in range(count)])


def test_scale():
    """A factor for each axis and all its points, uniform in [2/3, 3/2]; other channels stay."""
    factors = augmented(Scale()) / torch.from_numpy(POINTS[:4])
    assert (factors[:, :, 3:] == 1).all() and torch.allclose(factors[:, :1], factors, rtol=1e-5)
    factors = factors[:, 0, :3]
    assert factors.min() >= 2 / 3 - 1e-6 and factors.max() <= 1.5 + 1e-6
    assert torch.allclose(factors.mean(0), torch.tensor(13 / 12), atol=0.02)
    assert torch.corrcoef(factors.T).triu(1).abs().max() < 0.1
    fine = augmented(Scale(0.9, 1.1), 200)[:, 0, :3] / torch.from_numpy(POINTS[0, :3])
    assert fine.min() >= 0.9 - 1e-6 and fine.max() <= 1.1 + 1e-6 and fine.max() > 1.09


def test_shift():
    distances = augmented(Shift()) - torch.from_numpy(POINTS[:4])
    assert (distances[:, :, 3:] == 0).all() and torch.allclose(distances[:, :1, :3], distances[..., :3], atol=1e-5)
    distances = distances[:, 0, :3]
    assert distances.abs().max() <= 0.2 + 1e-5 and distances.abs().max() > 0.199
    assert distances.mean(0).abs().max() < 0.015


def test_rotation_about_the_vertical():
    """y stays, and so do distances to the axis; angles are uniform over the circle."""
    turned = augmented(Rotate())
    points = torch.from_numpy(POINTS[:4])
    assert torch.allclose(turned[..., 1], points[:, 1].expand(2000, -1)) and (turned[..., 3:] == points[:, 3:]).all()
    assert torch.allclose(turned[..., [0, 2]].norm(dim=2), points[:, [0, 2]].norm(dim=1).expand(2000, -1), rtol=1e-5)
    angles = torch.atan2(turned[:, 0, 0], turned[:, 0, 2])
    assert torch.stack([angles.cos(), angles.sin()]).mean(1).abs().max() < 0.06

    normals = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    both = Rotate(normals=True)(torch.cat([normals, normals, torch.ones(4, 1)], 1))
    assert torch.equal(both[:, :3], both[:, 3:6]) and (both[:, 6] == 1).all() and not torch.equal(both[:, :3], normals)


def test_the_published_augmentation():
    scale, shift = transforms.published()
    assert (scale.low, scale.high, shift.reach) == (pytest.approx(2 / 3), 1.5, 0.2)
