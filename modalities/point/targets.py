"""What is predicted of a group of points."""

import torch

from core.targets import Target
from core.tokens import ForwardContext, Query, TargetValues, levels


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
