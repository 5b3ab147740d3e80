"""What is predicted of a group of points."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import UserError
from core.targets import Target
from core.tokens import ForwardContext, Layout, Query, Rows, TargetValues, Tokens, levels


class GroupPoints(Target):
    """The coordinates of a group's members relative to its centre, as they are: values (B, M, S, 3).

    `members`: S. `points`: how many points are predicted, which may be more (chamfer distance); default S. Revealed are
    the centres of hidden groups, as published.
    Source: Pang-Yatian/Point-MAE.
    """

    def __init__(self, members: int, points: int | None = None):
        super().__init__()
        self.out = 3 * (points or members)

    @torch.no_grad()
    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        tokens = levels(ctx.tokens[view])[query.level]
        rows = query.rows_in(tokens.layout, tokens.content)
        return TargetValues(rows.gather(tokens.content)[..., :3])

    def unseen(self, ctx: ForwardContext, view: str, query: Query, hidden: Sequence[Tensor]) -> Tensor | None:
        """Members (B, M, S) that are in no visible group; groups overlap. None where clouds bring no plans."""
        layout = levels(ctx.tokens[view])[query.level].layout
        if layout.children is not None:
            members, flags = layout.children, hidden[query.level + 1]
        else:
            clouds = ctx.batch.views[view]
            if not clouds.plans:
                return None
            members = clouds.plans[0].members
            flags = _in_no_group(members, ~hidden[query.level], max(map(len, clouds)))

        unseen = Rows(members.flatten(1)).gather(flags).unflatten(1, members.shape[1:])
        return query.rows_in(layout, unseen).gather(unseen)


def _in_no_group(members: Tensor, groups: Tensor, points: int) -> Tensor:
    """Flags (B, points) of the points that are members (B, G, S) of none of the flagged `groups` (B, G)."""
    count = torch.zeros(len(members), points, device=members.device)
    present = groups[..., None].expand_as(members).flatten(1).float()
    return count.scatter_add(1, members.flatten(1), present) == 0


class ViewFeatures(Target):
    """Features of an image encoder over depth views at each member of a group: values (B, M, S · V · D).

    `teacher`: name of the `DepthViews`; `members`: S; `teacher_width`: V · D, one view behind the other.
    Raises: UserError where the teacher's features or the groups have other sizes.
    Source: ZrrSkywalker/I2P-MAE.
    """

    def __init__(self, teacher: str, members: int, teacher_width: int):
        super().__init__()
        self.teacher, self.members, self.teacher_width = teacher, members, teacher_width
        self.out = members * teacher_width

    @torch.no_grad()
    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        tokens = levels(ctx.tokens[view])[query.level]
        rows = query.rows_in(tokens.layout, tokens.content)
        places = rows.gather(_members(tokens))  # (B, M, S, 3)

        maps = ctx.teacher_output(self.teacher)
        features = maps.projection.at(maps.features, places.flatten(1, 2)).flatten(2)
        sizes = {"members": (self.members, places.shape[2]), "teacher_width": (self.teacher_width, features.shape[2])}
        for name, (size, actual) in sizes.items():
            if size != actual:
                raise UserError(f"ViewFeatures: {name}={size} must be {actual}: set it in the objective's target.")
        return TargetValues(features.unflatten(1, places.shape[1:3]).flatten(2))


def _members(tokens: Tokens) -> Tensor:
    """Coordinates of the members of each group (B, G, S, 3), not relative to the centre."""
    layout: Layout = tokens.layout
    assert layout.coords is not None, "groups have centres"
    if layout.children is None or layout.finer is None:
        return tokens.content[..., :3] + layout.coords[:, :, None]
    # Those of the finer level themselves: sums would be off by a digit, which can be another cell of a picture.
    assert layout.finer.coords is not None, "groups have centres"
    return Rows(layout.children.flatten(1)).gather(layout.finer.coords).unflatten(1, layout.children.shape[1:])
