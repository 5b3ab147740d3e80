"""Point clouds as raw samples: `Clouds` of float32 (R, n, 3 + C)."""

from collections.abc import Sequence
from math import ceil, sqrt
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.data.facts import DataFacts, SampleFacts
from core.data.reader import WholeReader
from core.data.sources import Item, Setting
from core.errors import BadSample, UserError
from modalities.point import transforms
from modalities.point.clouds import Clouds, join
from modalities.point.formats import files
from modalities.point.formats.cloud import Cloud
from modalities.point.grouping import Grouping
from modalities.point.transforms import Draw, Sampling

SURFACE = 8192  # points of a mesh, as many as the published files of ShapeNet have
SIDE = 8  # cells along each axis of `occupancy`
BINS, PAIRED = 64, 1024  # of `distances`: bins, and points of a cloud between which they are
FEWEST = 4  # groups, and members of one, that are chosen
DENSE = 2  # times as many points as groups hold: groups leave out half of the cloud


class PointClouds(WholeReader):
    """Reads `points` points of a cloud as float32 (1, n, `channels`): x, y, z, then the file's next channels.

    A cloud with fewer points gives all of them, in random order; None reads all. `sampling` and `normalise`: as
    in `transforms.Draw`. Training then goes through `transform`, a list of modules on (n, `channels`), by default
    the published scale and shift. With `grouping` samples carry their plans, made in the loader's workers.

    `arrays`: of a .npz or .h5 those that hold a cloud together, coordinates first ([points, normals]); by default one.
    Meshes give `SURFACE` points of their surface, the same every time, or `points` if that is more.
    Channels of a file beyond `channels` are not read, which `measure` notes.
    """

    view = "point"
    extensions = files.EXTENSIONS
    sample_axes = 1

    def __init__(
        self,
        points: int | None = 1024,
        channels: int = 3,
        sampling: Sampling = "random",
        normalise: bool = True,
        transform: Sequence[nn.Module] | None = None,
        grouping: Grouping | None = None,
        arrays: Sequence[str] = (),
    ):
        if points is not None and points < 2:
            raise UserError(f"modality.points is {points}: it must be at least 2, or null for all points.")
        if channels < 3:
            raise UserError(f"modality.channels is {channels}: x, y and z count, so it must be at least 3.")

        if transform is None:
            transform = transforms.published()
        self.transform = nn.Sequential(*transform)
        self.points, self.channels, self.grouping, self.arrays = points, channels, grouping, tuple(arrays)
        self.draw = Draw(points, sampling, normalise)

    def decode(self, item: Item) -> np.ndarray:
        """The whole cloud (N, 3 + C), in the file's own precision; of a .npy a memory map.

        Raises: BadSample where it has fewer channels than `channels`.
        """
        points = self._read(item).points
        if points.shape[1] < self.channels:
            raise BadSample(
                f"has {points.shape[1]} channels a point, x, y and z among them, but modality.channels="
                f"{self.channels}: set modality.channels={points.shape[1]}, or give files with more"
            )
        return points[:, : self.channels]

    def augment(self, raw: np.ndarray, train: bool) -> Clouds:
        cloud = self.draw(raw, train)
        if train:
            cloud = self.transform(cloud)
        clouds = Clouds(cloud[None])
        if self.grouping is None:
            return clouds

        try:
            plans = self.grouping(clouds)
        except UserError as error:
            raise BadSample(str(error)) from error
        self._check_centres(cloud, cloud[plans[0].centres[0], :3])
        return Clouds(clouds.points, plans=plans)

    def _check_centres(self, cloud: Tensor, centres: Tensor) -> None:
        """Raises: BadSample where groups share their centre because too few points are distinct."""
        groups = len(centres)
        if len(centres.unique(dim=0)) == groups:  # of a few centres, which takes less time than of all points
            return
        distinct = len(cloud[:, :3].unique(dim=0))
        if distinct < groups:
            raise BadSample(
                f"of its {len(cloud)} points {distinct} are distinct, too few for {groups} groups: "
                f"set modality.groups={distinct} or less"
            )

    def collate(self, samples: list[Any]) -> Clouds:
        return join(samples)

    def measure(self, item: Item) -> SampleFacts:
        """Channels that are read, (points,), and notes on those that are not and on clouds of few or many points."""
        cloud = self._read(item)
        count, channels = cloud.points.shape
        notes = list(cloud.notes)
        if channels > self.channels:
            notes.append(f"{channels} channels a point, of which modality.channels={self.channels} are read")
        if self.points is not None and count < self.points:
            notes.append(f"fewer points than modality.points={self.points}: all of them are read")

        if self.grouping is not None:
            places = self.grouping.groups[0] * self.grouping.members[0]
            if min(count, self.points or count) > DENSE * places:
                notes.append(
                    f"its groups hold less than half of the points that are read ({places} places, modality.groups × "
                    "modality.members): lower modality.points, or raise these"
                )
        return SampleFacts(channels=min(channels, self.channels), size=(count,), notes=tuple(notes))

    def defaults(self, facts: DataFacts) -> list[Setting]:
        """Groups and their members, where most clouds have fewer points than are read: both by the root of the share.

        Groups then overlap as much as they do with all points.
        """
        if self.grouping is None or self.points is None or not facts.sizes:
            return []
        points = int(median(size[0] for size in facts.sizes))
        if points >= self.points:
            return []

        share = sqrt(points / self.points)
        groups, members, most = [], [], points
        for count, size in zip(self.grouping.groups, self.grouping.members, strict=True):
            groups.append(min(most, max(FEWEST, round(share * count))))
            members.append(min(most, max(FEWEST, round(share * size))))
            most = groups[-1]
        reason = f"clouds have {points} points (median), fewer than {self.points}"
        return [Setting("modality.groups", groups, reason=reason), Setting("modality.members", members, reason=reason)]

    def raw_features(self, data: Clouds, by_token: bool) -> Tensor | None:
        """Shares of points in a grid of 8³ cells (B, 512): of one length, however many points there are."""
        if by_token:
            return None
        return torch.stack([occupancy(cloud) for cloud in data])

    def descriptors(self, data: Clouds) -> dict[str, Tensor]:
        """Histograms of the distances between pairs of points (B, 64), blind to how a cloud is turned."""
        return {"distances between pairs": torch.stack([distances(cloud) for cloud in data])}

    def _read(self, item: Item) -> Cloud:
        return files.read(item, max(SURFACE, self.points or 0), self.arrays)


def distances(cloud: Tensor) -> Tensor:
    """Shares of the pairs of points by their distance, in 64 bins from 0 to 2, the diameter of the unit sphere.

    (N, 3 + C) -> (64,). Longer ones count for the last bin. Of clouds with more than `PAIRED` points every
    second, third and so on is taken, so that no more than these are left.
    """
    step = max(1, ceil(len(cloud) / PAIRED))
    lengths = torch.pdist(cloud[::step, :3].float())
    bins = (lengths / 2 * BINS).long().clamp(max=BINS - 1)
    return bins.bincount(minlength=BINS) / max(len(lengths), 1)


def occupancy(cloud: Tensor) -> Tensor:
    """Share of the points in each of 8³ cells of the cube [-1, 1]³ around the unit sphere: (N, 3 + C) -> (512,).

    Points outside count for the nearest cell.
    """
    cells = ((cloud[:, :3] + 1) / 2 * SIDE).floor().clamp(0, SIDE - 1).long()
    places = (cells[:, 0] * SIDE + cells[:, 1]) * SIDE + cells[:, 2]
    return places.bincount(minlength=SIDE**3) / len(cloud)
