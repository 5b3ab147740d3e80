"""What an encoder is measured against: itself untrained, and principal components of the raw input."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.loader import evaluation_batches
from core.data.sources import Item
from core.evaluation.features import Extractor, Reading
from core.evaluation.projection import fit_components
from core.export import SavedEncoder, load_encoder
from core.seeding import mix

RANDOM, RAW = "random init", "PCA of raw input"
COMPONENTS = 256  # of raw input; fewer where validation says so
FIT_SAMPLES = 4096  # training samples the components are fitted on, drawn at random


def random_encoder(path: str | Path, seed: int, number: int) -> SavedEncoder:
    """An encoder of the same shape as the saved one, freshly initialised; `number`: which of those under `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("random init", seed, number))
        return load_encoder(path, pretrained=False)


def raw_components(items: Sequence[Item], reading: Reading, seed: int, by_token: bool = False) -> Extractor | None:
    """Projection on the leading components of raw samples, or of their tokens; None where those are of many shapes."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(items))[:FIT_SAMPLES])
    rows: list[Tensor] = []
    for batch in evaluation_batches([items[i] for i in chosen], reading.reader, reading.batch_size, reading.workers):
        raw = reading.reader.raw_features(batch.views[reading.reader.view], by_token)
        if raw is None or (rows and raw.shape[1] != rows[0].shape[1]):
            return None
        rows.append(raw)
    components = fit_components(torch.cat(rows), COMPONENTS, seed)
    return lambda data: components.project(reading.reader.raw_features(data, by_token))
