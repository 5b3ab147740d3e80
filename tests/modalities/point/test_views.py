"""Depth views: cells and sums against plain loops, values at points against an enlarged map."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modalities.point.views import AXES, Projection, project


def clouds(batch: int = 2, count: int = 40, seed: int = 0) -> torch.Tensor:
    points = torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(seed))
    return points * torch.tensor([1.0, 2.0, 0.5]) - 0.3


def by_loops(cloud: torch.Tensor, axes: tuple[int, int, int], size: int) -> tuple[torch.Tensor, list]:
    """The map of one view of a cloud (N, 3), and the cell of each point, number by number, in float32."""
    down, across, depth = (cloud[:, axis].numpy() for axis in axes)
    side = max(np.ptp(down), np.ptp(across)) / np.float32(size - 3)
    own, offset = [], []
    for values in (down, across):
        cells = [math.floor((value - values.min()) / side) + 1 for value in values]
        filled = [cell + step for cell in cells for step in range(-2, 3)]
        own.append(cells)
        offset.append(size // 2 - math.floor((max(filled) + min(filled)) / 2) - 1)

    cells = [(row + offset[0], column + offset[1]) for row, column in zip(*own, strict=True)]
    sums = torch.zeros(size, size, dtype=torch.float64)
    for (row, column), value in zip(cells, depth, strict=True):
        for i in range(-2, 3):
            for j in range(-2, 3):
                sums[min(max(row + i, 0), size - 1), min(max(column + j, 0), size - 1)] += float(value)
    return sums, cells


@pytest.mark.parametrize("size", [16, 32, 33, 64])
def test_maps_are_sums_of_depths_over_cells(size):
    points = clouds()
    projection, maps = project(points, size)
    for view, axes in enumerate(AXES):
        for number, cloud in enumerate(points):
            expected, _ = by_loops(cloud, axes, size)
            assert torch.allclose(maps[view, number].double(), expected, atol=1e-5)
    assert projection.low.shape == (3, 2, 2) and projection.cell.shape == (3, 2)


@pytest.mark.parametrize("size, side", [(32, 4), (64, 8), (64, 64)])
def test_values_at_points_are_those_of_the_enlarged_map(size, side):
    points = clouds(1)
    projection, _ = project(points, size)
    maps = torch.randn(3, 1, 5, side, side, generator=torch.Generator().manual_seed(1))
    values = projection.at(maps, points)
    for view, axes in enumerate(AXES):
        _, cells = by_loops(points[0], axes, size)
        large = F.interpolate(maps[view], (size, size), mode="bicubic", align_corners=False)[0]
        expected = torch.stack([large[:, row, column] for row, column in cells])
        assert torch.allclose(values[0, :, view], expected, atol=1e-5)


def test_clouds_of_unlike_size_are_projected_one_by_one():
    first, second = clouds(1, 30), clouds(1, 50, seed=1)
    projection, maps = project([first[0], second[0]], 32)
    for number, cloud in enumerate((first, second)):
        alone, of_cloud = project(cloud, 32)
        assert torch.equal(maps[:, number], of_cloud[:, 0])
        assert torch.equal(projection.offset[:, number], alone.offset[:, 0])
    assert isinstance(projection, Projection)


def test_further_channels_are_not_looked_at():
    points = clouds()
    coloured = torch.cat([points, torch.rand(2, 40, 4)], 2)
    assert torch.equal(project(coloured, 32)[1], project(points, 32)[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_line_is_a_point_in_one_view(axis):
    """All points of that view lie in one cell, which is no division by zero."""
    points = torch.zeros(1, 10, 3)
    points[..., axis] = torch.linspace(0, 1, 10)
    projection, maps = project(points, 32)
    assert torch.isfinite(maps).all() and torch.isfinite(projection.cell).all()
    values = projection.at(torch.rand(3, 1, 2, 4, 4), points)
    assert torch.isfinite(values).all()
