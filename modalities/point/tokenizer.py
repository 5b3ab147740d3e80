"""Clouds -> tokens: groups of points round centres, in one or several levels."""

from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.tokenizers import Tokenizer
from core.tokens import Layout, Rows, Tokens
from modalities.point.clouds import Plan, as_clouds
from modalities.point.grouping import Grouping


class PointGroups(Tokenizer):
    """Clouds -> Tokens with content (B, G, S, 3 + C): the members of each group, x y z relative to its centre.

    The layout has the centres as coordinates (B, G, 3). With several levels the tokens are a pyramid, coarsest first:
    a level's members are the groups of the next finer one, and its children. `channels`: of a point, coordinates
    included. Plans that clouds bring are taken, others made.
    Raises: UserError for clouds with fewer channels or points.
    """

    takes = "clouds (B, N, 3 + C), or a list of (N, 3 + C), scaled as encoder.read(…) scales those of files"

    def __init__(self, grouping: Grouping, channels: int = 3):
        super().__init__()
        self.grouping, self.channels = grouping, channels

    @property
    def provides(self) -> dict:
        return {
            "axes": 3,
            "channels": self.channels,
            "members": self.grouping.members[-1],
            "values": 3 * self.grouping.members[-1],
        }

    def forward(self, data: Any) -> Tokens:
        clouds = as_clouds(data)
        if clouds.channels < self.channels:
            raise UserError(
                f"Points have {clouds.channels} values each; modality.channels={self.channels} were trained with. "
                "Give clouds with as many, in the same order: x, y, z, then the further ones."
            )

        finest, *higher = self.grouping(clouds)
        tokens = self._finest(clouds.points, finest)
        for plan in higher:
            tokens = _coarser(tokens, plan)
        return tokens

    def _finest(self, points: Any, plan: Plan) -> Tokens:
        if isinstance(points, Tensor):
            centres, members = _gather(points, plan, self.channels)
        else:
            rows = zip(points, plan.centres, plan.members, strict=True)
            pairs = [_gather(cloud[None], Plan(c[None], m[None]), self.channels) for cloud, c, m in rows]
            centres, members = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return Tokens(members, Layout(members.shape[1], coords=centres))


def _gather(points: Tensor, plan: Plan, channels: int) -> tuple[Tensor, Tensor]:
    """Centres (B, G, 3), and members (B, G, S, channels) relative to them."""
    points = points[..., :channels].float()
    centres = Rows(plan.centres).gather(points[..., :3])
    members = Rows(plan.members.flatten(1)).gather(points).unflatten(1, plan.members.shape[1:])
    xyz = members[..., :3] - centres[:, :, None]
    return centres, torch.cat([xyz, members[..., 3:]], 3)


def _coarser(finer: Tokens, plan: Plan) -> Tokens:
    """Groups of groups: their content is the centres of their members, relative to their own."""
    coords = finer.layout.coords
    assert coords is not None, "groups have centres"
    centres, members = _gather(coords, plan, 3)
    layout = Layout(members.shape[1], coords=centres, finer=finer.layout, children=plan.members)
    return Tokens(members, layout, finer=finer)
