"""Every way of grouping gives the same rows: recorded ones, and those of a few plain lines."""

import re
import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor

from core.errors import UserError
from modalities.point import arrays, grouping
from modalities.point.clouds import Clouds, Plan
from modalities.point.grouping import Grouping, coverage, farthest, neighbours, plain_farthest, plain_neighbours
from tests.parity.vectors import Recorded, cases

SEEDS = range(12)


# Clouds ---------------------------------------------------------------------------------------------------------------


def uniform(count: int, draw: torch.Generator) -> Tensor:
    return torch.rand(count, 3, generator=draw) * 2 - 1


def sphere(count: int, draw: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)


def clusters(count: int, draw: torch.Generator) -> Tensor:
    """Five dense spots, and one point far away."""
    places = torch.randint(5, (count,), generator=draw)
    cloud = uniform(5, draw)[places] + 1e-3 * torch.randn(count, 3, generator=draw)
    cloud[count // 2] = torch.tensor([50.0, -20.0, 3.0])
    return cloud


def repeated(count: int, draw: torch.Generator) -> Tensor:
    """Drawn with replacement."""
    return uniform(count // 3, draw)[torch.randint(count // 3, (count,), generator=draw)]


def grid(count: int, draw: torch.Generator) -> Tensor:
    """Corners of a lattice in any order, some of them twice: nearly all distances have equals."""
    return torch.randint(-6, 7, (count, 3), generator=draw) / 8


def flat(count: int, draw: torch.Generator) -> Tensor:
    return uniform(count, draw) * torch.tensor([1.0, 1.0, 0.0])


def line(count: int, draw: torch.Generator) -> Tensor:
    return torch.linspace(-1, 1, count)[torch.randperm(count, generator=draw), None] * torch.tensor([1.0, 2.0, 0.5])


def offset(count: int, draw: torch.Generator) -> Tensor:
    """Metres on a map: float32 holds hardly more than decimetres there, so many points coincide."""
    return uniform(count, draw) + torch.tensor([4.5e5, 5.4e6, 300.0])


def minute(count: int, draw: torch.Generator) -> Tensor:
    """Squares of these differences are zero, or nearly so, in float32."""
    return uniform(count, draw) * 1e-22


def padded(count: int, draw: torch.Generator) -> Tensor:
    """A quarter of points and three quarters of zeros."""
    cloud = uniform(count, draw)
    cloud[count // 4 :] = 0
    return cloud


def equal(count: int, draw: torch.Generator) -> Tensor:
    return uniform(1, draw).repeat(count, 1)


KINDS = (uniform, sphere, clusters, repeated, grid, flat, line, offset, minute, padded, equal)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def cloud_of(kind, count: int, seed: int) -> Tensor:
    return kind(count, torch.Generator().manual_seed(seed))


# The same by a few plain lines, one cloud at a time -------------------------------------------------------------------


def squares(a: Tensor, b: Tensor) -> Tensor:
    """(Q, 3) and (N, 3) -> (Q, N), summed in the order of the axes."""
    x, y, z = ((a[:, None, axis] - b[None, :, axis]) ** 2 for axis in range(3))
    return x + y + z


def simple_farthest(cloud: Tensor, count: int, skip_origin: bool = True) -> list[int]:
    candidates = torch.ones(len(cloud), dtype=torch.bool)
    if skip_origin:
        candidates = squares(torch.zeros(1, 3), cloud)[0].double() > 1e-3

    rows, all_squares = [0], squares(cloud, cloud)
    while len(rows) < count:
        distances = all_squares[rows].min(0).values
        distances[~candidates] = -1
        rows.append(int((distances == distances.max()).nonzero()[0]))
    return rows


def simple_neighbours(queries: Tensor, cloud: Tensor, count: int) -> Tensor:
    return squares(queries, cloud).sort(dim=1, stable=True).indices[:, :count]


def planes(cloud: Tensor) -> Tensor:
    """(N, 3) -> (3, 1, N)"""
    return cloud.T[:, None].contiguous()


def start(cloud: Tensor) -> Tensor:
    """Distances (1, N) that farthest-point sampling starts from."""
    origin = squares(torch.zeros(1, 3), cloud).double() <= 1e-3
    return torch.full((1, len(cloud)), torch.inf).masked_fill(origin, -1)


# Recorded -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("point-mae", "point-m2ae", "i2p-mae"))
def test_recorded_rows(case):
    """Of every level: centres and members, the next level's points are the centres of this one."""
    io = Recorded(case[1]).io
    levels = sorted(key.removeprefix("knn_idx") for key in io if re.fullmatch(r"knn_idx\d*", key))
    shapes = [io[f"knn_idx{level}"].shape for level in levels]
    plans = Grouping([shape[1] for shape in shapes], [shape[2] for shape in shapes])(Clouds(io["points"]))

    assert len(plans) == len(levels) > 0
    points = io["points"]
    for level, plan in zip(levels, plans, strict=True):
        points = points.gather(1, plan.centres[..., None].expand(-1, -1, 3))
        assert torch.equal(plan.members, io[f"knn_idx{level}"].long())
        assert torch.equal(plan.centres, io.get(f"fps_idx{level}", plan.centres).long())
        assert torch.equal(points, io.get(f"center{level}", points))


@pytest.mark.parametrize("case", cases("point-mae"))
def test_recorded_clouds_hold_points_near_the_origin(case):
    """Else the rule about them is not tested."""
    recorded = Recorded(case[1]).io
    count = recorded["fps_idx"].shape[1]
    assert not torch.equal(farthest(recorded["points"], count, skip_origin=False), recorded["fps_idx"].long())


# Farthest points ------------------------------------------------------------------------------------------------------


@every_kind
def test_farthest_in_every_way(kind):
    for seed in SEEDS:
        cloud = cloud_of(kind, 90 + 37 * seed, seed)
        expected = simple_farthest(cloud, 40)
        parts = planes(cloud), start(cloud)
        assert farthest(cloud[None], 40)[0].tolist() == expected
        assert plain_farthest(*parts, 40)[0].tolist() == expected
        assert arrays.pruned_farthest(parts[0][:, 0].numpy(), parts[1][0].numpy(), 40).tolist() == expected


@every_kind
def test_farthest_with_small_boxes(kind, monkeypatch):
    """Many cells, those with copies of row 0 among them."""
    monkeypatch.setattr(arrays, "CELL", 4)
    for seed in SEEDS:
        cloud = cloud_of(kind, 150 + 11 * seed, seed)
        rows = arrays.pruned_farthest(cloud.T.contiguous().numpy(), start(cloud)[0].numpy(), 100)
        assert rows.tolist() == simple_farthest(cloud, 100)


def test_farthest_near_the_origin():
    cloud = torch.tensor([[0.1, 0, 0], [0, 0, 0], [0.03, 0, 0], [0.2, 0, 0], [-0.01, 0.01, 0]])
    assert farthest(cloud[None], 4).tolist() == [[0, 3, 0, 0]]  # of 0.1 and 0.2 both are used up then
    assert farthest(cloud[None], 4, skip_origin=False).tolist() == [[0, 4, 3, 2]]


def test_row_zero_near_the_origin_is_a_centre():
    cloud = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]])
    assert farthest(cloud[None], 3).tolist() == [[0, 2, 1]]


def test_farthest_of_a_batch_is_that_of_each_cloud(monkeypatch):
    batch = torch.stack([cloud_of(kind, 200, seed) for seed, kind in enumerate(KINDS)])
    rows = farthest(batch, 30)
    assert rows.tolist() == [simple_farthest(cloud, 30) for cloud in batch]

    monkeypatch.setattr(arrays, "BLOCK", 2 * 200 * 3)  # three clouds at a time
    assert torch.equal(farthest(batch, 30), rows)
    monkeypatch.setattr(arrays, "PRUNE_FROM", 100)
    assert torch.equal(farthest(batch, 30), rows)


def test_further_channels_do_not_matter():
    batch = torch.rand(2, 100, 3)
    wide = torch.cat([batch, torch.full((2, 100, 4), torch.nan)], 2)
    assert torch.equal(farthest(wide, 20), farthest(batch, 20))
    assert torch.equal(neighbours(wide[:, :7], wide, 5), neighbours(batch[:, :7], batch, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32])
def test_other_precisions(dtype):
    cloud = (torch.rand(1, 100, 3) * 100).to(dtype)
    assert torch.equal(farthest(cloud, 20), farthest(cloud.float(), 20))
    assert torch.equal(neighbours(cloud[:, :7], cloud, 5), neighbours(cloud[:, :7].float(), cloud.float(), 5))


def test_the_input_stays():
    cloud = torch.rand(2, 3, 50).mT.requires_grad_()  # planes already, of which no copy is needed
    before = cloud.detach().clone()
    plan = Grouping([8], [4])(Clouds(cloud))
    assert torch.equal(cloud, before) and not plan[0].centres.requires_grad


def test_no_waiting_for_the_device():
    """Tensors without values: whatever reads one on the host raises an error."""
    cloud, nearest = torch.empty(3, 2, 50, device="meta"), torch.empty(2, 50, device="meta")
    assert plain_farthest(cloud, nearest, 8).shape == (2, 8)
    assert plain_neighbours(cloud[..., :8], cloud, 4).shape == (2, 8, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_kind
def test_the_same_on_a_gpu(kind):
    batch = torch.stack([cloud_of(kind, 2000, seed) for seed in range(4)])
    (plan,) = Grouping([128], [32])(Clouds(batch))
    (on_gpu,) = Grouping([128], [32])(Clouds(batch.cuda()))
    assert torch.equal(on_gpu.centres.cpu(), plan.centres) and torch.equal(on_gpu.members.cpu(), plan.members)


# Neighbours -----------------------------------------------------------------------------------------------------------


@every_kind
def test_neighbours_in_every_way(kind):
    for seed in SEEDS:
        cloud = cloud_of(kind, 90 + 37 * seed, seed)
        queries = torch.cat([cloud[:20], cloud_of(kind, 12, seed + 100)])
        expected = simple_neighbours(queries, cloud, 8)
        parts = planes(queries), planes(cloud)
        assert torch.equal(neighbours(queries[None], cloud[None], 8)[0], expected)
        assert torch.equal(plain_neighbours(*parts, 8)[0], expected)

        parts = parts[0].numpy(), parts[1].numpy()
        assert np.array_equal(arrays.direct_neighbours(*parts, 8)[0], expected)
        assert np.array_equal(arrays.tree_neighbours(parts[0][:, 0], parts[1][:, 0], 8), expected)


@every_kind
def test_neighbours_in_a_large_cloud(kind):
    for seed in range(2):
        cloud = cloud_of(kind, 3000, seed)
        assert len(cloud) > arrays.TREE_FROM
        expected = simple_neighbours(cloud[:150], cloud, 32)
        assert torch.equal(neighbours(cloud[None, :150], cloud[None], 32)[0], expected)


@pytest.mark.parametrize("count", [1, 2, 10, 49, 50])
def test_any_number_of_neighbours(count):
    cloud = cloud_of(grid, 50, 0)
    parts = planes(cloud)
    expected = simple_neighbours(cloud, cloud, count)
    assert torch.equal(plain_neighbours(parts, parts, count)[0], expected)

    array = parts.numpy()
    assert np.array_equal(arrays.direct_neighbours(array, array, count)[0], expected)
    assert np.array_equal(arrays.tree_neighbours(array[:, 0], array[:, 0], count), expected)


def test_neighbours_of_a_batch_are_those_of_each_cloud(monkeypatch):
    batch = torch.stack([cloud_of(kind, 300, seed) for seed, kind in enumerate(KINDS)])
    expected = torch.stack([simple_neighbours(cloud[:20], cloud, 8) for cloud in batch])
    assert torch.equal(neighbours(batch[:, :20], batch, 8), expected)

    for module in (arrays, grouping):  # seven queries at a time, the last of them fewer
        monkeypatch.setattr(module, "BLOCK", 7 * batch.shape[0] * batch.shape[1])
    assert torch.equal(neighbours(batch[:, :20], batch, 8), expected)
    assert torch.equal(plain_neighbours(batch[:, :20].movedim(2, 0), batch.movedim(2, 0).contiguous(), 8), expected)
    monkeypatch.setattr(arrays, "TREE_FROM", 100)
    assert torch.equal(neighbours(batch[:, :20], batch, 8), expected)


@pytest.mark.parametrize("kind", [uniform, equal], ids=lambda kind: kind.__name__)
def test_memory_of_neighbours_is_bounded(kind):
    """All distances at once: 2,000 × 20,000 × 12 bytes are 460 MiB. Of equal points the tree finds nothing."""
    cloud = cloud_of(kind, 20_000, 0)[None]
    tracemalloc.start()
    neighbours(cloud[:, :2000], cloud, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


# Groups ---------------------------------------------------------------------------------------------------------------


def test_levels_group_the_centres_below():
    cloud = cloud_of(sphere, 100, 0)
    low, high = Grouping([20, 5], [8, 3])(Clouds(cloud[None]))
    centres = cloud[low.centres[0]]
    assert high.centres[0].tolist() == simple_farthest(centres, 5)
    assert torch.equal(high.members[0], simple_neighbours(centres[high.centres[0]], centres, 3))


def test_clouds_of_unlike_size():
    clouds = [cloud_of(uniform, count, 0) for count in (30, 64, 41)]
    (plan,) = Grouping([8], [6])(Clouds(clouds))
    assert plan.centres.tolist() == [simple_farthest(cloud, 8) for cloud in clouds]


def test_plans_that_are_there_stay():
    plan = Plan(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, 1, dtype=torch.long))
    assert Grouping([8], [6])(Clouds(torch.rand(1, 50, 3), plans=(plan,))) == (plan,)


def test_coverage():
    plan = Plan(torch.tensor([[0, 1], [0, 3]]), torch.tensor([[[0, 2], [1, 2]], [[0, 0], [3, 3]]]))
    assert coverage(plan, torch.zeros(2, 4, 3)).tolist() == [0.75, 0.5]
    assert coverage(plan, [torch.zeros(3, 3), torch.zeros(8, 3)]).tolist() == [1.0, 0.25]


def test_groups_of_a_dense_cloud_cover_little_of_it():
    cloud = cloud_of(sphere, 50_000, 0)[None]
    (plan,) = Grouping([64], [32])(Clouds(cloud))
    assert 0.02 < float(coverage(plan, cloud)) <= 64 * 32 / 50_000

    few = cloud[:, :1024]
    (plan,) = Grouping([64], [32])(Clouds(few))
    assert float(coverage(plan, few)) > 0.5


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 100, 2000, 50_000])
@pytest.mark.parametrize("place", [0.0, 0.01, 1.0])
def test_all_points_the_same(count, place):
    """In the ball around the origin, where none is a candidate, too."""
    cloud = torch.full((2, count, 3), place)
    (plan,) = Grouping([4], [3])(Clouds(cloud))
    assert plan.centres.tolist() == [[0, 0, 0, 0]] * 2
    assert plan.members.tolist() == [[[0, 1, 2]] * 4] * 2


def test_one_point():
    (plan,) = Grouping([1], [1])(Clouds(torch.rand(1, 1, 3)))
    assert plan.centres.tolist() == [[0]] and plan.members.tolist() == [[[0]]]
    with pytest.raises(UserError, match=r"A cloud of 1 points has too few for modality\.groups=64"):
        Grouping([64], [32])(Clouds(torch.rand(1, 1, 3)))


@pytest.mark.parametrize("groups, members, key", [(51, 4, "groups=51"), (4, 51, "members=51")])
@pytest.mark.parametrize("as_list", [False, True])
def test_too_few_points(groups, members, key, as_list):
    clouds = [torch.rand(50, 3)] if as_list else torch.rand(1, 50, 3)
    with pytest.raises(UserError, match=rf"50 points has too few for modality\.{key}: set it to at most 50"):
        Grouping([groups], [members])(Clouds(clouds))


@pytest.mark.parametrize("count", [0, 7])
def test_too_few_points_outside_of_a_grouping(count):
    cloud = torch.rand(1, count, 3)
    with pytest.raises(UserError, match="8 are needed"):
        farthest(cloud, 8)
    with pytest.raises(UserError, match="8 are needed"):
        neighbours(torch.rand(1, 2, 3), cloud, 8)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("count", [100, 2000, 50_000])
def test_coordinates_that_are_no_numbers(value, count):
    clouds = torch.rand(3, count, 3)
    clouds[1, [4, 9], 2] = value
    with pytest.raises(UserError, match=rf"Cloud 1 of the batch has 2 of {count} points with coordinates that are NaN"):
        Grouping([8], [4])(Clouds(clouds))
    with pytest.raises(UserError, match="remove those rows"):
        neighbours(clouds[:, :10], clouds[:, 10:], 4)


def test_large_numbers_have_neighbours():
    cloud = cloud_of(uniform, 2000, 0) * 1e17
    assert torch.equal(neighbours(cloud[None, :50], cloud[None], 8)[0], simple_neighbours(cloud[:50], cloud, 8))


@pytest.mark.parametrize(
    "groups, members, message",
    [
        ([], [], "one number for each level"),
        ([8, 4], [4], "one number for each level"),
        ([0], [4], "from 1 on"),
        ([8], [-1], "from 1 on"),
        ([8, 16], [4, 4], "level 2 has groups of 16, but level 1 has only 8"),
        ([8, 4], [4, 9], "level 2 has members of 9, but level 1 has only 8"),
    ],
)
def test_settings_without_sense(groups, members, message):
    with pytest.raises(UserError, match=message):
        Grouping(groups, members)
