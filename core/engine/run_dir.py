"""One directory, one run: the lock, the saved config, the end mark."""

import fcntl
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

from core.config import load
from core.errors import UserError
from core.files import explain_write_errors, write_atomic
from core.saved import complete

FINISHED = "finished.json"  # the mark of a run that came to its end
PRECISION = "precision.json"  # the choice of precision=auto, and its reason
CHANGEABLE = ("engine", "run_dir", "published")  # may differ between two starts of one run: they change no result
EMPTY: Mapping[str, str] = MappingProxyType({})
SHOWN = 12  # differing keys that a message lists


def default_path(config: dict) -> Path:
    """runs/<modality>_<method>_<size>_<data>"""
    return Path("runs") / "_".join(config[group]["name"] for group in ("modality", "method", "size", "data"))


def seed_overrides(overrides: Sequence[str], config: dict[str, Any], seeds: int | None) -> list[list[str]]:
    """The overrides themselves; with `seeds` those for each of seed, seed + 1, …, whose runs lie in
    `<run_dir>/seed<number>`. `config`: composed from them.

    Raises: UserError for no seeds, and where the directory is a run itself.
    """
    if seeds is None:
        return [list(overrides)]
    if seeds < 1:
        raise UserError(f"seeds={seeds} must be at least 1.")

    path = Path(config.get("run_dir") or default_path(config))
    if (path / "config.yaml").exists():
        text = f"{path} holds a run; seeds={seeds} makes a folder of {seeds} runs"
        raise UserError(f"{text}: choose another run_dir=.")

    shared = [text for text in overrides if text.partition("=")[0] not in ("seed", "run_dir")]
    by_seed = []
    for seed in range(config["seed"], config["seed"] + seeds):
        by_seed.append([*shared, f"seed={seed}", f"run_dir={path / f'seed{seed}'}"])
    return by_seed


@contextmanager
def lock_run_dir(path: Path) -> Iterator[None]:
    """Creates the directory and holds it for this process; the death of the process lets it go.

    A directory in which nothing was written is removed again.
    Raises UserError where it cannot be written or another process trains in it.
    """
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
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
                with suppress(OSError):  # a parent that something else is in by now
                    for folder in created or [path]:
                        folder.rmdir()


def has_steps(path: Path) -> bool:
    """Whether anything was trained here: a directory without a checkpoint or an end is free to be taken over."""
    return (path / FINISHED).exists() or any((path / "checkpoints").glob("*step_*"))


def check_config(path: Path, config: dict, free: Collection[str] = (), remedies: Mapping[str, str] = EMPTY) -> None:
    """Compares a config with the one that the run in this directory began with.

    `free`: keys that may differ, beside `CHANGEABLE`. Without a step there is no run: another config takes
    the directory over. Raises UserError naming the keys that differ, and the `remedies` of single keys.
    """
    file = path / "config.yaml"
    if not file.exists():
        return

    saved = load(file)
    with suppress(UserError):  # of another version; its keys differ then
        complete(saved)
    differing = compare(saved, config, free)
    if differing and not has_steps(path):
        (path / PRECISION).unlink(missing_ok=True)
    elif differing:
        lines = [f"{path} holds a run with another config:"]
        lines += [f"  {key}: {old} -> {new}" for key, (old, new) in list(differing.items())[:SHOWN]]
        if len(differing) > SHOWN:
            lines.append(f"  and {len(differing) - SHOWN} more")

        lines += dict.fromkeys(remedies[key] for key in differing if key in remedies)
        lines.append(
            "Only engine.* may change within a run. Choose another run_dir=, or give the saved values to resume."
        )
        raise UserError("\n".join(lines))


def save_config(path: Path, config: dict) -> None:
    """Writes `config.yaml`, which makes the directory a run."""
    file = path / "config.yaml"
    with explain_write_errors(file):
        write_atomic(file, OmegaConf.to_yaml(OmegaConf.create(config)))


def compare(old: dict, new: dict, free: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Both values of each key where they differ; of `CHANGEABLE` and `free` keys none."""
    before, after = flatten(old), flatten(new)

    differing = {}
    for key in {**before, **after}:
        values = before.get(key, "(none)"), after.get(key, "(none)")
        is_free = key.split(".")[0] in CHANGEABLE or key in free
        if not is_free and values[0] != values[1]:
            differing[key] = values
    return differing


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
