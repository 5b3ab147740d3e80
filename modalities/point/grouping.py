"""Groups of points: centres by farthest-point sampling, members by nearest neighbours."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import UserError
from modalities.point.clouds import Clouds, Plan

ORIGIN = 1e-3  # published: points with |x|² up to here count as padding, and become no centres


def farthest(points: Tensor, count: int, skip_origin: bool = True) -> Tensor:
    """Farthest-point sampling from row 0 on: (B, N, 3) -> rows (B, count) long.

    Every next row is the one whose squared distance to the rows so far is largest, the lowest one of equals.
    `skip_origin`: points with |x|² <= 1e-3 are no candidates, but for row 0.
    Source: erikwijmans/Pointnet2_PyTorch.
    """
    # By axis: three contiguous planes are faster than rows of three.
    planes = points[..., :3].unbind(2)
    x, y, z = (plane.contiguous() for plane in planes)
    nearest = torch.full_like(x, float("inf"))
    if skip_origin:
        nearest[x * x + y * y + z * z <= ORIGIN] = -1

    rows = torch.zeros(len(x), count, dtype=torch.long, device=x.device)
    row = rows[:, :1].clone()
    for step in range(1, count):
        dx, dy, dz = (plane - plane.gather(1, row) for plane in (x, y, z))
        torch.minimum(nearest, dx * dx + dy * dy + dz * dz, out=nearest)
        row = nearest.argmax(1, keepdim=True)
        rows[:, step] = row[:, 0]
    return rows


def neighbours(queries: Tensor, points: Tensor, count: int) -> Tensor:
    """Rows (B, Q, count) of the nearest of `points` (B, N, 3), ascending; of equals the lower row.

    By direct squared differences in the given precision. Source: unlimblue/KNN_CUDA.
    """
    near = []
    for sample, cloud in zip(queries[..., :3], points[..., :3], strict=True):
        squares = (sample[:, None] - cloud[None]).square()
        distance = squares[..., 0] + squares[..., 1] + squares[..., 2]
        near.append(distance.sort(dim=1, stable=True).indices[:, :count])
    return torch.stack(near)


class Grouping:
    """Cuts clouds into groups, and groups into groups of groups: the settings of all levels, the finest first.

    `groups`: how many at each level; `members`: in each of them.
    Raises: UserError where lists differ in length, or a level has more groups or members than it has points.
    """

    def __init__(self, groups: Sequence[int], members: Sequence[int]):
        self.groups, self.members = tuple(groups), tuple(members)
        if len(self.groups) != len(self.members) or not self.groups:
            raise UserError(
                f"modality.groups={list(groups)} and modality.members={list(members)} need one number for each level."
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
        plans, points = [], points[..., :3].float()
        for groups, members in zip(self.groups, self.members, strict=True):
            self._check(points.shape[1], groups, members)
            rows = farthest(points, groups)
            centres = points.gather(1, rows[..., None].expand(-1, -1, 3))
            plans.append(Plan(rows, neighbours(centres, points, members)))
            points = centres
        return tuple(plans)

    def _check(self, count: int, groups: int, members: int) -> None:
        for name, value in (("groups", groups), ("members", members)):
            if count < value:
                raise UserError(
                    f"A cloud of {count} points has too few for modality.{name}={value}: set it to at most {count}, "
                    "or take clouds of more points."
                )
