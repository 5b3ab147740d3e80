"""Graph encoders: GAT and GIN as GraphMAE has them, molecules' GIN, and any torch_geometric module."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.encoder import Encoder
from core.tokens import Latent, Seen
from modalities.graph.graphs import to_dense
from modalities.graph.messages import Links, edge_softmax, neighbour_sum, weighted_sum

Norm = Literal["none", "layer", "batch"]
Activation = Literal["none", "prelu", "relu", "elu"]
Residual = Literal["none", "identity", "unequal"]


class Input(nn.Module):
    """Raw content with the learned vector at emptied nodes: (1, N, C) or bags -> a linear map of it, or itself."""

    def __init__(self, features: int, init: Literal["zero", "xavier"] = "zero"):
        super().__init__()
        self.features = features
        self.mask_token = nn.Parameter(torch.zeros(1, features))
        if init == "xavier":
            nn.init.xavier_normal_(self.mask_token)

    def forward(self, seen: Seen, drop: float = 0.0) -> Tensor:
        """(N, C), dense."""
        x = seen.content[0]
        x = to_dense(x, self.features) if x.dim() == 3 else x
        if seen.emptied is not None:
            x = torch.where(seen.emptied[0][:, None], self.mask_token, x)
        return F.dropout(x, drop, self.training)

    def project(self, seen: Seen, weight: Tensor, drop: float) -> Tensor:
        """dropout(content) @ weightᵀ, (N, D), without making bags dense where that costs more (CPU)."""
        x = seen.content[0]
        if x.dim() == 2 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return F.linear(self(seen, drop), weight)
        value, column = x.unbind(1)
        value = F.dropout(value, drop, self.training).to(weight.dtype)
        out = F.embedding_bag(column.long(), weight.T, mode="sum", per_sample_weights=value)
        if seen.emptied is None:
            return out
        rows = seen.emptied[0].nonzero()[:, 0]
        # m ∘ token for 0/1 rows m of dropout: the gradients of token and weight share one product this way.
        kept = F.dropout(weight.new_ones(len(rows), self.features), drop, self.training)
        return out.index_copy(0, rows, F.linear(kept, weight * self.mask_token))


class GATLayer(nn.Module):
    """Attention over a node's incoming edges: softmax of LeakyReLU(s·f_from + r·f_to), f = W h; heads side by side.

    out = activation(norm(Σ a f + bias + residual)); feature dropout comes before W and the residual, attention dropout
    after the softmax. Initialised Xavier normal with gain √2.
    Shapes: h (N, C) -> (N, heads · D). Source: THUDM/GraphMAE (own layer; torch_geometric's differs).
    """

    def __init__(
        self,
        features: int,
        width: int,
        heads: int,
        attn_drop: float = 0.0,
        slope: float = 0.2,
        residual: Residual = "none",
        norm: Norm = "none",
        activation: Activation = "none",
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads, self.attn_drop, self.slope = heads, attn_drop, slope
        self.linear = nn.Linear(features, width, bias=False)
        self.sender = nn.Parameter(torch.empty(1, heads, width // heads))
        self.receiver = nn.Parameter(torch.empty(1, heads, width // heads))
        self.bias = nn.Parameter(torch.zeros(width))
        needs_linear = residual != "none" and features != width
        self.residual = nn.Linear(features, width, bias=False) if needs_linear else None
        self.is_identity = residual == "identity" and features == width
        self.norm, self.activation = make_norm(norm, width), make_activation(activation)
        for weight in (
            self.linear.weight,
            self.sender,
            self.receiver,
            *(self.residual.parameters() if needs_linear else ()),
        ):
            nn.init.xavier_normal_(weight, gain=2**0.5)

    def forward(self, h: Tensor, links: Links) -> Tensor:
        return self.pass_on(F.linear(h, self.weight), links, h)

    @property
    def weight(self) -> Tensor:
        """Of everything that reads h at once: (width [+ width of the residual], C)."""
        return self.linear.weight if self.residual is None else torch.cat([self.linear.weight, self.residual.weight])

    def pass_on(self, projected: Tensor, links: Links, h: Tensor | None) -> Tensor:
        """From h · weightᵀ on; h itself only matters to an identity residual."""
        width = self.linear.out_features
        f = projected[:, :width].unflatten(1, (self.heads, -1))
        attention = F.dropout(self.attention(f, links), self.attn_drop, self.training)
        out = weighted_sum(f, attention.to(f.dtype), links).flatten(1) + self.bias
        if self.residual is not None:
            out = out + projected[:, width:]
        if self.is_identity:
            out = out + h
        return self.activation(self.norm(out))

    def attention(self, f: Tensor, links: Links) -> Tensor:
        """f (N, K, D) -> (E, K), before dropout."""
        sent, received = (f * self.sender).sum(2), (f * self.receiver).sum(2)
        return edge_softmax(F.leaky_relu(sent[links.source] + received[links.row], self.slope), links)


class GAT(Encoder):
    """`depth` GAT layers, all of one width split over `heads`; every node is there, hidden ones as a learned vector.

    The last layer has heads, norm and activation like the others; a single layer has no activation (as published).
    `concat`: the outputs of all layers side by side are the latent. `token`: the learned vector's start.
    Shapes: Seen (1, N, C) -> Latent (1, N, D). Taps: "layer0", ….
    Source: THUDM/GraphMAE; residual="unequal", token="xavier": THUDM/GraphMAE2.
    """

    hide = "blank"

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
        token: Literal["zero", "xavier"] = "zero",
    ):
        super().__init__()
        self.feat_drop, self.concat = feat_drop, concat
        self.input = Input(features, token)
        activation = "none" if depth == 1 else activation
        self.layers = nn.ModuleList(
            GATLayer(features if i == 0 else width, width, heads, attn_drop, slope, residual, norm, activation)
            for i in range(depth)
        )
        self.embed_dim, self.depth = width * depth if concat else width, depth

    @property
    def give(self) -> dict:
        return {"width": self.embed_dim}

    def forward(self, seen: Seen, taps: Sequence[str] = ()) -> Latent:
        links, outs = Links.of(seen.layout), []
        for i, layer in enumerate(self.layers):
            if i == 0 and not layer.is_identity:
                outs.append(layer.pass_on(self.input.project(seen, layer.weight, self.feat_drop), links, None))
            else:
                h = self.input(seen, self.feat_drop) if i == 0 else F.dropout(outs[-1], self.feat_drop, self.training)
                outs.append(layer(h, links))
        return _latent(outs, seen, taps, self.concat)


class Mlp(nn.Module):
    """Linear, norm, activation, linear."""

    def __init__(self, features: int, width: int, out: int, norm: Norm, activation: Activation):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(features, width), nn.Linear(width, out)
        self.norm, self.activation = make_norm(norm, width), make_activation(activation)

    def inner(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.linear1(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.inner(x))


class GINLayer(nn.Module):
    """MLP((1 + ε) h + Σ over incoming edges h), then norm, activation, residual; ε is a constant, zero as published.

    A node's self-loop is one of its edges: it counts twice, as published.
    """

    def __init__(self, features: int, width: int, norm: Norm, activation: Activation, residual: bool = False):
        super().__init__()
        self.register_buffer("eps", torch.zeros(1))
        self.mlp = Mlp(features, width, width, norm, activation)
        self.norm, self.activation = make_norm(norm, width), make_activation(activation)
        self.residual = nn.Linear(features, width, bias=False) if residual and features != width else None
        self.is_identity = residual and features == width

    def forward(self, h: Tensor, links: Links) -> Tensor:
        out = self.activation(self.norm(self.mlp((1 + self.eps) * h + neighbour_sum(h, links))))
        if self.residual is not None:
            return out + self.residual(h)
        return out + h if self.is_identity else out


class GIN(Encoder):
    """`depth` GIN layers; hidden nodes are a learned vector. Norms see all nodes of the batch.

    Shapes: Seen (1, N, C) -> Latent (1, N, D). Taps: "layer0", …. Source: THUDM/GraphMAE (graph level).
    """

    hide = "blank"

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
        token: Literal["zero", "xavier"] = "zero",
    ):
        super().__init__()
        self.feat_drop, self.concat = feat_drop, concat
        self.input = Input(features, token)
        self.layers = nn.ModuleList(
            GINLayer(features if i == 0 else width, width, norm, activation, residual) for i in range(depth)
        )
        self.embed_dim, self.depth = width * depth if concat else width, depth

    @property
    def give(self) -> dict:
        return {"width": self.embed_dim}

    def forward(self, seen: Seen, taps: Sequence[str] = ()) -> Latent:
        links, outs = Links.of(seen.layout), []
        for i, layer in enumerate(self.layers):
            h = self.input(seen, self.feat_drop) if i == 0 else F.dropout(outs[-1], self.feat_drop, self.training)
            outs.append(layer(h, links))
        return _latent(outs, seen, taps, self.concat)


class Messages(Encoder):
    """Any module with forward(x, edge_index), of torch_geometric say, as it is; it gets one self-loop per node.

    `module` maps (N, features) to (N, width). Modules that add self-loops themselves should be told not to.
    """

    hide = "blank"

    def __init__(self, module: nn.Module, features: int, width: int):
        super().__init__()
        self.input, self.module = Input(features), module
        self.embed_dim, self.depth = width, 1

    @property
    def give(self) -> dict:
        return {"width": self.embed_dim}

    def forward(self, seen: Seen, taps: Sequence[str] = ()) -> Latent:
        return _latent([self.module(self.input(seen), seen.layout.edges)], seen, taps, False)


def make_norm(kind: Norm, width: int) -> nn.Module:
    return {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}[kind](width)


def make_activation(kind: Activation) -> nn.Module:
    return {"none": nn.Identity, "prelu": nn.PReLU, "relu": nn.ReLU, "elu": nn.ELU}[kind]()


def _latent(outs: list[Tensor], seen: Seen, taps: Sequence[str], concat: bool) -> Latent:
    tapped = {f"layer{i}": out[None] for i, out in enumerate(outs) if f"layer{i}" in taps}
    return Latent(torch.cat(outs, 1)[None] if concat else outs[-1][None], seen.layout, seen.rows, None, tapped)
