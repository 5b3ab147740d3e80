"""Depth views: clouds as pictures along the three axes, and features of those pictures back at points."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

AXES = ((0, 1, 2), (2, 0, 1), (1, 2, 0))  # of each view: down the picture, across it, and its depth
REACH = 2  # a point fills its cell and as many to each side
MARGIN = 3  # cells of a picture's side that the larger extent of a cloud leaves free


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Where points lie in square pictures of `size` cells a side, for V = 3 views of each of B clouds.

    A point p of a view's plane lies in cell ⌊(p − low) / cell⌋ + 1 + offset. Of each view, `cell` is the larger of
    the cloud's two extents divided by `size` − 3, and `offset` brings the picture to the middle. In float32 and in the
    official order of operations: extreme points lie on the border of a cell.
    Shapes: `low` (V, B, 2), `cell` (V, B), `offset` (V, B, 2).
    Source: ZrrSkywalker/I2P-MAE.
    """

    size: int
    low: Tensor
    cell: Tensor
    offset: Tensor

    @classmethod
    def of(cls, points: Tensor, size: int) -> "Projection":
        """The projection that fits clouds (B, N, 3) into the pictures."""
        plane = _by_view(points)[..., :2]
        low = plane.amin(2)
        cell = (plane.amax(2) - low).amax(2) / (size - MARGIN)
        cell = torch.where(cell > 0, cell, 1)  # all points of a view in one place

        # The first and last cell that is filled, on each axis.
        own = _cells(plane, low, cell)
        first, last = own.amin(2) - REACH + 1, own.amax(2) + REACH + 1
        offset = size // 2 - ((last + first) / 2).floor() - 1
        return cls(size=size, low=low, cell=cell, offset=offset)

    def depth_maps(self, points: Tensor) -> Tensor:
        """Depths summed over all points (B, N, 3) that fill a cell, 0 in empty ones: (V, B, size, size)."""
        reach = torch.arange(-REACH, REACH + 1, device=points.device)
        around = torch.cartesian_prod(reach, reach) + 1
        first = torch.arange(len(points), device=points.device)[:, None, None] * self.size**2

        maps = []
        for view, placed in enumerate(_by_view(points)):
            own = _cells(placed[..., :2], self.low[view], self.cell[view])
            cells = own[:, :, None] + around + self.offset[view][:, None, None]
            cells = cells.long().clamp(0, self.size - 1)
            rows = first + cells[..., 0] * self.size + cells[..., 1]

            # Point by point: float sums depend on their order.
            depths = placed[..., 2:].expand(-1, -1, len(around))
            sums = points.new_zeros(len(points) * self.size**2)
            sums = sums.index_add(0, rows.flatten(), depths.flatten())
            maps.append(sums.unflatten(0, (-1, self.size, self.size)))
        return torch.stack(maps)

    def at(self, maps: Tensor, points: Tensor) -> Tensor:
        """Values of maps (V, B, D, h, w), enlarged to the pictures' size, at points (B, M, 3): (B, M, V, D).

        Bicubic; only the places in question are computed.
        """
        cells = _cells(_by_view(points)[..., :2], self.low, self.cell) + 1 + self.offset[:, :, None]
        places = ((2 * cells + 1) / self.size - 1).flip(3)  # across, down, from -1 to 1

        values = []
        for of_view, grid in zip(maps, places, strict=True):
            sampled = F.grid_sample(
                of_view, grid[:, :, None], mode="bicubic", padding_mode="border", align_corners=False
            )
            values.append(sampled[..., 0].transpose(1, 2))
        return torch.stack(values, 2)


def project(clouds: Tensor | Sequence[Tensor], size: int) -> tuple[Projection, Tensor]:
    """The projection of clouds (B, N, 3 + C), or of a list of (N, 3 + C), and their depth maps (V, B, size, size)."""
    if isinstance(clouds, Tensor):
        points = clouds[..., :3].float()
        projection = Projection.of(points, size)
        return projection, projection.depth_maps(points)

    projections, maps = [], []
    for cloud in clouds:
        projection, of_cloud = project(cloud[None], size)
        projections.append(projection)
        maps.append(of_cloud)
    joined = {}
    for name in ("low", "cell", "offset"):
        joined[name] = torch.cat([getattr(projection, name) for projection in projections], 1)
    return Projection(size=size, **joined), torch.cat(maps, 1)


def _by_view(points: Tensor) -> Tensor:
    """(B, N, 3) -> (V, B, N, 3): down, across, depth."""
    return torch.stack([points[..., axes] for axes in map(list, AXES)])


def _cells(plane: Tensor, low: Tensor, cell: Tensor) -> Tensor:
    """⌊(p − low) / cell⌋ of p (…, N, 2), low (…, 2), cell (…)."""
    return ((plane - low[..., None, :]) / cell[..., None, None]).floor()
