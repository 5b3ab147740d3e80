"""write: one JSON file for each task, data, settings and set of runs, with the origin of its figures."""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from core.data.sources import Item
from core.evaluation.settings import EvaluationSettings
from core.files import explain_write_errors, write_json

SUBJECT = ("run", "task", "compare_to")  # settings that a record names by themselves
INDIFFERENT = ("workers", "device")  # settings that change no figure
SHOWN_NAMES = 4  # settings in a file's name
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


def heading(settings: EvaluationSettings, config: Mapping[str, Any]) -> dict[str, Any]:
    """The first keys of a record: its task, runs, data, settings other than the defaults, and runs compared with.

    `config`: with the data that are evaluated.
    """
    changed = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name not in (*SUBJECT, *INDIFFERENT) and value != field.default:
            changed[field.name] = value

    runs = list(map(str, settings.runs))
    return {
        "task": settings.task,
        "run": runs[0] if len(runs) == 1 else runs,
        "data": config["data"]["name"],
        "root": config["data"].get("root"),
        "settings": changed,
        "beside": list(map(str, settings.rivals)),
    }


def file_name(head: Mapping[str, Any], data: Mapping[str, Any] | None) -> str:
    """The record's name without suffix: the task alone for one run on its own data by the default settings.

    Else the task, the parts that differ, and a short hash of them: "linear-flowers-shots=10-3fa2c1".
    `data`: the nodes of data that are not the run's own; None: they are.
    """
    runs = head["run"] if isinstance(head["run"], list) else []
    words = [f"{len(runs)}runs"] if runs else []
    if data is not None:
        words.append(Path(str(head["root"] or head["data"])).stem)
    words += [f"{name}={value}" for name, value in head["settings"].items()][:SHOWN_NAMES]
    if head["beside"]:
        words.append(f"against_{Path(head['beside'][0]).name}")
    if not words:
        return head["task"]

    paths = [sorted(str(Path(run).resolve()) for run in part) for part in (runs, head["beside"])]
    identity = json.dumps([paths, head["settings"], data], sort_keys=True, default=str)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:6]
    return "-".join(re.sub(r"[^\w.=]+", "_", word)[:40] for word in (head["task"], *words, digest))


def about(record: Mapping[str, Any]) -> str:
    """A line on the subject of a record, also of an older one.

    Task, runs, data, settings and runs compared with.
    """
    parts = [record["task"]]
    if isinstance(record.get("run"), list):
        parts.append(f"mean of {len(record['run'])} runs ({', '.join(record['run'])})")
    if record.get("data"):
        parts.append(f"data={record['data']} {record.get('root') or ''}".strip())
    parts += [f"{name}={value}" for name, value in record.get("settings", {}).items()]
    if record.get("beside"):
        parts.append(f"compared with {', '.join(record['beside'])}")
    return ", ".join(parts)


def subject(record: Mapping[str, Any]) -> str:
    """The name of the row of our figures in a table: a record of several runs holds their mean."""
    if isinstance(record.get("run"), list):
        return f"mean of {len(record['run'])} runs"
    return "this run"


def save(run: Path, record: dict, name: str | None = None) -> Path:
    """Writes `<run>/evaluation/<name>.json`, whole or not at all; `name`: None: the task's.

    Raises UserError where that cannot be written.
    """
    file = run / "evaluation" / f"{name or record['task']}.json"
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
