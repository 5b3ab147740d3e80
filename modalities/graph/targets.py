"""What is predicted of a node: its raw features, or what a teacher makes of it."""

import torch

from core.targets import Target
from core.tokens import Place, Step, Truth
from modalities.graph.graphs import to_dense


class NodeFeatures(Target):
    """The raw features (1, M, C), not normalised: the cosine error does that."""

    def __init__(self, features: int):
        super().__init__()
        self.out = features

    @torch.no_grad()
    def forward(self, step: Step, view: str, place: Place) -> Truth:
        content = place.rows.take(step.tokens[view].content)
        return Truth(to_dense(content, self.out) if content.dim() == 4 else content.float())
