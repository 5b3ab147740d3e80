"""The raw data of a batch: clouds of points and, where they are made already, the plans of their groups."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError


class Plan(NamedTuple):
    """Groups of points: which rows are their centres, and which are their members, the nearest first.

    Of a pyramid's higher levels the rows are those of the groups one level below.
    Shapes: `centres` (B, G) long, `members` (B, G, S) long.
    """

    centres: Tensor
    members: Tensor


@dataclass(frozen=True)
class Clouds:
    """Clouds of one batch: coordinates x, y, z, then further channels (normals, colour, intensity).

    `points`: (B, N, 3 + C), or a list of (N, 3 + C) where clouds differ in size.
    `plans`: of the groups, the finest level first; empty: the tokenizer makes them.
    """

    points: Tensor | Sequence[Tensor]
    _: KW_ONLY
    plans: tuple[Plan, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.points)

    @property
    def channels(self) -> int:
        """Channels of a point, coordinates included."""
        return self.points[0].shape[-1]

    def to(self, device, non_blocking: bool = False) -> "Clouds":
        """The clouds on another device."""
        if isinstance(self.points, Tensor):
            points = self.points.to(device, non_blocking=non_blocking)
        else:
            points = [cloud.to(device, non_blocking=non_blocking) for cloud in self.points]

        plans = []
        for plan in self.plans:
            parts = [part.to(device, non_blocking=non_blocking) for part in plan]
            plans.append(Plan(*parts))
        return Clouds(points, plans=tuple(plans))


def as_clouds(data: object) -> Clouds:
    """Clouds of what an encoder is given: Clouds, a tensor (B, N, 3 + C) or a list of (N, 3 + C), arrays too.

    Raises: UserError for other shapes and types.
    """
    if isinstance(data, Clouds):
        return data
    if isinstance(data, Tensor) and data.dim() == 3 and data.shape[2] >= 3:
        return Clouds(data)

    remedy = "One cloud alone needs the axis of the batch: cloud[None]."
    if isinstance(data, list | tuple) and data:
        clouds = [torch.from_numpy(cloud) if isinstance(cloud, np.ndarray) else cloud for cloud in data]
        misfits = [cloud for cloud in clouds if not _is_cloud(cloud)]
        if not misfits:
            return Clouds(clouds)
        shape, remedy = f"a list with {_described(misfits[0])}", "Each cloud of a list has two axes."
    else:
        shape = _described(data)
    raise UserError(f"Clouds are (B, N, 3 + channels), or a list of (N, 3 + channels); this is {shape}. {remedy}")


def _is_cloud(data: object) -> bool:
    return isinstance(data, Tensor) and data.dim() == 2 and data.shape[1] >= 3


def _described(data: object) -> str:
    if isinstance(data, Tensor):
        return f"a tensor of shape {tuple(data.shape)}"
    if isinstance(data, list | tuple) and not data:
        return "an empty list"
    return f"a {type(data).__name__}"


def join(batches: Sequence[Clouds]) -> Clouds:
    """Several batches as one. Plans are joined where all have them."""
    clouds = [cloud for batch in batches for cloud in batch]
    points: Tensor | list[Tensor] = clouds
    if len({cloud.shape for cloud in clouds}) == 1:
        points = torch.stack(clouds)

    plans = []
    if all(batch.plans for batch in batches):
        for level in zip(*(batch.plans for batch in batches), strict=True):
            centres, members = zip(*level, strict=True)
            plans.append(Plan(torch.cat(centres), torch.cat(members)))
    return Clouds(points, plans=tuple(plans))
