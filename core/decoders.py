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
from core.tokens import Latent, Layout, Query, Rows


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
        self, latent: Latent, layout: Layout, queries: Mapping[str, Query], others: Mapping[str, Latent]
    ) -> dict[str, Tensor]: ...


class MAEDecoder(Decoder):
    """A small transformer over the visible latents and one mask token for every row to be answered.

    `visible_rows`: how a predicted row that is visible is answered. "latent" (MAE): by its own latent; mask tokens stand at
    all rows that the latent lacks. "mask_token" (VideoMAE): by an extra mask token; those stand at predicted rows only.
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
        visible_rows: Literal["latent", "mask_token"] = "latent",
        project_bias: bool = True,
        mask_init: Literal["normal", "truncated", "cut", "zero"] = "normal",
    ):
        super().__init__()
        self.dim, self.visible_rows = dim, visible_rows
        self.project = nn.Linear(width, dim, bias=project_bias)
        initialise(self.project)
        self.mask_token = nn.Parameter(token(dim, mask_init))
        self.positions, self.cls, self.trunk = positions, cls, trunk

    def forward(
        self, latent: Latent, layout: Layout, queries: Mapping[str, Query], others: Mapping[str, Latent]
    ) -> dict[str, Tensor]:
        if layout.sample is not None:
            raise UserError("core.decoders.MAEDecoder cannot take packed samples: set another decoder.")
        seen = latent.rows or Rows.all(latent.features.shape[0], layout.count, latent.features.device)
        asked = {name: query.rows_in(layout, latent.features) for name, query in queries.items()}
        mask_rows = self._mask_rows(seen, layout, asked)
        parts = [self.project(latent.features) + self.positions.at(layout, seen)]
        parts.append(self.mask_token + self.positions.at(layout, mask_rows).expand(seen.index.shape[0], -1, -1))
        x = torch.cat(parts, 1)
        extra = int(self.cls is not None)
        if extra:
            x = self.cls(x, None if self.cls.token is not None else self.project(latent.cls))
        plan, wanted = self._plan(latent, mask_rows, extra), self._wanted(seen, layout, mask_rows, asked, extra)
        counts = [rows.count for rows in asked.values()]
        if wanted.count < x.shape[1]:
            x, _ = self.trunk(x, plan, read=wanted)
        else:
            x = wanted.gather(self.trunk(x, plan)[0])
        return dict(zip(asked, x.split(counts, 1), strict=True))

    def _wanted(self, seen: Rows, layout: Layout, mask_rows: Rows, asked: Mapping[str, Rows], extra: int) -> Rows:
        """Rows of the sequence, behind `extra` ones, that answer all that is asked, one question after another."""
        number = torch.arange(extra, extra + seen.count + mask_rows.count, device=mask_rows.index.device)
        if self.visible_rows == "mask_token":  # they stand in this order
            return Rows(number[seen.count :].expand_as(mask_rows.index), mask_rows.valid)
        order = Rows(torch.cat([seen.index, mask_rows.index], 1), _valid(seen, mask_rows))
        number = order.scatter(number.expand_as(order.index), layout.count)
        return Rows(torch.cat([rows.gather(number) for rows in asked.values()], 1), _valid(*asked.values()))

    def _mask_rows(self, seen: Rows, layout: Layout, asked: Mapping[str, Rows]) -> Rows:
        if self.visible_rows == "mask_token":
            rows = list(asked.values())
            return rows[0] if len(rows) == 1 else Rows(torch.cat([r.index for r in rows], 1), _valid(*rows))
        lacking = ~seen.to_mask(layout.count)
        if layout.valid is not None:
            return Rows.from_mask(lacking & layout.valid)
        return Rows.from_mask(lacking, layout.count - seen.count if seen.valid is None else None)

    def _plan(self, latent: Latent, mask_rows: Rows, extra: int) -> AttentionPlan:
        if latent.layout.valid is None and mask_rows.valid is None:
            return AttentionPlan()
        rows = latent.features.shape[:2]
        seen, asked = latent.layout.valid, mask_rows.valid
        seen = mask_rows.index.new_ones(rows, dtype=torch.bool) if seen is None else seen
        asked = torch.ones_like(mask_rows.index, dtype=torch.bool) if asked is None else asked
        return AttentionPlan(valid=F.pad(torch.cat([seen, asked], 1), (extra, 0), value=True))


def _valid(*rows: Rows) -> Tensor | None:
    if all(r.valid is None for r in rows):
        return None
    return torch.cat([torch.ones_like(r.index, dtype=torch.bool) if r.valid is None else r.valid for r in rows], 1)
