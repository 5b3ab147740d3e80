"""What is predicted of a node: its raw features, or what a teacher makes of it."""

import torch

from core.targets import Target
from core.tokens import ForwardContext, Query, TargetValues
from modalities.graph.graphs import to_dense


class NodeFeatures(Target):
    """The raw features (1, M, C), not normalised: the cosine error does that."""

    def __init__(self, features: int):
        super().__init__()
        self.out = features

    @torch.no_grad()
    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        content = query.rows.gather(ctx.tokens[view].content)
        return TargetValues(to_dense(content, self.out) if content.dim() == 4 else content.float())
