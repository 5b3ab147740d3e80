"""Graphs as tokens: one token per node, links travel along in the layout."""

from collections.abc import Sequence
from typing import Any

from core.errors import UserError
from core.tokenizers import Tokenizer
from core.tokens import Layout, Tokens
from modalities.graph.graphs import Graphs, of_pyg


class Nodes(Tokenizer):
    """Every node is a token; its content is its raw features: packed, (1, N, C), or bags (1, N, 2, K) where sparse.

    Takes `Graphs` and torch_geometric's Data or Batch. `features`: C. `loop`: what a self-loop's edge attributes are
    (molecules), for graphs that come from outside. Side: `roots`, the nodes that sampled subgraphs grew from.
    """

    def __init__(self, features: int, loop: Sequence[int] | None = None):
        super().__init__()
        self.features, self.loop = features, loop

    @property
    def provides(self) -> dict:
        return {"features": self.features}

    def forward(self, data: Any) -> Tokens:
        graphs = data if isinstance(data, Graphs) else of_pyg(data, self.loop)
        if graphs.features != self.features:
            raise UserError(
                f"The graphs have {graphs.features} features per node; the method is built for {self.features}. "
                f"Set modality.features={graphs.features}."
            )
        layout = Layout(
            len(graphs.x),
            coords=None if graphs.position is None else graphs.position[None],
            sample=graphs.sample,
            samples=len(graphs.counts),
            counts=graphs.counts,
            edges=graphs.edge_index,
            edge_content=graphs.edge_attr,
        )
        side = {} if graphs.roots is None else {"roots": graphs.roots}
        return Tokens(graphs.x[None], layout, side)
