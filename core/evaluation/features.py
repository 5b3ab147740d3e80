"""What models say of every sample of a data set, read once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.loader import evaluation_batches
from core.data.reader import Reader
from core.data.sources import Item
from core.errors import UserError
from core.export import Features, SavedEncoder

Pool = Literal["mean", "cls", "axis0"]
Extractor = Callable[[Any], Tensor]  # raw data of a batch -> (B, D)


@dataclass(frozen=True)
class Table:
    """One row per sample that could be read: `features` (S, D) by model, the items, and what was skipped and why."""

    features: Mapping[str, np.ndarray]
    items: Sequence[Item]
    skipped: Sequence[tuple[str, str]]

    def labels(self, name: str) -> np.ndarray:
        """Class numbers (S,), -1 where unknown."""
        return np.array([item.labels.get(name, -1) for item in self.items])


@dataclass(frozen=True)
class Reading:
    """How samples are read for an evaluation."""

    reader: Reader
    batch_size: int = 64
    workers: int = 0
    device: torch.device | str = "cpu"


@torch.inference_mode()
def extract(models: Mapping[str, Extractor], items: Sequence[Item], reading: Reading) -> Table:
    """Runs every model over all items, each batch read once. Raises UserError when no item can be read."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in models}
    kept, skipped = [], []
    by_key = {item.key: item for item in items}
    for batch in evaluation_batches(items, reading.reader, reading.batch_size, reading.workers):
        skipped += batch.skipped
        kept += [by_key[key] for key in batch.keys]
        data = batch.to(reading.device).views[reading.reader.view]
        for name, model in models.items():
            parts[name].append(model(data).float().cpu().numpy())
    return Table({name: np.concatenate(rows) for name, rows in parts.items()}, kept, skipped)


def extractor(encoder: SavedEncoder, pool: Pool = "mean", device: torch.device | str = "cpu") -> Extractor:
    """An encoder as a function from raw data to one feature vector per sample."""
    encoder = encoder.to(device).eval()
    return lambda data: pooled(encoder(data), pool)


def pooled(features: Features, pool: Pool) -> Tensor:
    """(B, D). "mean": of all valid tokens. "cls": the class token.

    "axis0": what changes along the first axis of the grid (time): the mean absolute difference of neighbouring slots,
    each slot averaged over the other axes. An average over time says nothing of motion; signed differences, or slots
    side by side, depend on when a motion begins; beside the mean, small changes are lost to a cosine.
    Raises UserError where the encoder has no class token, or no full grid of at least two slots.
    """
    if pool == "mean":
        return features.pooled
    if pool == "cls":
        if features.cls is None:
            raise UserError("pool=cls: this encoder has no class token; use pool=mean.")
        return features.cls
    grid = features.grid
    if grid is None or grid[0] < 2 or features.valid is not None or features.tokens.shape[1] != np.prod(grid):
        raise UserError(f"pool=axis0 needs tokens on a full grid, two slots or more along its first axis, not {grid}.")
    slots = features.tokens.unflatten(1, (grid[0], -1)).mean(2)  # (B, G0, D)
    return slots.diff(dim=1).abs().mean(1)
