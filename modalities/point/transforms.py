"""Normalisation, sampling and augmentation of one cloud (N, 3 + C); channels behind x, y, z stay as they are.

Random numbers come from torch's global generator.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import BadSample
from modalities.point.grouping import ORIGIN, farthest

Sampling = Literal["random", "farthest", "farthest_random"]
MORE = 75 / 64  # times the points, from which a random part is taken: published as 1200 of 1024, 2400 of 2048
MOST_FARTHEST = 2**16  # points among which the farthest are looked for; of more, a random part


def normalise(points: np.ndarray) -> np.ndarray:
    """Points moved and scaled so that their centroid is 0 and the farthest has radius 1.

    In double precision: maps count metres in the hundred thousands. They must not all coincide.
    """
    points = points.astype(np.float64)
    points[:, :3] -= points[:, :3].mean(0)
    points[:, :3] /= np.abs(points[:, :3]).max()  # squares of very large and very small coordinates stay in range
    points[:, :3] /= np.sqrt(np.square(points[:, :3]).sum(1).max())
    return points


def check_extent(points: np.ndarray) -> None:
    """Raises: BadSample where all points are the same."""
    if (points[:, :3] == points[0, :3]).all():
        raise BadSample("its points are all the same: a cloud needs an extent")


def random_rows(count: int, size: int) -> np.ndarray:
    """`size` of the rows 0 to `count` - 1 in random order, each once; all of them where they are no more."""
    if count <= 4 * size:
        return torch.randperm(count)[:size].numpy()

    # Draws that repeat are dropped: memory and time do not grow with the cloud.
    rows = torch.zeros(0, dtype=torch.long)
    while len(rows) < size:
        rows = torch.cat([rows, torch.randint(count, (2 * size,))]).unique()
    return rows[torch.randperm(len(rows))[:size]].numpy()


def farthest_points(points: Tensor, count: int) -> Tensor:
    """`count` of the points (N, 3 + C) by farthest-point sampling from the first on; all where they are no more.

    Points at the origin are taken last, as published.
    """
    if len(points) <= count:
        return points
    far_out = int((points[:, :3].square().sum(1) > ORIGIN).sum())
    rows = farthest(points[None], count, skip_origin=far_out >= count)
    return points[rows[0]]


class Draw:
    """Draws `count` points of a cloud, normalised: array (N, K) -> float32 (`count`, K); of fewer, all.

    `count` None: all points, in their order. `sampling`: "random": a random part, which is then normalised
    (ShapeNet, pre-training); "farthest": of the normalised cloud the farthest points; "farthest_random": more of
    them, `MORE` times as many, and of those a random part (ModelNet40 and ScanObjectNN, fine-tuning; "farthest"
    in evaluation). `normalised` False: coordinates stay as they are (ScanObjectNN).
    Of very large clouds farthest points are looked for in a random part of `MOST_FARTHEST`.
    Source: Pang-Yatian/Point-MAE.
    """

    def __init__(self, count: int | None, sampling: Sampling, normalised: bool):
        self.count, self.sampling, self.normalised = count, sampling, normalised

    def __call__(self, points: np.ndarray, train: bool) -> Tensor:
        """Raises: BadSample where all points are the same."""
        if self.count is None:
            return self._normalise(points)
        if self.sampling == "random":
            return self._normalise(points[random_rows(len(points), self.count)])

        if len(points) > MOST_FARTHEST:
            points = points[random_rows(len(points), MOST_FARTHEST)]
        cloud = self._normalise(points)
        if self.sampling == "farthest" or not train:
            return farthest_points(cloud, self.count)
        cloud = farthest_points(cloud, math.ceil(self.count * MORE))
        return cloud[torch.from_numpy(random_rows(len(cloud), self.count))]

    def _normalise(self, points: np.ndarray) -> Tensor:
        check_extent(points)
        if self.normalised:
            points = normalise(points)
        return torch.from_numpy(np.array(points, dtype=np.float32))


class Scale(nn.Module):
    """Scales each axis by a factor of its own, uniform in [`low`, `high`]."""

    def __init__(self, low: float = 2 / 3, high: float = 3 / 2):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, points: Tensor) -> Tensor:
        factors = torch.ones(points.shape[1])
        factors[:3].uniform_(self.low, self.high)
        return points * factors


class Shift(nn.Module):
    """Moves all points along each axis by a distance uniform in [-`reach`, `reach`]."""

    def __init__(self, reach: float = 0.2):
        super().__init__()
        self.reach = reach

    def forward(self, points: Tensor) -> Tensor:
        distances = torch.zeros(points.shape[1])
        distances[:3].uniform_(-self.reach, self.reach)
        return points + distances


class Rotate(nn.Module):
    """Turns the points about the vertical, the y axis, by an angle uniform in [-π, π].

    `normals`: the three channels behind the coordinates are directions, which turn too.
    """

    def __init__(self, normals: bool = False):
        super().__init__()
        self.normals = normals

    def forward(self, points: Tensor) -> Tensor:
        angle = torch.empty(()).uniform_(-math.pi, math.pi)
        sine, cosine = angle.sin(), angle.cos()
        zero, one = torch.zeros(()), torch.ones(())
        turn = torch.stack([cosine, zero, sine, zero, one, zero, -sine, zero, cosine]).view(3, 3)

        parts = [points[:, :3] @ turn.T, points[:, 3:]]
        if self.normals:
            parts = [parts[0], points[:, 3:6] @ turn.T, points[:, 6:]]
        return torch.cat(parts, 1)


def published() -> list[nn.Module]:
    """The augmentation of pre-training: scale, then shift, on each axis."""
    return [Scale(), Shift()]
