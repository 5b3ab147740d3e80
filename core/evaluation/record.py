"""write: one JSON file per evaluation, with the origin of its figures."""

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from core.data.sources import Item
from core.files import explain_write_errors, write_json

ROOT = Path(__file__).resolve().parents[2]


def describe(command: str, *, seed: int, data_hash: str, start: float) -> dict:
    """Command, seed, commit, machine, `hash_items` of the data, and the time since `start`
    (`time.monotonic()`)."""
    return {
        "command": command,
        "seed": seed,
        "commit": commit(),
        "torch": torch.__version__,
        "hardware": hardware(),
        "data_hash": data_hash,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - start, 1),
    }


def save(run: Path, record: dict) -> Path:
    """Writes `<run>/evaluation/<task>.json`, whole or not at all.

    Raises UserError where that cannot be written.
    """
    file = run / "evaluation" / f"{record['task']}.json"
    with explain_write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, record)
    return file


def hash_items(items: Iterable[Item]) -> str:
    """Hash of every sample's key, size in bytes, labels and group; the contents are not read."""
    digest = hashlib.sha256()
    sizes: dict[str, int] = {}
    for item in items:
        if item.path not in sizes:
            sizes[item.path] = _file_size(item.path)
        size = sizes[item.path]
        if item.span is not None:
            size = item.span[1]
        line = f"{item.key}\0{size}\0{sorted(item.labels.items())}\0{item.group}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def hardware() -> dict[str, str | int | None]:
    """Names of processor and accelerator, and how many cores and threads this process may use."""
    cores, gpu = os.cpu_count(), None
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    return {"cpu": _processor(), "cores": cores, "threads": torch.get_num_threads(), "gpu": gpu}


def commit() -> str | None:
    """The commit of this source tree, "-dirty" where tracked files differ; None outside a checkout."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _file_size(path: str) -> int:
    """Bytes; -1 where there is no file."""
    if os.path.exists(path):
        return os.path.getsize(path)
    return -1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
