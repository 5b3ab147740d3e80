"""Decoders: from a latent to features exactly at the places that are asked for."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.embeddings import ClsToken, Positions, token
from core.encoder import AttentionPlan, Trunk, initialise
from core.errors import UserError
from core.tokens import Latent, Layout, Place, Rows


class Decoder(nn.Module, ABC):
    """`(latent, revealed layout, places, other latents) -> features at each place`, once for all places.

    `layout` holds what the objectives' targets reveal of hidden rows: everything, or the dense grid alone.
    `taps`: what it reads of the encoder besides its final features.
    """

    dim: int
    taps: tuple[str, ...] = ()

    @property
    def provides(self) -> dict:
        return {"width": self.dim}

    @abstractmethod
    def forward(
        self, latent: Latent, layout: Layout, places: Mapping[str, Place], others: Mapping[str, Latent]
    ) -> dict[str, Tensor]: ...


class LightDecoder(Decoder):
    """A small transformer over the visible latents and one mask token for every row to be answered.

    `answer`: how a predicted row that is visible is answered. "latent" (MAE): by its own latent; mask tokens stand at
    all rows that the latent lacks. "query" (VideoMAE): by an extra mask token; those stand at predicted rows only.
    `cls`: put before the sequence; its own vector or, when it owns none, the encoder's cls, projected.
    Packed samples are refused.
    Shapes: latent (B, V, W) -> dict of (B, M, D).
    Source: facebookresearch/mae, MCG-NJU/VideoMAE, facebookresearch/mae_st.
    """

    def __init__(
        self,
        width: int,
        dim: int,
        trunk: Trunk,
        positions: Positions,
        cls: ClsToken | None = None,
        answer: Literal["latent", "query"] = "latent",
        project_bias: bool = True,
        mask_init: Literal["normal", "truncated", "cut", "zero"] = "normal",
    ):
        super().__init__()
        self.dim, self.answer = dim, answer
        self.project = nn.Linear(width, dim, bias=project_bias)
        initialise(self.project)
        self.mask_token = nn.Parameter(token(dim, mask_init))
        self.positions, self.cls, self.trunk = positions, cls, trunk

    def forward(
        self, latent: Latent, layout: Layout, places: Mapping[str, Place], others: Mapping[str, Latent]
    ) -> dict[str, Tensor]:
        if layout.sample is not None:
            raise UserError("core.decoders.LightDecoder cannot take packed samples: set another decoder.")
        seen = latent.rows or Rows.all(latent.features.shape[0], layout.count, latent.features.device)
        asked = {name: place.among(layout, latent.features) for name, place in places.items()}
        queries = self._queries(seen, layout, asked)
        parts = [self.project(latent.features) + self.positions.at(layout, seen)]
        parts.append(self.mask_token + self.positions.at(layout, queries).expand(seen.index.shape[0], -1, -1))
        x = torch.cat(parts, 1)
        extra = int(self.cls is not None)
        if extra:
            x = self.cls(x, None if self.cls.token is not None else self.project(latent.cls))
        plan, wanted = self._plan(latent, queries, extra), self._wanted(seen, layout, queries, asked, extra)
        counts = [rows.count for rows in asked.values()]
        if wanted.count < x.shape[1]:
            x, _ = self.trunk(x, plan, read=wanted)
        else:
            x = wanted.take(self.trunk(x, plan)[0])
        return dict(zip(asked, x.split(counts, 1), strict=True))

    def _wanted(self, seen: Rows, layout: Layout, queries: Rows, asked: Mapping[str, Rows], extra: int) -> Rows:
        """Rows of the sequence, behind `extra` ones, that answer all that is asked, one question after another."""
        number = torch.arange(extra, extra + seen.count + queries.count, device=queries.index.device)
        if self.answer == "query":  # they stand in this order
            return Rows(number[seen.count :].expand_as(queries.index), queries.valid)
        order = Rows(torch.cat([seen.index, queries.index], 1), _valid(seen, queries))
        number = order.put(number.expand_as(order.index), layout.count)
        return Rows(torch.cat([rows.take(number) for rows in asked.values()], 1), _valid(*asked.values()))

    def _queries(self, seen: Rows, layout: Layout, asked: Mapping[str, Rows]) -> Rows:
        if self.answer == "query":
            rows = list(asked.values())
            return rows[0] if len(rows) == 1 else Rows(torch.cat([r.index for r in rows], 1), _valid(*rows))
        lacking = ~seen.flag(layout.count)
        if layout.valid is not None:
            return Rows.where(lacking & layout.valid)
        return Rows.where(lacking, layout.count - seen.count if seen.valid is None else None)

    def _plan(self, latent: Latent, queries: Rows, extra: int) -> AttentionPlan:
        if latent.layout.valid is None and queries.valid is None:
            return AttentionPlan()
        rows = latent.features.shape[:2]
        seen, asked = latent.layout.valid, queries.valid
        seen = queries.index.new_ones(rows, dtype=torch.bool) if seen is None else seen
        asked = torch.ones_like(queries.index, dtype=torch.bool) if asked is None else asked
        return AttentionPlan(valid=F.pad(torch.cat([seen, asked], 1), (extra, 0), value=True))


def _valid(*rows: Rows) -> Tensor | None:
    if all(r.valid is None for r in rows):
        return None
    return torch.cat([torch.ones_like(r.index, dtype=torch.bool) if r.valid is None else r.valid for r in rows], 1)
