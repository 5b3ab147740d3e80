"""One directory, one run: the lock, the saved config, the end mark."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from core.errors import UserError

FREE = ("engine", "run_dir", "published")  # may differ between two starts of one run: they change no result
SHOWN = 12  # differing keys that a message lists


def default_path(config: dict) -> Path:
    """runs/<modality>_<method>_<size>_<data>"""
    return Path("runs") / "_".join(config[group]["name"] for group in ("modality", "method", "size", "data"))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says about an unwritable or full disk into a UserError about `path`."""
    try:
        yield
    except OSError as error:
        remedy = "choose another run_dir="
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "free some space and run the same command again, it resumes; or choose another run_dir="
        raise UserError(f"Cannot write {path}: {error.strerror or error}; {remedy}.") from error


@contextmanager
def lock_run_dir(path: Path) -> Iterator[None]:
    """Creates the directory and holds it for this process; the death of the process lets it go.

    Raises UserError where it cannot be written or another process trains in it.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / ".lock", "a+")  # noqa: SIM115 (closed below; errors inside the block are others')
    with lock:
        try:  # a record lock: forked workers that outlive this process hold nothing
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"Another process is training in {path}; wait for it or choose another run_dir=."
            ) from error
        yield


def write_or_check_config(path: Path, config: dict) -> None:
    """Saves the resolved config as `config.yaml`, or compares it with the one that this run began with.

    Raises UserError naming the keys that differ; settings of `engine` may.
    """
    file = path / "config.yaml"
    if file.exists():
        differing = compare(OmegaConf.to_container(OmegaConf.load(file)), config)
        if differing:
            more = f"\n  and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
            raise UserError(
                f"{path} holds a run with another config:\n  " + "\n  ".join(differing[:SHOWN]) + more + "\n"
                "Only engine.* may change within a run. Choose another run_dir=, or give the saved values to resume."
            )
    replace_text(file, OmegaConf.to_yaml(OmegaConf.create(config)))


def compare(old: dict, new: dict) -> list[str]:
    """One line per key whose value differs, "size.dim: 128 -> 192"."""
    before, after = flatten(old), flatten(new)
    keys = [key for key in {**before, **after} if key.split(".")[0] not in FREE]
    absent = "(none)"
    return [
        f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
        for key in keys
        if before.get(key, absent) != after.get(key, absent)
    ]


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict | list | tuple) or not node:
        return {prefix: node}
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    return {k: v for key, value in pairs for k, v in flatten(value, f"{prefix}.{key}" if prefix else str(key)).items()}


def replace_text(file: Path, text: str) -> None:
    """Writes the file whole or not at all."""
    with writing(file):
        temporary = file.with_name(f".{file.name}.new")
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)


def save_note(file: Path, note: dict) -> None:
    replace_text(file, json.dumps(note, indent=1) + "\n")


def load_note(file: Path) -> dict | None:
    """None where there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
