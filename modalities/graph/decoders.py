"""Graph decoders: codes of the nodes that were not erased again -> features at the nodes that are asked for."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.decoders import Decoder
from core.tokens import Latent, Layout, Query
from modalities.graph.elementwise import PReLU, dropout
from modalities.graph.layers import Activation, Mlp, Norm
from modalities.graph.messages import EdgeIndex, edge_softmax, neighbour_sum, weighted_sum
from modalities.graph.molecules import ATOM_TYPES, BondConv

MaskToken = Literal["none", "learned", "idle"]


@dataclass(frozen=True)
class Codes:
    """What a decoder reads: `values` (n, H) of the nodes `rows` (n,), ascending; the codes of all others are zero."""

    values: Tensor
    rows: Tensor
    nodes: int

    def spread(self, x: Tensor) -> Tensor:
        """x (n, …) of these nodes -> (N, …), zero elsewhere."""
        return x.new_zeros(self.nodes, *x.shape[1:]).index_copy(0, self.rows, x)

    def readable(self, edges: EdgeIndex) -> tuple[EdgeIndex, Tensor]:
        """The links that come from these nodes, sources numbered among them, and which of the edges those are (E,)."""
        number = torch.full((self.nodes,), -1, device=self.rows.device)
        number = number.index_copy(0, self.rows, torch.arange(len(self.rows), device=self.rows.device))
        source = number[edges.source]
        kept = source >= 0
        return EdgeIndex(source[kept], edges.row[kept], len(self.rows), edges.rows), kept


def into(edges: EdgeIndex, asked: Tensor) -> tuple[EdgeIndex, Tensor]:
    """The links that end in the nodes `asked` (M,), rows in their order, and which of the edges those are (E,)."""
    number = torch.full((edges.rows,), -1, device=asked.device)
    row = number.index_copy(0, asked, torch.arange(len(asked), device=asked.device))[edges.row]
    kept = row >= 0
    return EdgeIndex(edges.source[kept], row[kept], edges.nodes, len(asked)), kept


class GraphDecoder(Decoder):
    """Linear bridge without bias; codes at `place.remask` erased again; then `decode`, over the layout's own edges.

    The bridge is computed for nodes that stay, unless erased codes are a learned vector (`mask_token` "learned",
    GraphMAE2; "idle": it is there, but codes are erased to zero, GraphMAE2's "fixed").
    `gain`: of the bridge's and the vector's Xavier-normal start; None: a linear layer's usual one, and zero.
    `width`: of the latent, `inner`: of codes.
    """

    def __init__(self, width: int, inner: int, out: int, mask_token: MaskToken = "none", gain: float | None = None):
        super().__init__()
        self.dim, self.has_token = out, mask_token == "learned"
        self.bridge = nn.Linear(width, inner, bias=False)
        self.mask_token = None if mask_token == "none" else nn.Parameter(torch.zeros(1, inner))
        if gain is not None:
            nn.init.xavier_normal_(self.bridge.weight, gain=gain)
            if self.mask_token is not None:
                nn.init.xavier_normal_(self.mask_token)

    def forward(
        self, latent: Latent, layout: Layout, queries: Mapping[str, Query], others: Mapping[str, Latent]
    ) -> dict[str, Tensor]:
        return {name: self.answer(latent.features[0], layout, query)[None] for name, query in queries.items()}

    def answer(self, latent: Tensor, layout: Layout, query: Query) -> Tensor:
        everywhere = torch.arange(layout.count, device=latent.device)
        asked = everywhere if query.rows is None else query.rows.index[0]
        if query.remask is None:
            return self.decode(Codes(self.codes(latent), everywhere, layout.count), layout, asked)
        erased = torch.zeros_like(everywhere, dtype=torch.bool).index_fill(0, query.remask.index[0], True)
        if self.has_token:
            values = torch.where(erased[:, None], self.mask_token, self.codes(latent))
            return self.decode(Codes(values, everywhere, layout.count), layout, asked)
        kept = everywhere[~erased]
        return self.decode(Codes(self.codes(latent[kept]), kept, layout.count), layout, asked)

    def codes(self, latent: Tensor) -> Tensor:
        return self.bridge(latent)

    @abstractmethod
    def decode(self, codes: Codes, layout: Layout, asked: Tensor) -> Tensor:
        """(M, features) at the nodes `asked` (M,)."""


class GATDecoder(GraphDecoder):
    """One GAT layer without norm, activation and residual, that sums codes before it projects them to features.

    Attention needs of a code only its product with two vectors; Σ a (W h) = W Σ a h, so that the wide projection is
    computed once for every node asked for, and nothing at all for erased ones.
    Source: THUDM/GraphMAE.
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
    ):
        super().__init__(width, inner, features, mask_token, gain)
        if features % heads:
            raise ValueError(f"{features} features cannot be divided over {heads} heads")
        self.heads, self.feat_drop, self.attn_drop, self.slope = heads, feat_drop, attn_drop, slope
        self.linear = nn.Linear(inner, features, bias=False)
        self.sender = nn.Parameter(torch.empty(1, heads, features // heads))
        self.receiver = nn.Parameter(torch.empty(1, heads, features // heads))
        self.bias = nn.Parameter(torch.zeros(features))
        for weight in (self.linear.weight, self.sender, self.receiver):
            nn.init.xavier_normal_(weight, gain=2**0.5)

    def decode(self, codes: Codes, layout: Layout, asked: Tensor) -> Tensor:
        codes = replace(codes, values=dropout(codes.values, self.feat_drop, self.training))
        links, _ = into(EdgeIndex.of(layout), asked)
        attention = dropout(self.attention(codes, links, asked), self.attn_drop, self.training)
        readable, kept = codes.readable(links)
        values = codes.values[:, None].expand(-1, self.heads, -1)
        summed = weighted_sum(values, attention[kept].to(values.dtype), readable)  # (M, heads, inner)
        if self.heads == 1:
            return F.linear(summed[:, 0], self.linear.weight, self.bias)
        weight = self.linear.weight.unflatten(0, (self.heads, -1))
        return torch.einsum("mkh,kdh->mkd", summed, weight).flatten(1) + self.bias

    def attention(self, codes: Codes, edges: EdgeIndex, asked: Tensor) -> Tensor:
        """(E, heads), before dropout."""
        weight = self.linear.weight.unflatten(0, (self.heads, -1))  # (K, D, H)
        both = torch.cat([(a[0, :, :, None] * weight).sum(1) for a in (self.sender, self.receiver)])  # (2K, H)
        sent, received = codes.spread(F.linear(codes.values, both)).split(self.heads, 1)
        logits = sent[edges.source] + received[asked][edges.row]
        return edge_softmax(F.leaky_relu(logits, self.slope), edges)


class GINDecoder(GraphDecoder):
    """One GIN layer without outer norm and activation; the norm inside its MLP sees all nodes, asked for or not.

    The MLP's first layer, being linear, is applied to the codes that are there, before they are summed.
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
    ):
        super().__init__(width, inner, features)
        self.feat_drop, self.all_rows = feat_drop, norm == "batch"
        self.register_buffer("eps", torch.zeros(1))
        self.mlp = Mlp(inner, inner, features, norm, activation)

    def decode(self, codes: Codes, layout: Layout, asked: Tensor) -> Tensor:
        mapped = F.linear(dropout(codes.values, self.feat_drop, self.training), self.mlp.linear1.weight)
        links, rows = EdgeIndex.of(layout), torch.arange(layout.count, device=asked.device)
        if not self.all_rows:
            links, rows = into(links, asked)[0], asked
        own = codes.spread(mapped)
        summed = neighbour_sum(mapped, codes.readable(links)[0])
        summed = (1 + self.eps) * (own if self.all_rows else own[rows]) + summed + self.mlp.linear1.bias
        inside = self.mlp.activation(self.mlp.norm(summed))
        return self.mlp.linear2(inside[asked] if self.all_rows else inside)


class MLPDecoder(GraphDecoder):
    """Linear, PReLU, dropout, linear, of each node's own code. Goes with masker.remask=none. Source: THUDM/GraphMAE."""

    def __init__(self, width: int, features: int, inner: int, drop: float = 0.2):
        super().__init__(width, inner, features)
        self.drop, self.mlp = drop, Mlp(inner, inner, features, "none", "prelu")

    def decode(self, codes: Codes, layout: Layout, asked: Tensor) -> Tensor:
        inside = self.mlp.inner(codes.spread(codes.values)[asked])
        return self.mlp.linear2(dropout(inside, self.drop, self.training))


class BondDecoder(GraphDecoder):
    """Activation, bridge, erased again, one molecule convolution to atom types. Source: THUDM/GraphMAE (chem)."""

    def __init__(self, width: int, inner: int):
        super().__init__(width, inner, ATOM_TYPES)
        self.activation = PReLU()
        self.conv = BondConv(inner, ATOM_TYPES)

    def codes(self, latent: Tensor) -> Tensor:
        return self.bridge(self.activation(latent))

    def decode(self, codes: Codes, layout: Layout, asked: Tensor) -> Tensor:
        links, ending = into(EdgeIndex.of(layout), asked)
        summed = neighbour_sum(codes.values, codes.readable(links)[0])
        return self.conv(summed, layout.edge_content[ending], links)
