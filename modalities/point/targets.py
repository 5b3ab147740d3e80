"""What is predicted of a group of points."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.targets import Target
from core.tokens import ForwardContext, Query, Rows, TargetValues, levels


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
