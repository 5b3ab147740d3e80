"""Graph decoders: codes of the nodes that were not erased again -> features at the nodes of the query."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.decoders import Decoder
from core.tokens import Latent, Layout, Query
from modalities.graph.nn.elementwise import PReLU, dropout
from modalities.graph.nn.layers import Activation, DotGATLayer, GATLayer, GCNLayer, Mlp, Norm, Residual
from modalities.graph.nn.message_passing import EdgeIndex, edge_softmax, neighbour_sum, weighted_sum
from modalities.graph.nn.molecules import ATOM_TYPES, BondConv

MaskToken = Literal["none", "learned", "idle"]


@dataclass(frozen=True)
class Codes:
    """Codes for a decoder: `values` (n, H) of the nodes `rows` (n,), ascending.

    The codes of all other nodes are zero.
    """

    values: Tensor
    rows: Tensor
    nodes: int

    def spread(self, x: Tensor) -> Tensor:
        """x (n, …) of these nodes -> (N, …), zero elsewhere."""
        return x.new_zeros(self.nodes, *x.shape[1:]).index_copy(0, self.rows, x)

    def readable(self, edges: EdgeIndex) -> tuple[EdgeIndex, Tensor]:
        """The edges that start at these nodes, and a flag for each edge (E,).

        Sources are numbered in the order of `rows`.
        """
        number = torch.full((self.nodes,), -1, device=self.rows.device)
        number = number.index_copy(0, self.rows, torch.arange(len(self.rows), device=self.rows.device))
        source = number[edges.source]
        starts_here = source >= 0
        return EdgeIndex(source[starts_here], edges.row[starts_here], len(self.rows), edges.rows), starts_here


def into(edges: EdgeIndex, nodes: Tensor) -> tuple[EdgeIndex, Tensor]:
    """The edges that end in `nodes` (M,), rows in their order, and a flag for each edge (E,)."""
    number = torch.full((edges.rows,), -1, device=nodes.device)
    row = number.index_copy(0, nodes, torch.arange(len(nodes), device=nodes.device))[edges.row]
    ends_here = row >= 0
    return EdgeIndex(edges.source[ends_here], row[ends_here], edges.nodes, len(nodes)), ends_here


class GraphDecoder(Decoder):
    """Linear bridge without bias; codes at `query.remask` erased again; then `decode`, over
    the layout's own edges.

    The bridge is computed for nodes that stay, unless erased codes are a learned vector (`mask_token`
    "learned", GraphMAE2; "idle": it is there, but codes are erased to zero, GraphMAE2's "fixed").
    `gain`: of the bridge's and the vector's Xavier-normal start; None: a linear layer's usual one, and zero.
    `width`: of the latent, `inner`: of codes. `input_layers`: the bridge reads the outputs of so many encoder
    layers side by side, all of that width (the official `concat_hidden`); 1: the latent alone.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        out: int,
        mask_token: MaskToken = "none",
        gain: float | None = None,
        input_layers: int = 1,
    ):
        super().__init__()
        self.dim, self.has_token = out, mask_token == "learned"
        self.taps: tuple[str, ...] = ()
        if input_layers > 1:
            self.taps = tuple(f"layer{i}" for i in range(input_layers))
        self.bridge = nn.Linear(width * input_layers, inner, bias=False)
        self.mask_token = None
        if mask_token != "none":
            self.mask_token = nn.Parameter(torch.zeros(1, inner))
        if gain is not None:
            nn.init.xavier_normal_(self.bridge.weight, gain=gain)
            if self.mask_token is not None:
                nn.init.xavier_normal_(self.mask_token)

    def forward(
        self, latent: Latent, layout: Layout, queries: Mapping[str, Query], context: Mapping[str, Latent]
    ) -> dict[str, Tensor]:
        # The latent is read once per query: a shared read would add up its gradients in another order.
        features = {}
        for name, query in queries.items():
            features[name] = self.predict(self.read(latent), layout, query)[None]
        return features

    def read(self, latent: Latent) -> Tensor:
        """The input of the bridge, (N, width · input_layers)."""
        if not self.taps:
            return latent.features[0]
        return torch.cat([latent.taps[tap][0] for tap in self.taps], 1)

    def predict(self, latent: Tensor, layout: Layout, query: Query) -> Tensor:
        """latent (N, W) -> features (M, D) at the nodes of the query."""
        everywhere = torch.arange(layout.count, device=latent.device)
        nodes = everywhere
        if query.rows is not None:
            nodes = query.rows.index[0]
        if query.remask is None:
            return self.decode(Codes(self.codes(latent), everywhere, layout.count), layout, nodes)

        erased = torch.zeros_like(everywhere, dtype=torch.bool).index_fill(0, query.remask.index[0], True)
        if self.has_token:
            values = torch.where(erased[:, None], self.mask_token, self.codes(latent))
            return self.decode(Codes(values, everywhere, layout.count), layout, nodes)

        # Nothing is computed for erased codes, which are zero.
        rows = everywhere[~erased]
        return self.decode(Codes(self.codes(latent[rows]), rows, layout.count), layout, nodes)

    def codes(self, latent: Tensor) -> Tensor:
        return self.bridge(latent)

    @abstractmethod
    def decode(self, codes: Codes, layout: Layout, nodes: Tensor) -> Tensor:
        """(M, features) at `nodes` (M,)."""


class GATDecoder(GraphDecoder):
    """GAT layers. The last has no norm, activation or residual, and sums codes before it projects them.

    Attention needs of a code only its product with two vectors; Σ a (W h) = W Σ a h, so that the wide
    projection is computed once for every node of the query, and nothing at all for erased ones.
    `depth` > 1: layers of `hidden` width and `hidden_heads` come first, over all nodes, with residual, norm
    and activation as in the encoder.
    Source: THUDM/GraphMAE (depth 1), THUDM/GraphMAE2.
    """

    def __init__(
        self,
        width: int,
        features: int,
        inner: int,
        heads: int = 1,
        feat_drop: float = 0.0,
        attn_drop: float = 0.0,
        slope: float = 0.2,
        mask_token: MaskToken = "none",
        gain: float | None = None,
        input_layers: int = 1,
        depth: int = 1,
        hidden: int | None = None,
        hidden_heads: int = 1,
        residual: Residual = "none",
        norm: Norm = "none",
        activation: Activation = "prelu",
    ):
        super().__init__(width, inner, features, mask_token, gain, input_layers)
        if features % heads:
            raise ValueError(f"{features} features cannot be divided over {heads} heads")
        self.feat_drop = feat_drop
        sizes = [inner] + [hidden or inner] * (depth - 1)
        self.layers = nn.ModuleList(
            GATLayer(size, hidden or inner, hidden_heads, attn_drop, slope, residual, norm, activation)
            for size in sizes[:-1]
        )
        self.layers.append(GATLayer(sizes[-1], features, heads, attn_drop, slope))

    def decode(self, codes: Codes, layout: Layout, nodes: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            h = dropout(codes.spread(codes.values), self.feat_drop, self.training)
            h = layer(h, EdgeIndex.of(layout))
            codes = Codes(h, torch.arange(layout.count, device=h.device), layout.count)

        last = self.layers[-1]
        codes = replace(codes, values=dropout(codes.values, self.feat_drop, self.training))
        edges, _ = into(EdgeIndex.of(layout), nodes)
        attention = dropout(self.attention(codes, edges, nodes), last.attn_drop, self.training)

        readable, starts_here = codes.readable(edges)
        values = codes.values[:, None].expand(-1, last.heads, -1)
        summed = weighted_sum(values, attention[starts_here].to(values.dtype), readable)  # (M, heads, inner)

        if last.heads == 1:
            return F.linear(summed[:, 0], last.linear.weight, last.bias)
        weight = last.linear.weight.unflatten(0, (last.heads, -1))
        return torch.einsum("mkh,kdh->mkd", summed, weight).flatten(1) + last.bias

    def attention(self, codes: Codes, edges: EdgeIndex, nodes: Tensor) -> Tensor:
        """(E, heads) of the last layer, before dropout."""
        last = self.layers[-1]
        weight = last.linear.weight.unflatten(0, (last.heads, -1))  # (K, D, H)
        sender = (last.sender[0, :, :, None] * weight).sum(1)
        receiver = (last.receiver[0, :, :, None] * weight).sum(1)
        both = torch.cat([sender, receiver])  # (2K, H)
        sent, received = codes.spread(F.linear(codes.values, both)).split(last.heads, 1)
        logits = sent[edges.source] + received[nodes][edges.row]
        return edge_softmax(F.leaky_relu(logits, last.slope), edges)


class DotGATDecoder(GraphDecoder):
    """One layer of dot-product attention without norm, activation and residual, computed at all nodes.

    Source: THUDM/GraphMAE (decoder_type "dotgat").
    """

    def __init__(
        self,
        width: int,
        features: int,
        inner: int,
        feat_drop: float = 0.0,
        attn_drop: float = 0.0,
        input_layers: int = 1,
    ):
        super().__init__(width, inner, features, input_layers=input_layers)
        self.feat_drop = feat_drop
        self.layers = nn.ModuleList([DotGATLayer(inner, features, 1, attn_drop)])

    def decode(self, codes: Codes, layout: Layout, nodes: Tensor) -> Tensor:
        h = codes.spread(dropout(codes.values, self.feat_drop, self.training))
        return self.layers[0](h, EdgeIndex.of(layout))[nodes]


class GCNDecoder(GraphDecoder):
    """One graph convolution without norm, activation and residual, which sums codes before it projects them.

    Source: THUDM/GraphMAE (decoder_type "gcn").
    """

    def __init__(self, width: int, features: int, inner: int, feat_drop: float = 0.0, input_layers: int = 1):
        super().__init__(width, inner, features, input_layers=input_layers)
        self.feat_drop = feat_drop
        self.layers = nn.ModuleList([GCNLayer(inner, features)])

    def decode(self, codes: Codes, layout: Layout, nodes: Tensor) -> Tensor:
        edges, layer = EdgeIndex.of(layout), self.layers[0]
        out_degree, in_degree = edges.degrees(codes.values.dtype)
        values = dropout(codes.values, self.feat_drop, self.training)
        values = values * out_degree[codes.rows].rsqrt()[:, None]

        summed = neighbour_sum(values, codes.readable(into(edges, nodes)[0])[0])
        return F.linear(summed, layer.linear.weight, layer.bias) * in_degree[nodes].rsqrt()[:, None]


class GINDecoder(GraphDecoder):
    """One GIN layer without outer norm and activation; the norm inside its MLP is over all
    nodes, of the query or not.

    The MLP's first layer, being linear, is applied to the codes before they are summed.
    Source: THUDM/GraphMAE (graph level).
    """

    def __init__(
        self,
        width: int,
        features: int,
        inner: int,
        feat_drop: float = 0.0,
        norm: Norm = "batch",
        activation: Activation = "prelu",
        input_layers: int = 1,
    ):
        super().__init__(width, inner, features, input_layers=input_layers)
        self.feat_drop, self.all_rows = feat_drop, norm == "batch"
        self.register_buffer("eps", torch.zeros(1))
        self.mlp = Mlp(inner, inner, features, norm, activation)

    def decode(self, codes: Codes, layout: Layout, nodes: Tensor) -> Tensor:
        mapped = F.linear(dropout(codes.values, self.feat_drop, self.training), self.mlp.linear1.weight)
        edges = EdgeIndex.of(layout)
        if not self.all_rows:
            edges, _ = into(edges, nodes)

        self_codes = codes.spread(mapped)
        if not self.all_rows:
            self_codes = self_codes[nodes]

        summed = neighbour_sum(mapped, codes.readable(edges)[0])
        summed = (1 + self.eps) * self_codes + summed + self.mlp.linear1.bias
        hidden = self.mlp.activation(self.mlp.norm(summed))
        if self.all_rows:
            hidden = hidden[nodes]
        return self.mlp.linear2(hidden)


class MLPDecoder(GraphDecoder):
    """Linear, PReLU, dropout, linear, of each node's code. Goes with masker.remask=none.

    Source: THUDM/GraphMAE.
    """

    def __init__(self, width: int, features: int, inner: int, drop: float = 0.2, input_layers: int = 1):
        super().__init__(width, inner, features, input_layers=input_layers)
        self.drop, self.mlp = drop, Mlp(inner, inner, features, "none", "prelu")

    def decode(self, codes: Codes, layout: Layout, nodes: Tensor) -> Tensor:
        hidden = self.mlp.inner(codes.spread(codes.values)[nodes])
        return self.mlp.linear2(dropout(hidden, self.drop, self.training))


class LinearDecoder(GraphDecoder):
    """A linear map of each node's code. Goes with masker.remask=none.

    The official code builds it, but a typo stops its first forward; without the typo it computes this.
    Source: THUDM/GraphMAE (decoder_type "linear").
    """

    def __init__(self, width: int, features: int, inner: int, input_layers: int = 1):
        super().__init__(width, inner, features, input_layers=input_layers)
        self.linear = nn.Linear(inner, features)

    def decode(self, codes: Codes, layout: Layout, nodes: Tensor) -> Tensor:
        return self.linear(codes.spread(codes.values)[nodes])


class BondDecoder(GraphDecoder):
    """Activation, bridge, erased again, one molecule convolution to atom types.

    Source: THUDM/GraphMAE (chem).
    """

    def __init__(self, width: int, inner: int):
        super().__init__(width, inner, ATOM_TYPES)
        self.activation = PReLU()
        self.conv = BondConv(inner, ATOM_TYPES)

    def codes(self, latent: Tensor) -> Tensor:
        return self.bridge(self.activation(latent))

    def decode(self, codes: Codes, layout: Layout, nodes: Tensor) -> Tensor:
        edges, ends_here = into(EdgeIndex.of(layout), nodes)
        summed = neighbour_sum(codes.values, codes.readable(edges)[0])
        return self.conv(summed, layout.edge_content[ends_here], edges)
