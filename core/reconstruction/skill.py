"""Skill of a reconstruction by region: 1 - its error / that of the better trivial answer."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from core.reconstruction.errors import TokenErrors
from core.tokens import Layout, Query

REGIONS = ("total", "object", "background", "unseen")
OBJECT_SHARE = 0.5  # a token counts as object from this share of object cells on, else as background
REFERENCES = ("baseline", "zero")


def skill(error: np.ndarray, references: np.ndarray) -> np.ndarray:
    """1 - error / the smaller of the references' errors: error (…), references (F, …) → (…)."""
    # A bootstrap draw may consist of samples that a reference predicts without error.
    tiny = np.finfo(np.float64).tiny
    return 1 - error / np.maximum(references.min(0), tiny)


@dataclass
class ErrorSums:
    """Sums over each sample's scored tokens, by objective and region: errors by answer, and tokens.

    `by_token`: every token is a unit of its own, where there is one sample only.
    """

    by_token: bool = False
    parts: defaultdict = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    @property
    def objectives(self) -> list[str]:
        return list(dict(self.parts.keys()))  # keys are (objective, region)

    def regions(self, objective: str) -> list[str]:
        return [region for region in REGIONS if (objective, region) in self.parts]

    def add(self, errors: TokenErrors, layout: Layout, shares: Tensor | None) -> None:
        """Adds a batch's errors.

        `layout`: of the tokens; `shares` (B, N): of object cells in each, None: unknown.
        """
        owner, samples = _owners(errors.query, layout)
        if errors.region is None:
            regions = _regions(errors.scored, errors.query, shares)
        else:
            regions = {errors.region: errors.scored}
        for region, flags in regions.items():
            self._add_region(errors, region, flags, owner[flags], samples)

    def of(self, objective: str, region: str) -> dict[str, np.ndarray]:
        """(S,) by answer, and "tokens": of the samples (or tokens) that have tokens in this region."""
        sums = self.parts[objective, region]
        present = np.concatenate(sums["tokens"]) > 0
        return {answer: np.concatenate(values)[present] for answer, values in sums.items()}

    def _add_region(self, errors: TokenErrors, region: str, flags: Tensor, owner: Tensor, samples: int) -> None:
        counts = torch.ones_like(flags, dtype=torch.float32)
        for answer, error in {**errors.errors, "tokens": counts}.items():
            values = error[flags].double()
            if not self.by_token:
                values = values.new_zeros(samples).index_add(0, owner, values)
            self.parts[errors.objective, region][answer].append(values.cpu().numpy())


def object_shares(objects: list[Tensor | None], layout: Layout) -> Tensor | None:
    """(B, N): the share of each token's cells that show an object.

    None where that is unknown for some sample.

    `objects`: flags of each sample's cells (*size), or of its tokens (N,) where samples are packed.
    """
    flags = [sample for sample in objects if sample is not None]
    if len(flags) < len(objects):
        return None
    if layout.sample is not None:
        return torch.cat(flags)[None].float()
    if layout.grid is None or layout.coords is not None:
        return None

    cells = torch.stack(flags).float()
    for axis, slots in enumerate(layout.grid, start=1):
        cells = cells.unflatten(2 * axis - 1, (slots, -1))
    return cells.mean(tuple(range(2, cells.dim(), 2))).flatten(1)


def _owners(query: Query, layout: Layout) -> tuple[Tensor, int]:
    """The sample of each row of a query, (B, M), and how many samples there are."""
    assert query.rows is not None, "errors are of rows"
    index = query.rows.index
    if layout.sample is not None and layout.samples is not None:
        return query.rows.gather(layout.sample[None]), layout.samples
    return torch.arange(len(index), device=index.device)[:, None].expand_as(index), len(index)


def _regions(scored: Tensor, query: Query, shares: Tensor | None) -> Mapping[str, Tensor]:
    if shares is None:
        return {"total": scored}
    assert query.rows is not None, "errors are of rows"
    is_object = query.rows.gather(shares.to(scored.device)) >= OBJECT_SHARE
    return {"total": scored, "object": scored & is_object, "background": scored & ~is_object}
