"""What an encoder is measured against: itself untrained, and principal components of the raw input."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.loader import evaluation_batches
from core.data.sources import Item
from core.engine.randomness import mix
from core.evaluation.features import Reading
from core.evaluation.projection import Components, fit_components
from core.export import SavedEncoder, load_encoder
from core.world.cache import write_whole

COMPONENTS = 256  # of raw input; fewer where validation says so
FIT_SAMPLES = 4096  # training samples the components are fitted on, drawn at random
CODE = ("baselines", "classification", "features", "knn", "linear", "probe", "projection", "protocol")
Scores = dict[str, np.ndarray]


def random_encoders(path: str | Path, count: int, seed: int) -> list[SavedEncoder]:
    """Encoders of the same shape as the saved one, freshly initialised, each from its own seed."""
    found = []
    for number in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix("random init", seed, number))
            found.append(load_encoder(path, pretrained=False))
    return found


def raw_components(items: Sequence[Item], reading: Reading, seed: int) -> Components | None:
    """Leading components of whole raw samples, as read; None where they are not arrays of one shape."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(items))[:FIT_SAMPLES])
    rows: list[Tensor] = []
    for batch in evaluation_batches([items[i] for i in chosen], reading.reader, reading.batch_size, reading.workers):
        data = batch.views[reading.reader.view]
        if not isinstance(data, Tensor) or (rows and data[0].numel() != rows[0].shape[1]):
            return None
        rows.append(data.flatten(1))
    return fit_components(torch.cat(rows), COMPONENTS, seed)


def cached(key: Mapping, compute: Callable[[], Scores]) -> Scores:
    """Scores of baselines by name, computed once for everything that `key` (plain JSON) and the code say.

    Kept in `$LACUNA_CACHE/baselines` (default `~/.cache/lacuna/baselines`); no error where that cannot be written.
    """
    code = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in CODE)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode() + code).hexdigest()[:32]
    file = Path(os.environ.get("LACUNA_CACHE") or "~/.cache/lacuna").expanduser() / "baselines" / f"{name}.npz"
    if file.exists():
        with np.load(file, allow_pickle=False) as kept:
            return dict(kept)
    scores, content = compute(), io.BytesIO()
    np.savez_compressed(content, **scores)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content.getvalue())
    return scores
