"""Grouping clouds of points, one thread: ours beside fpsample, scipy's k-d tree, Open3D and a plain loop.

    pip install fpsample==0.3.3 open3d-cpu   # the second one is left out where it is missing
    OMP_NUM_THREADS=1 python -m benchmarks.points

Centres by farthest-point sampling, members by nearest neighbours. "fpsample": its plain sampling, then a k-d tree.
"bucket": its sampling by buckets (k-d line), then a k-d tree; it starts from another row than it is given. "loop": rows
of three in torch, one cloud at a time. "open3d": its centres come in another order. "ours, GPU": the same code on a GPU
if there is one. That all but "bucket" give our rows is checked before anything is timed. The sides take turns; a ratio
is the median of ours / theirs with its 95 % interval. Growth: time of one cloud, and memory that a process of its own
gains by it. Writes docs/benchmarks/points.json and renders the table.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import fpsample
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from benchmarks.measure import printed_by, ratio, record, take_turns
from core.engine.meter import memory_mb
from modalities.point.clouds import Clouds, Plan
from modalities.point.grouping import Grouping

SHAPES = ((1024, 64, 32, 1), (1024, 64, 32, 8), (8192, 512, 32, 1), (8192, 512, 32, 8), (100_000, 1024, 32, 1))
GROWTH = (1000, 10_000, 100_000, 1_000_000)
GROUPS, MEMBERS = 512, 32  # of growth
Side = Callable[[Tensor], Plan]


def surface(points: int, batch: int) -> Tensor:
    """Points (B, N, 3) on stretched spheres; none is near the origin, where fpsample would differ."""
    draw = torch.Generator().manual_seed(0)
    radii = torch.rand(batch, 1, 3, generator=draw) / 2 + 0.5
    return torch.nn.functional.normalize(torch.randn(batch, points, 3, generator=draw), dim=2) * radii


def sides(points: int, groups: int, members: int) -> dict[str, Side]:
    """Clouds (B, N, 3) -> plan."""
    height = 3 if points < 4000 else 5 if points < 50_000 else 7  # of fpsample's tree: measured

    def ours(clouds: Tensor) -> Plan:
        return Grouping([groups], [members])(Clouds(clouds))[0]

    def on_gpu(clouds: Tensor) -> Plan:
        plan = ours(clouds.cuda())
        torch.cuda.synchronize()
        return plan

    def plain(cloud: np.ndarray) -> np.ndarray:
        return fpsample.fps_sampling(cloud, groups, start_idx=0)

    def bucket(cloud: np.ndarray) -> np.ndarray:
        return fpsample.bucket_fps_kdline_sampling(cloud, groups, h=height, start_idx=0)

    found = {"ours": ours, "fpsample": with_tree(plain, members), "bucket": with_tree(bucket, members)}
    found["loop"] = lambda clouds: loop(clouds, groups, members)
    if importlib.util.find_spec("open3d"):
        found["open3d"] = lambda clouds: open3d(clouds, groups, members)
    if torch.cuda.is_available():
        found["ours, GPU"] = on_gpu
    return found


def with_tree(sample: Callable[[np.ndarray], np.ndarray], members: int) -> Side:
    def side(clouds: Tensor) -> Plan:
        centres, near = [], []
        for cloud in clouds.numpy():
            centres.append(sample(cloud).astype(np.int64))
            near.append(cKDTree(cloud).query(cloud[centres[-1]], members)[1])
        return Plan(torch.from_numpy(np.stack(centres)), torch.from_numpy(np.stack(near)))

    return side


def loop(clouds: Tensor, groups: int, members: int) -> Plan:
    centres, near = [], []
    for cloud in clouds:
        rows, nearest = [0], torch.full((len(cloud),), torch.inf)
        for _ in range(groups - 1):
            nearest = torch.minimum(nearest, (cloud - cloud[rows[-1]]).square().sum(1))
            rows.append(int(nearest.argmax()))
        squares = [(cloud - cloud[row]).square().sum(1) for row in rows]
        near.append(torch.stack([distance.topk(members, largest=False).indices for distance in squares]))
        centres.append(torch.tensor(rows))
    return Plan(torch.stack(centres), torch.stack(near))


def open3d(clouds: Tensor, groups: int, members: int) -> Plan:
    """The rows of its centres are not returned: `centres` is empty."""
    from open3d import core, t

    near = []
    for cloud in clouds.numpy():
        points = core.Tensor.from_numpy(cloud)
        centres = t.geometry.PointCloud(points).farthest_point_down_sample(groups).point.positions
        search = core.nns.NearestNeighborSearch(points)
        search.knn_index()
        near.append(torch.from_numpy(search.knn_search(centres, members)[0].numpy()).long())
    return Plan(torch.zeros(len(clouds), 0, dtype=torch.long), torch.stack(near))


def compare(shape: tuple[int, int, int, int], rounds: int) -> dict:
    points, groups, members, batch = shape
    clouds, ways = surface(points, batch), sides(points, groups, members)
    check({side: way(clouds) for side, way in ways.items()})

    steps = {side: lambda way=way: way(clouds) for side, way in ways.items()}
    wall, cpu = take_turns(steps, rounds)
    theirs = [side for side in ways if side != "ours"]
    return {
        **dict(zip(("points", "groups", "members", "batch"), shape, strict=True)),
        "rounds": rounds,
        "ms": {side: 1e3 * statistics.median(seconds) / batch for side, seconds in wall.items()},
        "ratio": {side: ratio(wall["ours"], wall[side]) for side in theirs},
        "cpu_ratio": {side: ratio(cpu["ours"], cpu[side]) for side in theirs},
    }


def check(plans: dict[str, Plan]) -> None:
    """Rounding alone may tell two members of nearly equal distance apart."""
    ours = plans["ours"]
    for side, plan in plans.items():
        if side == "bucket":  # another start, other centres
            continue
        if side == "open3d":  # the same sets of members, by any order of the groups
            ours_sorted, theirs = (p.members.cpu().sort(2).values.flatten(1).sort(1).values for p in (ours, plan))
            different = float((ours_sorted != theirs).float().mean())
        else:
            different = float((ours.members != plan.members.cpu()).float().mean())
            if not torch.equal(ours.centres, plan.centres.cpu()):
                raise AssertionError(f"{side} has other centres than ours")
        if different > 0.01:
            raise AssertionError(f"{side} has other members than ours: {different:.1%}")


def grow(points: int) -> tuple[float, float]:
    """Milliseconds of one cloud, and MiB that the process gains: the cloud itself is there before."""
    way, clouds = sides(points, GROUPS, MEMBERS)["ours"], surface(points, 1)
    way(surface(GROUPS, 1))
    before = memory_mb(torch.device("cpu"))

    way(clouds)
    gained, seconds = memory_mb(torch.device("cpu")) - before, []
    for _ in range(3):
        start = time.perf_counter()
        way(clouds)
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds), gained


def growth(points: int) -> dict:
    ms, gained = map(float, printed_by("benchmarks.points", "--growth", str(points)).split())
    return {"points": points, "groups": GROUPS, "members": MEMBERS, "ms": ms, "gained_mib": gained}


def measure(rounds: int) -> dict:
    rows = [compare(shape, max(3, rounds * 1024 // (shape[0] * shape[3]))) for shape in SHAPES]
    versions = {name: version(name) for name in ("fpsample", "scipy", "numpy")}
    if importlib.util.find_spec("open3d"):
        versions["open3d"] = version("open3d-cpu")
    return {"rows": rows, "growth": [growth(points) for points in GROWTH], "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400, help="of the smallest cloud; fewer of larger ones")
    parser.add_argument("--growth", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.growth:
        print(*grow(args.growth))
        return
    record("points", "python -m benchmarks.points", measure(args.rounds))


if __name__ == "__main__":
    main()
