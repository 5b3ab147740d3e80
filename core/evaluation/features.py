"""extract: one feature vector of every model for every sample or token, each batch read once."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.loader import evaluation_batches
from core.data.sources import Item
from core.errors import UserError
from core.evaluation.cache import recall, store
from core.evaluation.labelled import LabelledData, TokenItems, pick
from core.evaluation.settings import LoaderSettings
from core.export import Features, SavedEncoder

Extractor = Callable[[Any], Tensor]  # raw data of a batch -> (B, D)
FINGERPRINT_SAMPLES = 16  # samples whose features identify a model
MOST_BYTES = 2**30  # of features that are kept on disk


@dataclass(frozen=True)
class FeatureTable:
    """A row per item that could be read: `features` (S, D) by model, `items`, and (key, reason) of skipped ones."""

    features: Mapping[str, np.ndarray]
    items: Sequence[Item]
    skipped: Sequence[tuple[str, str]]


@torch.no_grad()  # not inference mode: samples in memory keep tensors, which are trained through later
def extract(
    models: Mapping[str, Extractor],
    samples: Sequence[Item],
    loader: LoaderSettings,
    tokens: TokenItems | None = None,
) -> FeatureTable:
    """Runs every model over all samples; the table has their `tokens`, where those are given.

    Raises: UserError when no sample can be read, or a model's features are not one per token.
    """
    by_key = {item.key: [item] for item in samples}
    if tokens is not None:
        by_key = tokens.by_sample

    parts, items, skipped = defaultdict(list), [], []
    for batch in evaluation_batches(samples, loader.reader, loader.batch_size, loader.workers):
        rows = list(chain.from_iterable(map(by_key.__getitem__, batch.keys)))
        items += rows
        skipped += batch.skipped

        data = batch.to(loader.device).views[loader.reader.view]
        for name, model in models.items():
            features = model(data).float().cpu().numpy()
            if len(features) != len(rows):
                raise UserError(f"The encoder gives {len(features)} features for {len(rows)} labelled tokens.")
            parts[name].append(features)

    joined = {name: np.concatenate(rows) for name, rows in parts.items()}
    return FeatureTable(joined, items, skipped)


def extract_cached(models: Mapping[str, Extractor], data: LabelledData, loader: LoaderSettings) -> FeatureTable:
    """As `extract`, but computed once for the same samples and model, in this or another command.

    A model is identified by its features of the first samples: other weights, other code or another reader
    give others.
    """
    keys = {}
    for name, fingerprint in fingerprints(models, data.samples, loader).items():
        keys[name] = {"data": data.hash, "answer": fingerprint}

    stored, missing = {}, {}
    for name, key in keys.items():
        arrays = recall(key)
        if arrays is None:
            missing[name] = models[name]
        else:
            stored[name] = arrays

    if missing:
        table = extract(missing, data.samples, loader, data.tokens)
        numbers = {item.key: number for number, item in enumerate(data.items)}
        rows = np.array([numbers[item.key] for item in table.items])
        for name, features in table.features.items():
            stored[name] = {"features": features, "rows": rows, "skipped": np.array(table.skipped, dtype=str)}
            if features.nbytes <= MOST_BYTES:
                store(keys[name], stored[name])

    arrays = next(iter(stored.values()))
    features = {name: stored[name]["features"] for name in models}
    skipped = list(map(tuple, arrays["skipped"].tolist()))
    return FeatureTable(features, pick(data.items, arrays["rows"]), skipped)


@torch.no_grad()
def fingerprints(models: Mapping[str, Extractor], samples: Sequence[Item], loader: LoaderSettings) -> dict[str, str]:
    """A hash of each model's features of the first samples."""
    batch = next(iter(evaluation_batches(samples, loader.reader, FINGERPRINT_SAMPLES, 0)))
    data = batch.to(loader.device).views[loader.reader.view]
    hashes = {}
    for name, model in models.items():
        features = model(data).float().cpu().contiguous().numpy()
        hashes[name] = hashlib.sha256(features.tobytes()).hexdigest()[:32]
    return hashes


def extractor(encoder: SavedEncoder, pool: str, device: torch.device | str = "cpu") -> Extractor:
    """An encoder as a function from raw data to one feature vector per sample, or per token."""
    encoder = encoder.to(device).eval()
    return lambda data: pooled(encoder(data), pool)


def pooled(features: Features, pool: str) -> Tensor:
    """(B, D). "mean", "max", "sum": over all valid tokens. "first": the first token. "cls": the class
    token. "max_rest": the maximum over all tokens but the first. "token": every valid token, (N, D).
    Joined by "+" they are added, joined by "," put side by side, (B, 2 D).

    "axis0": the change along the first axis of the grid (time): the mean absolute difference of
    neighbouring slots, each slot averaged over the other axes. An average over time hides motion; signed
    differences, or slots side by side, depend on when a motion begins; next to the mean, small changes are
    lost to a cosine. Raises UserError where the encoder has no class token, or no full grid of at least two
    slots.
    """
    if "," in pool:
        return torch.cat([pooled(features, part) for part in pool.split(",")], 1)
    if "+" in pool:
        return torch.stack([pooled(features, part) for part in pool.split("+")]).sum(0)
    if pool == "mean":
        return features.pooled
    if pool == "token":
        if features.valid is None:
            return features.tokens.flatten(0, 1)
        return features.tokens[features.valid]
    if pool == "first":
        return _first_token(features)
    if pool == "max":
        return _over_tokens(features, "amax")
    if pool == "max_rest":
        return _without_first(features)
    if pool == "sum":
        return _over_tokens(features, "sum")
    if pool == "cls":
        if features.cls is None:
            raise UserError("pool=cls: this encoder has no class token; use pool=mean, max or mean+max.")
        return features.cls

    grid = features.grid
    if grid is None or grid[0] < 2 or features.valid is not None or features.tokens.shape[1] != np.prod(grid):
        raise UserError(f"pool=axis0 needs tokens on a full grid, two slots or more along its first axis, not {grid}.")
    slots = features.tokens.unflatten(1, (grid[0], -1)).mean(2)  # (B, G0, D)
    return slots.diff(dim=1).abs().mean(1)


def _first_token(features: Features) -> Tensor:
    if features.sample is None:
        return features.tokens[:, 0]
    samples = torch.arange(len(features.pooled), device=features.sample.device)
    return features.tokens[0, torch.searchsorted(features.sample, samples)]


def _without_first(features: Features) -> Tensor:
    """(B, D): each feature's largest value over a sample's tokens but the first.

    Raises: UserError for packed samples, and where a sample has one token alone.
    """
    if features.sample is not None or features.tokens.shape[1] < 2:
        raise UserError("pool=max_rest leaves out the first of two tokens or more of every sample: use pool=max.")
    x = features.tokens[:, 1:]
    if features.valid is not None:
        x = x.masked_fill(~features.valid[:, 1:, None], -torch.inf)
    return x.amax(1)


def pooled_width(pool: str, dim: int) -> int:
    """The width of features of an encoder of width `dim`."""
    return dim * len(pool.split(","))


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
