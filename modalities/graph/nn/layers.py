"""Parts of graph encoders and decoders: input and mask token, layers (GAT, dot-product GAT, GCN, GIN), norms."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.tokens import EncoderInput
from modalities.graph.graphs import to_dense
from modalities.graph.nn.elementwise import PReLU, dropout
from modalities.graph.nn.message_passing import EdgeIndex, edge_softmax, neighbour_sum, weighted_sum

Norm = Literal["none", "identity", "layer", "batch"]
Activation = Literal["none", "prelu", "relu", "elu", "gelu", "selu", "silu"]
Residual = Literal["none", "identity", "unequal"]
TokenStart = Literal["zero", "xavier"]


class MaskedInput(nn.Module):
    """Raw content with the learned vector at erased nodes: (1, N, C) or bags -> a linear map of it, or itself."""

    def __init__(self, features: int, start: TokenStart = "zero"):
        super().__init__()
        self.features = features
        self.mask_token = nn.Parameter(torch.zeros(1, features))
        if start == "xavier":
            nn.init.xavier_normal_(self.mask_token)

    def forward(self, inputs: EncoderInput, drop: float = 0.0) -> Tensor:
        """(N, C), dense."""
        x = inputs.content[0]
        if x.dim() == 3:
            x = to_dense(x, self.features)
        if inputs.erased is not None:
            x = torch.where(inputs.erased[0][:, None], self.mask_token, x)
        return dropout(x, drop, self.training)

    def project(self, inputs: EncoderInput, weight: Tensor, drop: float) -> Tensor:
        """dropout(content) @ weightᵀ, (N, D), without making bags dense where that costs more (CPU)."""
        x = inputs.content[0]
        if x.dim() == 2 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return F.linear(self(inputs, drop), weight)
        value, column = x.unbind(1)
        value = dropout(value, drop, self.training).to(weight.dtype)
        present = value != 0  # neither padding nor erased rows nor what dropout took
        start = F.pad(present.sum(1).cumsum(0), (1, 0))
        # Contiguous: of columns `embedding_bag` gathers one number at a time.
        out = F.embedding_bag(
            column[present].long(),
            weight.T.contiguous(),
            start,
            mode="sum",
            per_sample_weights=value[present],
            include_last_offset=True,
        )
        if inputs.erased is None:
            return out
        rows = inputs.erased[0].nonzero()[:, 0]
        # m ∘ token for rows m of dropout: the gradients of token and weight share one product this way.
        m = dropout(weight.new_ones(len(rows), self.features), drop, self.training)
        return out.index_copy(0, rows, F.linear(m, weight * self.mask_token))


class GraphLayer(nn.Module, ABC):
    """f = W h, passed along the links by `aggregate`: out = activation(norm(aggregate(f) + residual)).

    `residual`: "identity", h itself or a linear map of it where widths differ (GraphMAE); "unequal", that
    linear map alone (GraphMAE2).
    Shapes: h (N, C) -> (N, width).
    """

    def __init__(
        self,
        features: int,
        width: int,
        residual: Residual = "none",
        norm: Norm = "none",
        activation: Activation = "none",
    ):
        super().__init__()
        self.linear = nn.Linear(features, width, bias=False)
        self.residual = None
        if residual != "none" and features != width:
            self.residual = nn.Linear(features, width, bias=False)
        self.is_identity = residual == "identity" and features == width
        self.norm, self.activation = make_norm(norm, width), make_activation(activation)

    def forward(self, h: Tensor, edges: EdgeIndex) -> Tensor:
        return self.propagate(F.linear(h, self.weight), edges, h)

    @property
    def weight(self) -> Tensor:
        """Of everything that reads h at once: (width [+ width of the residual], C)."""
        if self.residual is None:
            return self.linear.weight
        return torch.cat([self.linear.weight, self.residual.weight])

    def propagate(self, projected: Tensor, edges: EdgeIndex, h: Tensor | None) -> Tensor:
        """From h · weightᵀ on; h itself only matters to an identity residual."""
        width = self.linear.out_features
        out = self.aggregate(projected[:, :width], edges)

        if self.residual is not None:
            out = out + projected[:, width:]
        if self.is_identity:
            out = out + h
        return self.activation(self.norm(out))

    @abstractmethod
    def aggregate(self, f: Tensor, edges: EdgeIndex) -> Tensor:
        """f (N, width) -> (N, width), the message that every node receives."""


class GATLayer(GraphLayer):
    """Attention over a node's incoming edges: softmax of LeakyReLU(s·f_from + r·f_to), f = W
    h; heads side by side.

    out = activation(norm(Σ a f + bias + residual)); feature dropout comes before W and the residual,
    attention dropout after the softmax. Initialised Xavier normal with gain √2.
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
        super().__init__(features, width, residual, norm, activation)
        self.heads, self.attn_drop, self.slope = checked_heads(heads, width), attn_drop, slope
        self.sender = nn.Parameter(torch.empty(1, heads, width // heads))
        self.receiver = nn.Parameter(torch.empty(1, heads, width // heads))
        self.bias = nn.Parameter(torch.zeros(width))

        weights = [self.linear.weight, self.sender, self.receiver]
        if self.residual is not None:
            weights.append(self.residual.weight)
        for weight in weights:
            nn.init.xavier_normal_(weight, gain=2**0.5)

    def aggregate(self, f: Tensor, edges: EdgeIndex) -> Tensor:
        f = f.unflatten(1, (self.heads, -1))
        attention = dropout(self.attention(f, edges), self.attn_drop, self.training)
        return weighted_sum(f, attention.to(f.dtype), edges).flatten(1) + self.bias

    def attention(self, f: Tensor, edges: EdgeIndex) -> Tensor:
        """f (N, K, D) -> (E, K), before dropout."""
        sent, received = (f * self.sender).sum(2), (f * self.receiver).sum(2)
        return edge_softmax(F.leaky_relu(sent[edges.source] + received[edges.row], self.slope), edges)


class DotGATLayer(GraphLayer):
    """Attention by dot products: softmax over incoming edges of f_from · f_to / √D; heads side by side.

    f = W h; neither W nor the sum has a bias. Every edge's product is held in memory.
    Shapes: h (N, C) -> (N, heads · D). Source: THUDM/GraphMAE (encoder_type "dotgat").
    """

    def __init__(
        self,
        features: int,
        width: int,
        heads: int,
        attn_drop: float = 0.0,
        residual: Residual = "none",
        norm: Norm = "none",
        activation: Activation = "none",
    ):
        super().__init__(features, width, residual, norm, activation)
        self.heads, self.attn_drop = checked_heads(heads, width), attn_drop

    def aggregate(self, f: Tensor, edges: EdgeIndex) -> Tensor:
        f = f.unflatten(1, (self.heads, -1))
        attention = dropout(self.attention(f, edges), self.attn_drop, self.training)
        return weighted_sum(f, attention.to(f.dtype), edges).flatten(1)

    def attention(self, f: Tensor, edges: EdgeIndex) -> Tensor:
        """f (N, K, D) -> (E, K), before dropout."""
        products = (f[edges.source] * f[edges.row]).sum(2)
        return edge_softmax(products / f.shape[2] ** 0.5, edges)


class GCNLayer(GraphLayer):
    """Graph convolution: (Σ over incoming edges f_from / √out-degree + bias) / √in-degree, f = W h.

    The bias is divided too; self-loops count in both degrees, and repeated edges as often as they are there.
    Shapes: h (N, C) -> (N, width). Source: THUDM/GraphMAE (encoder_type "gcn"; torch_geometric's differs).
    """

    def __init__(
        self,
        features: int,
        width: int,
        residual: Residual = "none",
        norm: Norm = "none",
        activation: Activation = "none",
    ):
        super().__init__(features, width, residual, norm, activation)
        self.bias = nn.Parameter(torch.empty(width))
        nn.init.uniform_(self.bias, -(features**-0.5), features**-0.5)  # as of a linear layer with a bias

    def aggregate(self, f: Tensor, edges: EdgeIndex) -> Tensor:
        out_degree, in_degree = edges.degrees(f.dtype)
        summed = neighbour_sum(f * out_degree.rsqrt()[:, None], edges)
        return (summed + self.bias) * in_degree.rsqrt()[:, None]


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
    """MLP((1 + ε) h + Σ over incoming edges h), then norm, activation, residual; ε is a
    constant, zero as published.

    A node's self-loop is one of its edges: it counts twice, as published. `bare`: neither norm nor activation
    follow the MLP, which keeps its inner ones.
    """

    def __init__(
        self,
        features: int,
        width: int,
        norm: Norm,
        activation: Activation,
        residual: bool = False,
        bare: bool = False,
    ):
        super().__init__()
        self.register_buffer("eps", torch.zeros(1))
        self.mlp = Mlp(features, width, width, norm, activation)
        if bare:
            norm, activation = "none", "none"
        self.norm, self.activation = make_norm(norm, width), make_activation(activation)
        self.residual = None
        if residual and features != width:
            self.residual = nn.Linear(features, width, bias=False)
        self.is_identity = residual and features == width

    def forward(self, h: Tensor, edges: EdgeIndex) -> Tensor:
        out = self.activation(self.norm(self.mlp((1 + self.eps) * h + neighbour_sum(h, edges))))
        if self.residual is not None:
            return out + self.residual(h)
        if self.is_identity:
            return out + h
        return out


NORMS = {"none": nn.Identity, "identity": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
ACTIVATIONS = {
    "none": nn.Identity,
    "prelu": PReLU,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
}


def make_norm(kind: Norm, width: int) -> nn.Module:
    return NORMS[kind](width)


def make_activation(kind: Activation) -> nn.Module:
    return ACTIVATIONS[kind]()


def checked_heads(heads: int, width: int) -> int:
    if width % heads:
        raise ValueError(f"width {width} is not divisible by {heads} heads")
    return heads
