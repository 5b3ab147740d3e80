"""Graphs as tokens: one token per node; edges travel along in the layout."""

from collections.abc import Sequence
from typing import Any

from core.errors import UserError
from core.tokenizers import Tokenizer
from core.tokens import Layout, Tokens
from modalities.graph.graphs import Graphs, from_pyg


class Nodes(Tokenizer):
    """Every node is a token with its raw features as content: packed, (1, N, C), or (1,
    N, 2, K) where sparse.

    Takes `Graphs` and torch_geometric's Data or Batch. `features`: C. `loop`: edge attributes of self-loops
    (molecules), for graphs of torch_geometric. Side: `roots`, the nodes that sampled subgraphs grew from.
    Raises: UserError for graphs with another number of features.
    """

    def __init__(self, features: int, loop: Sequence[int] | None = None):
        super().__init__()
        self.features, self.loop = features, loop

    @property
    def provides(self) -> dict:
        return {"features": self.features}

    def forward(self, data: Any) -> Tokens:
        graphs = data
        if not isinstance(data, Graphs):
            graphs = from_pyg(data, self.loop)
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
        side = {}
        if graphs.roots is not None:
            side["roots"] = graphs.roots
        return Tokens(graphs.x[None], layout, side=side)
