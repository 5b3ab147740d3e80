"""Results on disk that need not be computed again: features of models, and scores of baselines."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from core.files import cache_folder, write_atomic

Arrays = dict[str, np.ndarray]


def cached(key: Mapping, compute: Callable[[], Arrays]) -> Arrays:
    """The result of `compute`, once for each `key` (plain JSON) and version of this package's code."""
    arrays = recall(key)
    if arrays is None:
        arrays = compute()
        store(key, arrays)
    return arrays


def recall(key: Mapping) -> Arrays | None:
    """The arrays stored under `key`, or None."""
    file = _file(key)
    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def store(key: Mapping, arrays: Arrays) -> None:
    """Writes arrays to `$LACUNA_CACHE/evaluation` (default `~/.cache/lacuna`).

    No error where that is read-only.
    """
    content = io.BytesIO()
    np.savez(content, **arrays)  # pyright: ignore[reportArgumentType]  # stubs see allow_pickle among the names
    with suppress(OSError):
        file = _file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, content.getvalue(), durable=False)


def _file(key: Mapping) -> Path:
    code = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode() + code).hexdigest()[:32]
    return cache_folder("evaluation") / f"{name}.npz"
