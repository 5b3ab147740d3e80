"""Groups of points: centres by farthest-point sampling, members by nearest neighbours."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import UserError
from modalities.point import arrays
from modalities.point.clouds import Clouds, Plan

ORIGIN = 1e-3  # published: points with |x|² up to here count as padding, and become no centres
LARGEST = 1e18  # coordinate whose squared differences are finite in float32
BLOCK = 2**22  # distances at a time: 64 MB with their keys


def farthest(points: Tensor, count: int, skip_origin: bool = True) -> Tensor:
    """Farthest-point sampling from row 0 on: (B, N, 3) -> rows (B, count) long.

    Every next row is the one whose squared distance to the rows so far is largest, the lowest one of equals. Where
    fewer than `count` places differ, rows repeat. In float32.
    `skip_origin`: points with |x|² <= 1e-3 are no candidates, but for row 0.
    Raises: UserError for coordinates that are not finite (or beyond 1e18), and for fewer points than `count`.
    Source: erikwijmans/Pointnet2_PyTorch.
    """
    planes = _planes(points, count)
    x, y, z = planes
    nearest = torch.full_like(x, float("inf"))
    if skip_origin:
        nearest[(x * x + y * y + z * z).double() <= ORIGIN] = -1  # double, as the literal of the official code is

    if planes.is_cpu:
        return torch.from_numpy(arrays.farthest(planes.numpy(), nearest.numpy(), count))
    return plain_farthest(planes, nearest, count)


def plain_farthest(planes: Tensor, nearest: Tensor, count: int) -> Tensor:
    """The same from planes (3, B, N) and the distances (B, N) to start from, on any device, without waiting for it."""
    nearest, gaps = nearest.clone(), torch.empty_like(planes)
    x, y, z = gaps
    rows = torch.zeros(len(nearest), count, dtype=torch.long, device=planes.device)

    for step in range(1, count):
        row = rows[:, step - 1, None]
        torch.sub(planes, planes.gather(2, row.expand(3, -1, -1)), out=gaps)
        gaps.mul_(gaps)
        x.add_(y).add_(z)
        torch.minimum(nearest, x, out=nearest)
        rows[:, step] = nearest.argmax(1)
    return rows


def neighbours(queries: Tensor, points: Tensor, count: int) -> Tensor:
    """Rows (B, Q, count) of the nearest of `points` (B, N, 3), ascending; of equals the lower row.

    By direct squared differences in float32, or by a k-d tree that gives the same rows.
    Raises: UserError for coordinates that are not finite (or beyond 1e18), and for fewer points than `count`.
    Source: unlimblue/KNN_CUDA.
    """
    samples, planes = _planes(queries), _planes(points, count)
    if planes.is_cpu:
        return torch.from_numpy(arrays.neighbours(samples.numpy(), planes.numpy(), count))
    return plain_neighbours(samples, planes, count)


def plain_neighbours(queries: Tensor, points: Tensor, count: int) -> Tensor:
    """The same from planes (3, B, Q) and (3, B, N), on any device, some queries at a time."""
    rows, near = torch.arange(points.shape[2], device=points.device), []

    for part in queries.split(max(1, BLOCK // points[0].numel()), 2):
        squares = torch.zeros(*part.shape[1:], len(rows), device=points.device)
        for sample, plane in zip(part, points, strict=True):
            gaps = sample[..., None] - plane[:, None]
            squares += gaps.mul_(gaps)

        # Bits of a float >= 0 ascend with its value; behind them the row puts equals in order.
        keys = squares.view(torch.int32).long() << arrays.LOW | rows
        near.append(keys.topk(count, largest=False).values & arrays.ROW)
    return torch.cat(near, 1)


def coverage(plan: Plan, points: Tensor | Sequence[Tensor]) -> Tensor:
    """Share of each cloud's points that are in some group of the finest level: (B,).

    G groups of S points cover at most G·S / N of a cloud: of a dense one the rest is never looked at.
    """
    sizes = torch.tensor([len(cloud) for cloud in points], device=plan.members.device)
    covered = torch.zeros(len(sizes), int(sizes.max()), device=sizes.device)
    return covered.scatter_(1, plan.members.flatten(1), 1.0).sum(1) / sizes


def _planes(points: Tensor, least: int = 1) -> Tensor:
    """Coordinates by axis (3, B, N) float32, contiguous: faster than rows of three. Refuses too few points, and NaN."""
    if points.shape[1] < least:
        raise UserError(f"A cloud of {points.shape[1]} points has too few: {least} are needed.")

    planes = points[..., :3].detach().float().movedim(2, 0).contiguous()
    valid = (planes.abs() <= LARGEST).all(0)  # of NaN, False
    if not valid.all():
        cloud = int((~valid).any(1).nonzero()[0])
        count = int((~valid[cloud]).sum())
        raise UserError(
            f"Cloud {cloud} of the batch has {count} of {points.shape[1]} points with coordinates that are NaN, "
            f"infinite or beyond {LARGEST:.0e}: remove those rows from it."
        )
    return planes


class Grouping:
    """Cuts clouds into groups, and groups into groups of groups: the settings of all levels, the finest first.

    `groups`: how many at each level; `members`: in each of them.
    Raises: UserError where lists differ in length, or a level has more groups or members than it has points.
    """

    def __init__(self, groups: Sequence[int], members: Sequence[int]):
        self.groups, self.members = tuple(groups), tuple(members)
        settings = f"modality.groups={list(groups)} and modality.members={list(members)}"
        if len(self.groups) != len(self.members) or not self.groups:
            raise UserError(f"{settings} need one number for each level.")
        if min(*self.groups, *self.members) < 1:
            raise UserError(f"{settings} need whole numbers from 1 on.")

        # A level's points are the groups below it.
        for level, count in enumerate(self.groups[:-1], start=1):
            for name, numbers in (("groups", self.groups), ("members", self.members)):
                if numbers[level] > count:
                    raise UserError(
                        f"{settings}: level {level + 1} has {name} of {numbers[level]}, but level {level} has only "
                        f"{count} groups to take them from. Set it to at most {count}."
                    )

    def __call__(self, clouds: Clouds) -> tuple[Plan, ...]:
        """The plans of clouds, those that they have or new ones."""
        if clouds.plans:
            return clouds.plans
        if isinstance(clouds.points, Tensor):
            return self._plan(clouds.points)

        by_cloud = [self._plan(cloud[None]) for cloud in clouds]
        plans = []
        for level in zip(*by_cloud, strict=True):
            centres, members = zip(*level, strict=True)
            plans.append(Plan(torch.cat(centres), torch.cat(members)))
        return tuple(plans)

    def _plan(self, points: Tensor) -> tuple[Plan, ...]:
        self._check(points.shape[1])

        plans, points = [], points[..., :3].float()
        for groups, members in zip(self.groups, self.members, strict=True):
            rows = farthest(points, groups)
            centres = points.gather(1, rows[..., None].expand(-1, -1, 3))
            plans.append(Plan(rows, neighbours(centres, points, members)))
            points = centres
        return tuple(plans)

    def _check(self, count: int) -> None:
        for name, value in (("groups", self.groups[0]), ("members", self.members[0])):
            if count < value:
                raise UserError(
                    f"A cloud of {count} points has too few for modality.{name}={value}: set it to at most {count}, "
                    "or take clouds of more points."
                )
