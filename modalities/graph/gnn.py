"""Graph encoders: GAT and GIN as GraphMAE has them, and any torch_geometric module."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.encoder import Encoder
from core.tokens import EncoderInput, Latent
from modalities.graph.elementwise import dropout
from modalities.graph.layers import Activation, GATLayer, GINLayer, MaskedInput, Norm, Residual, TokenStart
from modalities.graph.messages import EdgeIndex


class GNNEncoder(Encoder):
    """Layers one after another over every node, hidden ones as a learned vector.

    `concat`: the outputs of all layers side by side are the latent. `token`: the learned vector's start.
    Shapes: EncoderInput (1, N, C) -> Latent (1, N, D). Taps: "layer0", ….
    """

    masking = "replace"
    layers: nn.ModuleList

    def __init__(self, features: int, width: int, depth: int, feat_drop: float, concat: bool, token: TokenStart):
        super().__init__()
        self.feat_drop, self.concat, self.input = feat_drop, concat, MaskedInput(features, token)
        self.embed_dim, self.depth = width * depth if concat else width, depth

    @property
    def provides(self) -> dict:
        return {"width": self.embed_dim}

    def forward(self, seen: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        links = EdgeIndex.of(seen.layout)
        outs = [self.first(seen, links)]
        for layer in self.layers[1:]:
            outs.append(layer(dropout(outs[-1], self.feat_drop, self.training), links))
        return _latent(outs, seen, taps, self.concat)

    @abstractmethod
    def first(self, seen: EncoderInput, edges: EdgeIndex) -> Tensor:
        """What the first layer makes of raw content, (N, width)."""


class GAT(GNNEncoder):
    """`depth` GAT layers, all of one width split over `heads`.

    The last layer has heads, norm and activation like the others; a single layer has no activation (as published).
    Source: THUDM/GraphMAE; residual="unequal", token="xavier": THUDM/GraphMAE2.
    """

    def __init__(
        self,
        features: int,
        width: int,
        depth: int,
        heads: int,
        feat_drop: float = 0.0,
        attn_drop: float = 0.0,
        slope: float = 0.2,
        residual: Residual = "none",
        norm: Norm = "none",
        activation: Activation = "prelu",
        concat: bool = False,
        token: TokenStart = "zero",
    ):
        super().__init__(features, width, depth, feat_drop, concat, token)
        activation = "none" if depth == 1 else activation
        self.layers = nn.ModuleList(
            GATLayer(features if i == 0 else width, width, heads, attn_drop, slope, residual, norm, activation)
            for i in range(depth)
        )

    def first(self, seen: EncoderInput, edges: EdgeIndex) -> Tensor:
        layer = self.layers[0]
        if layer.is_identity:
            return layer(self.input(seen, self.feat_drop), edges)
        return layer.propagate(self.input.project(seen, layer.weight, self.feat_drop), edges, None)


class GIN(GNNEncoder):
    """`depth` GIN layers. Norms see all nodes of the batch. Source: THUDM/GraphMAE (graph level)."""

    def __init__(
        self,
        features: int,
        width: int,
        depth: int,
        feat_drop: float = 0.0,
        residual: bool = False,
        norm: Norm = "batch",
        activation: Activation = "prelu",
        concat: bool = False,
        token: TokenStart = "zero",
    ):
        super().__init__(features, width, depth, feat_drop, concat, token)
        self.layers = nn.ModuleList(
            GINLayer(features if i == 0 else width, width, norm, activation, residual) for i in range(depth)
        )

    def first(self, seen: EncoderInput, edges: EdgeIndex) -> Tensor:
        return self.layers[0](self.input(seen, self.feat_drop), edges)


class PyGEncoder(Encoder):
    """Any module with forward(x, edge_index), of torch_geometric say, as it is; it gets one self-loop per node.

    `module` maps (N, features) to (N, width). Modules that add self-loops themselves should be told not to.
    """

    masking = "replace"

    def __init__(self, module: nn.Module, features: int, width: int):
        super().__init__()
        self.input, self.module = MaskedInput(features), module
        self.embed_dim, self.depth = width, 1

    @property
    def provides(self) -> dict:
        return {"width": self.embed_dim}

    def forward(self, seen: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        return _latent([self.module(self.input(seen), seen.layout.edges)], seen, taps, False)


def _latent(outs: list[Tensor], seen: EncoderInput, taps: Sequence[str], concat: bool) -> Latent:
    tapped = {f"layer{i}": out[None] for i, out in enumerate(outs) if f"layer{i}" in taps}
    return Latent(torch.cat(outs, 1)[None] if concat else outs[-1][None], seen.layout, seen.rows, None, tapped)
