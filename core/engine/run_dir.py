"""One directory, one run: the lock, the saved config, the end mark."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from core.errors import UserError
from core.files import explain_write_errors, write_atomic

FINISHED = "finished.json"  # the mark of a run that came to its end
PRECISION = "precision.json"  # the choice of precision=auto, and its reason
CHANGEABLE = ("engine", "run_dir", "published")  # may differ between two starts of one run: they change no result
SHOWN = 12  # differing keys that a message lists


def default_path(config: dict) -> Path:
    """runs/<modality>_<method>_<size>_<data>"""
    return Path("runs") / "_".join(config[group]["name"] for group in ("modality", "method", "size", "data"))


@contextmanager
def lock_run_dir(path: Path) -> Iterator[None]:
    """Creates the directory and holds it for this process; the death of the process lets it go.

    A directory in which nothing was written is removed again.
    Raises UserError where it cannot be written or another process trains in it.
    """
    with explain_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / ".lock", "a+")  # noqa: SIM115 (closed below; errors inside the block are others')

    with lock:
        try:  # a record lock: forked workers that outlive this process hold nothing
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_current = os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))
        except OSError:
            is_current = False
        if not is_current:  # held by another process, which may have removed it meanwhile
            raise UserError(f"Another process is training in {path}; wait for it or choose another run_dir=.")

        try:
            yield
        finally:
            if [file.name for file in path.iterdir()] == [".lock"]:
                (path / ".lock").unlink()
                path.rmdir()


def has_steps(path: Path) -> bool:
    """Whether anything was trained here: a directory without a checkpoint or an end is free to be taken over."""
    return (path / FINISHED).exists() or any((path / "checkpoints").glob("*step_*"))


def check_config(path: Path, config: dict) -> None:
    """Compares a config with the one that the run in this directory began with.

    Without a step there is no run: another config takes the directory over.
    Raises UserError naming the keys that differ; settings of `engine` may.
    """
    file = path / "config.yaml"
    if not file.exists():
        return

    differing = compare(cast(dict, OmegaConf.to_container(OmegaConf.load(file))), config)
    if differing and not has_steps(path):
        (path / PRECISION).unlink(missing_ok=True)
    elif differing:
        more = f"\n  and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise UserError(
            f"{path} holds a run with another config:\n  " + "\n  ".join(differing[:SHOWN]) + more + "\n"
            "Only engine.* may change within a run. Choose another run_dir=, or give the saved values to resume."
        )


def save_config(path: Path, config: dict) -> None:
    """Writes `config.yaml`, which makes the directory a run."""
    file = path / "config.yaml"
    with explain_write_errors(file):
        write_atomic(file, OmegaConf.to_yaml(OmegaConf.create(config)))


def compare(old: dict, new: dict) -> list[str]:
    """One line per key whose value differs, "size.dim: 128 -> 192"."""
    before, after = flatten(old), flatten(new)

    lines = []
    for key in {**before, **after}:
        old_value, new_value = before.get(key, "(none)"), after.get(key, "(none)")
        if key.split(".")[0] not in CHANGEABLE and old_value != new_value:
            lines.append(f"{key}: {old_value} -> {new_value}")
    return lines


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping from dotted keys to leaves."""
    if not isinstance(node, dict | list | tuple) or not node:
        return {prefix: node}

    leaves = {}
    entries = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in entries:
        path = f"{prefix}.{key}" if prefix else str(key)
        leaves |= flatten(value, path)
    return leaves
