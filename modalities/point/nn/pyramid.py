"""Encoder and decoder over a pyramid of groups: Point-M2AE."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.decoders import Decoder
from core.embeddings import CoordinateMLP, token
from core.encoder import AttentionPlan, Encoder, Trunk
from core.errors import UserError
from core.tokens import EncoderInput, Latent, Layout, Query, Rows, levels
from modalities.point.nn.embedding import MiniPointNet

NEAREST = 3  # coarser tokens that a finer place takes its features from
TINY = 1e-8  # added to squared distances


class PointPyramid(Encoder):
    """Encodes groups level by level, the finest first; a coarser group is embedded from the features of its members.

    Every level has a mini-PointNet, positions before every block, blocks and a norm; the next level reads features
    before the norm. `dims`, `depths`: of the levels, the finest first. `widths`: of the finest mini-PointNet; that of
    a coarser level has (D', D', D) from its members' width D' to its own, D. Drop path grows from 0 over all blocks.
    `masking`: "leak" embeds hidden groups too (official code, through batch statistics).
    `radius`: of each level; its groups attend to those whose centres are nearer (fine-tuning); None or 0: to all.
    `norm`: "levels", one behind each level (pre-training), or "last", behind the coarsest alone (fine-tuning).
    Shapes: EncoderInput, a pyramid of content (B, G, S, 3 + C) -> Latent (B, V, D) of the coarsest level, with `finer`.
    Source: ZrrSkywalker/Point-M2AE (H_Encoder), sample by sample without padding (its radii 0).
    """

    trunk = None

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        heads: int,
        channels: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        widths: Sequence[int] = (128, 256, 512),
        masking: Literal["drop", "leak"] = "drop",
        radius: Sequence[float] | None = None,
        norm: Literal["levels", "last"] = "levels",
    ):
        super().__init__()
        if len(dims) != len(depths):
            raise UserError(
                f"encoder.dims={list(dims)} and encoder.depths={list(depths)} need a number for each level."
            )
        if radius is not None and len(radius) != len(dims):
            raise UserError(f"encoder.radius={list(radius)} needs a number for each of {len(dims)} levels.")

        self.masking, self.radius = masking, radius
        self.embed_dim, self.depth = dims[-1], sum(depths)
        self.embeds, self.positions, self.trunks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        first, last = 0, max(sum(depths) - 1, 1)
        for level, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            if level == 0:
                self.embeds.append(MiniPointNet(dim, channels, widths))
            else:
                below = dims[level - 1]
                self.embeds.append(MiniPointNet(dim, below, (below, below, dim)))
            self.positions.append(CoordinateMLP(dim, init="truncated"))

            rates = [drop_path * first / last, drop_path * (first + depth - 1) / last]
            self.trunks.append(_trunk(dim, depth, heads, mlp_ratio, rates, init="truncated", norm=norm == "levels"))
            first += depth

        self.norm: nn.Module = nn.Identity()
        if norm == "last":
            self.norm = nn.LayerNorm(dims[-1], eps=1e-5)
        # No published decoder reads the finest level: nothing would train its norm.
        self.trunks[0].norm.requires_grad_(False)

    @property
    def provides(self) -> dict:
        return {"width": self.embed_dim, "dims": tuple(trunk.dim for trunk in self.trunks)}

    def forward(self, inputs: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        pyramid = levels(inputs)[::-1]
        if len(pyramid) != len(self.trunks):
            raise UserError(
                f"encoder.dims has {len(self.trunks)} levels, the tokens have {len(pyramid)}: set modality.groups and "
                "modality.members to as many."
            )

        latent, below = None, None
        for level, inputs_here in enumerate(pyramid):
            latent, below = self._encode(level, inputs_here, latent, below)
        assert latent is not None, "there is a level"
        return replace(latent, features=self.norm(latent.features))

    def _encode(
        self, level: int, inputs: EncoderInput, finer: Latent | None, below: Tensor | None
    ) -> tuple[Latent, Tensor]:
        """One level's latent, and its features before the norm, which the next level's groups are embedded from."""
        if below is not None:
            assert inputs.layout.children is not None, "coarser groups have members"
            members = Rows(inputs.layout.children.flatten(1)).gather(below)
            inputs = replace(inputs, content=members.unflatten(1, inputs.layout.children.shape[1:]))

        vectors = self.embeds[level](inputs)
        x, layout = vectors, inputs.layout
        leaks = self.masking == "leak" and inputs.rows is not None
        if leaks:
            x, layout = inputs.rows.gather(vectors), layout.gather(inputs.rows)

        trunk = self.trunks[level]
        positions = self.positions[level].at(layout, None)
        last = f"block{len(trunk.blocks) - 1}"
        plan = AttentionPlan.of(layout)
        if self.radius is not None and self.radius[level] > 0:
            plan = AttentionPlan.within(layout, self.radius[level])
        normed, outputs = trunk(x, plan, (last,), positions=positions)

        features = outputs.get(last, x)
        if leaks:  # hidden groups keep their embedding, as published: visible ones have no hidden member
            visible = inputs.rows.to_mask(vectors.shape[1])
            features = torch.where(visible[..., None], inputs.rows.scatter(features, vectors.shape[1]), vectors)
        return Latent(normed, layout, rows=inputs.rows, finer=finer, condition=inputs.condition), features


class PyramidDecoder(Decoder):
    """Goes down a pyramid: mask tokens at the coarsest level, then features interpolated to finer places.

    Coarsest: visible latents and mask tokens through blocks. Every finer level: at each place the mean of the three
    nearest coarser features by 1 / (squared distance + 1e-8), beside the encoder's latent (zero at hidden places),
    fused by a layer with batch norm and a residual pair of layers, then blocks. Positions before every block; a norm
    at the end. The layouts of all levels that it goes through are revealed.
    `dims`: of the encoder's levels, the finest first. `depths`: blocks of each stage, the coarsest first. `residuals`:
    pairs of layers at each finer stage.
    Shapes: Latent of a pyramid, queries at the last stage's level -> dict of (B, M, D).
    Source: ZrrSkywalker/Point-M2AE (h_decoder, token_prop).
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        residuals: int = 1,
    ):
        super().__init__()
        if not 1 <= len(depths) <= len(dims):
            raise UserError(f"decoder.depths={list(depths)} has a stage for each of {len(dims)} levels at most.")

        widths = list(dims)[::-1][: len(depths)]
        self.dim = widths[-1]
        self.mask_token = nn.Parameter(token(widths[0], "truncated"))
        self.positions, self.trunks, self.propagation = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        first, last = 0, max(sum(depths) - 1, 1)
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            self.positions.append(CoordinateMLP(width))
            rates = [drop_path * first / last, drop_path * (first + depth - 1) / last]
            self.trunks.append(_trunk(width, depth, heads, mlp_ratio, rates, norm=stage == len(depths) - 1))
            first += depth
            if stage:
                self.propagation.append(Propagation(width, widths[stage - 1], residuals))

    def forward(
        self, latent: Latent, layout: Layout, queries: Mapping[str, Query], context: Mapping[str, Latent]
    ) -> dict[str, Tensor]:
        for name, query in queries.items():
            if query.level != len(self.trunks) - 1:
                raise UserError(f"{name}: this decoder answers queries of level {len(self.trunks) - 1} (main@…).")

        x = self._coarsest(latent, layout)
        for stage, propagate in enumerate(self.propagation, start=1):
            finer, latent = layout.finer, latent.finer
            assert finer is not None and latent is not None, "the pyramid has a level for each stage"
            skip = latent.features
            if latent.rows is not None:
                skip = latent.rows.scatter(skip, finer.count)
            x = propagate(skip, x, finer.coords, layout.coords)
            positions = self.positions[stage].at(finer, None)
            x = self.trunks[stage](x, AttentionPlan(), positions=positions)[0]
            layout = finer
        return {name: query.rows_in(layout, x).gather(x) for name, query in queries.items()}

    def _coarsest(self, latent: Latent, layout: Layout) -> Tensor:
        """Features (B, G, D) of all groups of the coarsest level."""
        x = latent.features
        if latent.rows is not None:
            hidden = ~latent.rows.to_mask(layout.count)
            x = torch.where(hidden[..., None], self.mask_token, latent.rows.scatter(x, layout.count))
        return self.trunks[0](x, AttentionPlan(), positions=self.positions[0].at(layout, None))[0]


class Propagation(nn.Module):
    """Coarse features to finer places, beside what is there: (B, N, D), (B, K, D') -> (B, N, D).

    `residuals`: pairs of layers, at least one.
    Source: ZrrSkywalker/Point-M2AE (PointNetFeaturePropagation).
    """

    def __init__(self, dim: int, coarse: int, residuals: int = 1):
        super().__init__()
        self.fuse = nn.Sequential(nn.Conv1d(dim + coarse, dim, 1), nn.BatchNorm1d(dim), nn.GELU())
        self.first = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim), nn.GELU())
        self.second = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim))
        self.further = nn.ModuleDict({str(number): ResidualPair(dim) for number in range(1, residuals)})

    def forward(self, skip: Tensor, features: Tensor, places: Tensor, coarse_places: Tensor) -> Tensor:
        distance, rows = _squares(places, coarse_places).sort(dim=2, stable=True)
        nearest = min(NEAREST, rows.shape[2])
        weight = 1 / (distance[..., :nearest] + TINY)
        weight = weight / weight.sum(2, keepdim=True)
        near = Rows(rows[..., :nearest].flatten(1)).gather(features).unflatten(1, (-1, nearest))
        interpolated = (near * weight[..., None]).sum(2)

        x = self.fuse(torch.cat([skip, interpolated], 2).transpose(1, 2))
        x = F.gelu(self.second(self.first(x)) + x)
        for pair in self.further.values():
            x = pair(x)
        return x.transpose(1, 2)


class ResidualPair(nn.Module):
    """gelu(x + BN(W₂ gelu(BN(W₁ x)))): (B, D, N) -> (B, D, N)."""

    def __init__(self, dim: int):
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim), nn.GELU())
        self.second = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.second(self.first(x)) + x)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (B, N, K) by |a|² + |b|² − 2ab, in the official order."""
    product = -2 * a @ b.transpose(1, 2)
    return product + a.square().sum(2)[..., None] + b.square().sum(2)[:, None]


def _trunk(
    dim: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
    rates: Sequence[float],
    init: Literal["xavier", "truncated"] = "xavier",
    norm: bool = True,
) -> Trunk:
    """A trunk of these methods. `rates`: drop path of its first and its last block."""
    start, end = rates
    return Trunk(
        dim,
        depth,
        heads,
        mlp_ratio,
        bias="none",
        drop_path=end,
        drop_path_start=start,
        norm_eps=1e-5,
        init=init,
        norm=norm,
    )
