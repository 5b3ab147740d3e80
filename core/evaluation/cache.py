"""What was computed once and need not be again, on disk: features, and what baselines got right."""

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
    """What `compute` returns, computed once for everything that `key` (plain JSON) and this package's code say."""
    found = recall(key)
    if found is None:
        found = compute()
        keep(key, found)
    return found


def recall(key: Mapping) -> Arrays | None:
    """What was kept under `key`, or None."""
    file = _file(key)
    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as kept:
        return dict(kept)


def keep(key: Mapping, arrays: Arrays) -> None:
    """Kept in `$LACUNA_CACHE/evaluation` (default `~/.cache/lacuna`); no error where that cannot be written."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    with suppress(OSError):
        file = _file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, content.getvalue(), durable=False)


def _file(key: Mapping) -> Path:
    code = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode() + code).hexdigest()[:32]
    return cache_folder("evaluation") / f"{name}.npz"
