"""What models say of every sample of a data set, read once."""

import hashlib
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
from core.evaluation.cache import keep, recall
from core.evaluation.tokens import TokenItems
from core.export import Features, SavedEncoder

Pool = Literal["mean", "max", "sum", "first", "cls", "axis0", "token"]
Extractor = Callable[[Any], Tensor]  # raw data of a batch -> (B, D)
FIRST = 16  # samples whose answer a model is known by
LARGEST = 2**30  # bytes of features that are kept on disk


@dataclass(frozen=True)
class Table:
    """One row per item that could be read: `features` (S, D) by model, the items, and what was skipped and why."""

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


@torch.no_grad()  # not inference mode: what samples in memory keep from it could not be trained through
def extract(
    models: Mapping[str, Extractor], samples: Sequence[Item], reading: Reading, tokens: TokenItems | None = None
) -> Table:
    """Runs every model over all samples, each batch read once; the table has their `tokens`, where those are given.

    Raises: UserError when no sample can be read, or a model does not answer for every token.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in models}
    kept, skipped = [], []
    by_key = {item.key: [item] for item in samples} if tokens is None else tokens.by_sample
    for batch in evaluation_batches(samples, reading.reader, reading.batch_size, reading.workers):
        skipped += batch.skipped
        rows = [item for key in batch.keys for item in by_key[key]]
        kept += rows
        data = batch.to(reading.device).views[reading.reader.view]
        for name, model in models.items():
            answer = model(data).float().cpu().numpy()
            if len(answer) != len(rows):
                raise UserError(f"The encoder gives {len(answer)} features for {len(rows)} labelled tokens.")
            parts[name].append(answer)
    return Table({name: np.concatenate(rows) for name, rows in parts.items()}, kept, skipped)


def extract_once(
    models: Mapping[str, Extractor],
    samples: Sequence[Item],
    reading: Reading,
    data: str,
    tokens: TokenItems | None = None,
) -> Table:
    """As `extract`, but what a model said of the same samples before, in this or another command, is read from disk.

    `data`: the hash of the items. A model is known by its answer to the first of them: with other weights, another
    code or other ways of reading it answers differently.
    """
    items = samples if tokens is None else [item for found in tokens.by_sample.values() for item in found]
    answers = fingerprints(models, samples, reading)
    keys = {name: {"data": data, "answer": answer} for name, answer in answers.items()}
    known = {name: found for name, key in keys.items() if (found := recall(key)) is not None}
    lacking = {name: model for name, model in models.items() if name not in known}
    if lacking:
        table = extract(lacking, samples, reading, tokens)
        places = {item.key: place for place, item in enumerate(items)}
        rows = np.array([places[item.key] for item in table.items])
        for name, features in table.features.items():
            known[name] = {"features": features, "rows": rows, "skipped": np.array(table.skipped, dtype=str)}
            if features.nbytes <= LARGEST:
                keep(keys[name], known[name])
    first = next(iter(known.values()))
    skipped = [(key, reason) for key, reason in first["skipped"].tolist()]
    features = {name: known[name]["features"] for name in models}
    return Table(features, [items[row] for row in first["rows"]], skipped)


@torch.no_grad()
def fingerprints(models: Mapping[str, Extractor], items: Sequence[Item], reading: Reading) -> dict[str, str]:
    """A hash of what each model says of the first samples."""
    batch = next(iter(evaluation_batches(items, reading.reader, FIRST, 0)))
    data = batch.to(reading.device).views[reading.reader.view]
    answers = {name: model(data).float().cpu().contiguous().numpy() for name, model in models.items()}
    return {name: hashlib.sha256(answer.tobytes()).hexdigest()[:32] for name, answer in answers.items()}


def extractor(encoder: SavedEncoder, pool: Pool = "mean", device: torch.device | str = "cpu") -> Extractor:
    """An encoder as a function from raw data to one feature vector per sample."""
    encoder = encoder.to(device).eval()
    return lambda data: pooled(encoder(data), pool)


def pooled(features: Features, pool: Pool) -> Tensor:
    """(B, D). "mean", "max", "sum": over all valid tokens. "first": the first token. "cls": the class token. "token":
    every valid token, (N, D).

    "axis0": what changes along the first axis of the grid (time): the mean absolute difference of neighbouring slots,
    each slot averaged over the other axes. An average over time says nothing of motion; signed differences, or slots
    side by side, depend on when a motion begins; beside the mean, small changes are lost to a cosine.
    Raises UserError where the encoder has no class token, or no full grid of at least two slots.
    """
    if pool == "mean":
        return features.pooled
    if pool == "token":
        return features.tokens.flatten(0, 1) if features.valid is None else features.tokens[features.valid]
    if pool == "first":
        return _first(features)
    if pool in ("max", "sum"):
        return _over_tokens(features, {"max": "amax", "sum": "sum"}[pool])
    if pool == "cls":
        if features.cls is None:
            raise UserError("pool=cls: this encoder has no class token; use pool=mean.")
        return features.cls
    grid = features.grid
    if grid is None or grid[0] < 2 or features.valid is not None or features.tokens.shape[1] != np.prod(grid):
        raise UserError(f"pool=axis0 needs tokens on a full grid, two slots or more along its first axis, not {grid}.")
    slots = features.tokens.unflatten(1, (grid[0], -1)).mean(2)  # (B, G0, D)
    return slots.diff(dim=1).abs().mean(1)


def _first(features: Features) -> Tensor:
    if features.sample is None:
        return features.tokens[:, 0]
    samples = torch.arange(len(features.pooled), device=features.sample.device)
    return features.tokens[0, torch.searchsorted(features.sample, samples)]


def _over_tokens(features: Features, reduce: Literal["amax", "sum"]) -> Tensor:
    """(B, D): each feature's largest value or its sum over a sample's valid tokens; 0 where there are none."""
    x, sample, samples = features.tokens, features.sample, len(features.pooled)
    if sample is None:
        sample = torch.arange(samples, device=x.device).repeat_interleave(x.shape[1])
    x = x.flatten(0, 1)
    if features.valid is not None:
        valid = features.valid.flatten()
        x, sample = x[valid], sample[valid]
    out = x.new_zeros(samples, x.shape[1])
    return out.scatter_reduce(0, sample[:, None].expand_as(x), x, reduce, include_self=False)
