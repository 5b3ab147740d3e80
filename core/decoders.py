"""Decoders: from a latent to features exactly at the rows of the queries."""

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
    """`(latent, revealed layout, queries, other latents) -> features (B, M, D) per query`, computed once for all.

    `layout` holds the part of the hidden rows' layout that the objectives' targets reveal: all of it, or the dense grid
    alone. `taps`: the block outputs that it reads of the encoder besides the final features.
    """

    dim: int
    taps: tuple[str, ...] = ()

    @property
    def provides(self) -> dict:
        return {"width": self.dim}

    @abstractmethod
    def forward(
        self, latent: Latent, layout: Layout, queries: Mapping[str, Query], context: Mapping[str, Latent]
    ) -> dict[str, Tensor]: ...


class MAEDecoder(Decoder):
    """A small transformer over the visible latents and one mask token for every row to be predicted.

    `visible_rows`: the features of a predicted row that is visible. "latent" (MAE): its own latent; mask tokens stand
    at all rows that the latent lacks. "mask_token" (VideoMAE): a further mask token; those stand at predicted rows
    only.
    `cls`: put before the sequence; its own vector or, when it owns none, the encoder's cls, projected.
    `width`: W, of the latent. `project_bias`: of the linear layer from W to `dim` (VideoMAE has none); `project`:
    without it W must be `dim` (Point-MAE).
    `positions_at`: they are added once, at the "start", or before every block ("blocks": Point-MAE).
    Shapes: latent (B, V, W), queries of M rows -> dict of (B, M, D), D = `dim`.
    Raises: UserError for packed samples, and where widths differ without `project`.
    Source: facebookresearch/mae, MCG-NJU/VideoMAE, facebookresearch/mae_st, Pang-Yatian/Point-MAE.
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
        project: bool = True,
        positions_at: Literal["start", "blocks"] = "start",
    ):
        super().__init__()
        self.dim, self.visible_rows, self.positions_at = dim, visible_rows, positions_at
        self.project: nn.Module = nn.Identity()
        if project:
            self.project = nn.Linear(width, dim, bias=project_bias)
            initialise(self.project)
        elif width != dim:
            raise UserError(f"decoder.dim={dim} must be the encoder's width {width} where decoder.project is false.")
        self.mask_token = nn.Parameter(token(dim, mask_init))
        self.positions, self.cls, self.trunk = positions, cls, trunk

    def forward(
        self, latent: Latent, layout: Layout, queries: Mapping[str, Query], context: Mapping[str, Latent]
    ) -> dict[str, Tensor]:
        if layout.sample is not None:
            raise UserError("core.decoders.MAEDecoder cannot take packed samples: set another decoder.")

        visible = latent.rows or Rows.all(latent.features.shape[0], layout.count, latent.features.device)
        predicted = {name: query.rows_in(layout, latent.features) for name, query in queries.items()}
        masked = self._mask_token_rows(visible, layout, predicted)

        # The sequence: cls, visible latents, mask tokens.
        batch, extra = visible.index.shape[0], int(self.cls is not None)
        latents, at_visible = self.project(latent.features), self.positions.at(layout, visible)
        at_masked = self.positions.at(layout, masked)
        positions = None
        if self.positions_at == "start":
            x = torch.cat([latents + at_visible, (self.mask_token + at_masked).expand(batch, -1, -1)], 1)
        else:
            x = torch.cat([latents, self.mask_token.expand(batch, masked.count, -1)], 1)
            positions = torch.cat([at_visible, at_masked], 1)
        if self.cls is not None:
            encoder_cls = None
            if self.cls.token is None:
                encoder_cls = self.project(latent.cls)
            x = self.cls(x, encoder_cls, add_position=positions is None)
            if positions is not None:
                positions = self.cls.before(positions)

        plan = self._plan(latent, masked, extra)
        output = self._output_rows(visible, layout, masked, predicted, extra)
        if output.count < x.shape[1]:
            x, _ = self.trunk(x, plan, read=output, positions=positions)
        else:
            x = output.gather(self.trunk(x, plan, positions=positions)[0])

        counts = [rows.count for rows in predicted.values()]
        return dict(zip(predicted, x.split(counts, 1), strict=True))

    def _mask_token_rows(self, visible: Rows, layout: Layout, predicted: Mapping[str, Rows]) -> Rows:
        """The rows of the layout at which mask tokens stand."""
        if self.visible_rows == "mask_token":
            return _joined(list(predicted.values()))

        absent = ~visible.to_mask(layout.count)
        if layout.valid is not None:
            return Rows.from_mask(absent & layout.valid)
        if visible.valid is not None:
            return Rows.from_mask(absent)
        return Rows.from_mask(absent, layout.count - visible.count)

    def _output_rows(
        self, visible: Rows, layout: Layout, masked: Rows, predicted: Mapping[str, Rows], extra: int
    ) -> Rows:
        """The rows of the sequence, behind `extra` ones, that hold the predictions, one query after another."""
        number = torch.arange(extra, extra + visible.count + masked.count, device=masked.index.device)
        if self.visible_rows == "mask_token":  # mask tokens stand in the order of the queries
            return Rows(number[visible.count :].expand_as(masked.index), masked.valid)

        sequence = _joined([visible, masked])
        number = sequence.scatter(number.expand_as(sequence.index), layout.count)  # of each row of the layout
        valid = _joined_valid(list(predicted.values()))
        return Rows(torch.cat([rows.gather(number) for rows in predicted.values()], 1), valid)

    def _plan(self, latent: Latent, masked: Rows, extra: int) -> AttentionPlan:
        if latent.layout.valid is None and masked.valid is None:
            return AttentionPlan()

        visible_valid, masked_valid = latent.layout.valid, masked.valid
        if visible_valid is None:
            visible_valid = masked.index.new_ones(latent.features.shape[:2], dtype=torch.bool)
        if masked_valid is None:
            masked_valid = torch.ones_like(masked.index, dtype=torch.bool)
        return AttentionPlan(valid=F.pad(torch.cat([visible_valid, masked_valid], 1), (extra, 0), value=True))


def _joined(sets: list[Rows]) -> Rows:
    """Several sets of rows one after another."""
    if len(sets) == 1:
        return sets[0]
    return Rows(torch.cat([rows.index for rows in sets], 1), _joined_valid(sets))


def _joined_valid(sets: list[Rows]) -> Tensor | None:
    if all(rows.valid is None for rows in sets):
        return None

    flags = []
    for rows in sets:
        valid = rows.valid
        if valid is None:
            valid = torch.ones_like(rows.index, dtype=torch.bool)
        flags.append(valid)
    return torch.cat(flags, 1)
