"""Graph encoders: GAT, dot-product GAT, GCN and GIN as GraphMAE has them, and any torch_geometric module."""

from collections.abc import Sequence

from torch import Tensor, nn

from core.encoder import Encoder
from core.tokens import EncoderInput, Latent
from modalities.graph.nn.elementwise import dropout
from modalities.graph.nn.layers import (
    Activation,
    DotGATLayer,
    GATLayer,
    GCNLayer,
    GINLayer,
    GraphLayer,
    MaskedInput,
    Norm,
    Residual,
    TokenStart,
)
from modalities.graph.nn.message_passing import EdgeIndex


class GNNEncoder(Encoder):
    """Layers one after another over every node, hidden ones as a learned vector.

    The latent is the last layer's output, which is probed and exported. Decoders that read several layers
    (the official `concat_hidden`) get the others as taps: the official `embed`, too, returns the last layer
    alone. `token`: the learned vector's start.
    Shapes: EncoderInput (1, N, C) -> Latent (1, N, D). Taps: "layer0", ….
    """

    masking = "replace"
    layers: nn.ModuleList

    def __init__(self, features: int, width: int, depth: int, feat_drop: float, token: TokenStart):
        super().__init__()
        self.feat_drop, self.input = feat_drop, MaskedInput(features, token)
        self.embed_dim, self.depth = width, depth

    @property
    def provides(self) -> dict:
        return {"width": self.embed_dim}

    def forward(self, inputs: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        links = EdgeIndex.of(inputs.layout)
        outs = [self.first(inputs, links)]
        for layer in self.layers[1:]:
            outs.append(layer(dropout(outs[-1], self.feat_drop, self.training), links))
        return _latent(outs, inputs, taps)

    def first(self, inputs: EncoderInput, edges: EdgeIndex) -> Tensor:
        """The first layer's output, (N, width). Where it starts with a linear map, bags stay as they are."""
        layer = self.layers[0]
        if not isinstance(layer, GraphLayer) or layer.is_identity:
            return layer(self.input(inputs, self.feat_drop), edges)
        return layer.propagate(self.input.project(inputs, layer.weight, self.feat_drop), edges, None)


class GAT(GNNEncoder):
    """`depth` GAT layers, all of one width split over `heads`.

    The last layer has heads, norm and activation like the others; a single layer has no
    activation (as published).
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
        token: TokenStart = "zero",
    ):
        super().__init__(features, width, depth, feat_drop, token)
        if depth == 1:
            activation = "none"
        self.layers = nn.ModuleList(
            GATLayer(size, width, heads, attn_drop, slope, residual, norm, activation)
            for size in input_sizes(features, width, depth)
        )


class DotGAT(GNNEncoder):
    """`depth` layers of dot-product attention, all of one width split over `heads`; else as `GAT`.

    Source: THUDM/GraphMAE (encoder_type "dotgat").
    """

    def __init__(
        self,
        features: int,
        width: int,
        depth: int,
        heads: int,
        feat_drop: float = 0.0,
        attn_drop: float = 0.0,
        residual: Residual = "none",
        norm: Norm = "none",
        activation: Activation = "prelu",
        token: TokenStart = "zero",
    ):
        super().__init__(features, width, depth, feat_drop, token)
        if depth == 1:
            activation = "none"
        self.layers = nn.ModuleList(
            DotGATLayer(size, width, heads, attn_drop, residual, norm, activation)
            for size in input_sizes(features, width, depth)
        )


class GCN(GNNEncoder):
    """`depth` graph convolutions; norm and activation follow each, a single one too.

    Source: THUDM/GraphMAE (encoder_type "gcn").
    """

    def __init__(
        self,
        features: int,
        width: int,
        depth: int,
        feat_drop: float = 0.0,
        residual: Residual = "none",
        norm: Norm = "none",
        activation: Activation = "prelu",
        token: TokenStart = "zero",
    ):
        super().__init__(features, width, depth, feat_drop, token)
        self.layers = nn.ModuleList(
            GCNLayer(size, width, residual, norm, activation) for size in input_sizes(features, width, depth)
        )


class GIN(GNNEncoder):
    """`depth` GIN layers. Norms see all nodes of the batch.

    With norm="none" the last layer is its MLP alone, without activation, as published. "identity" keeps the
    activation, as the official code does for names of norms that it does not have.
    Source: THUDM/GraphMAE (graph level).
    """

    def __init__(
        self,
        features: int,
        width: int,
        depth: int,
        feat_drop: float = 0.0,
        residual: bool = False,
        norm: Norm = "batch",
        activation: Activation = "prelu",
        token: TokenStart = "zero",
    ):
        super().__init__(features, width, depth, feat_drop, token)
        self.layers = nn.ModuleList(
            GINLayer(size, width, norm, activation, residual, bare=norm == "none" and i == depth - 1)
            for i, size in enumerate(input_sizes(features, width, depth))
        )


class PyGEncoder(Encoder):
    """Any module with forward(x, edge_index), of torch_geometric say, as it is; it gets
    one self-loop per node.

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

    def forward(self, inputs: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        return _latent([self.module(self.input(inputs), inputs.layout.edges)], inputs, taps)


def input_sizes(features: int, width: int, depth: int) -> list[int]:
    """Widths of what each layer reads."""
    return [features] + [width] * (depth - 1)


def _latent(outs: list[Tensor], inputs: EncoderInput, taps: Sequence[str]) -> Latent:
    tapped = {f"layer{i}": out[None] for i, out in enumerate(outs) if f"layer{i}" in taps}
    return Latent(outs[-1][None], inputs.layout, rows=inputs.rows, taps=tapped)
