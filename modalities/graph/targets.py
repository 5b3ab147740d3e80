"""Targets of graphs: the raw features of nodes."""

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
        if content.dim() == 4:  # sparse, (1, M, 2, K)
            content = to_dense(content, self.out)
        return TargetValues(content.float())
