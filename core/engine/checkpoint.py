"""Checkpoints: one folder each, written whole or not at all, holding tensors and JSON only.

    checkpoints/step_00000123/model.safetensors    the method's state_dict
                              state.safetensors    optimizer/<parameter>/<key>, average/<parameter>, rng/<device>
                              meta.json            step, data position, counts; size and SHA-256 of the two files

Nothing in them is ever unpickled. Every rank reads them, the main one writes.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.engine.average import WeightEMA
from core.errors import UserError
from core.files import explain_write_errors, flush_to_disk

MODEL, STATE, META = "model.safetensors", "state.safetensors", "meta.json"
OTHER_RUN = "Choose another run_dir=, or the settings that this run began with."


@dataclass(frozen=True)
class Position:
    """How far a run has come."""

    step: int = 0  # optimiser steps taken
    batches: int = 0  # parts read from the loader
    skipped: int = 0  # bad samples met


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run; the newest `keep` stay."""

    folder: Path
    keep: int

    def newest(self) -> Path | None:
        return max(self.folder.glob("step_*"), default=None)

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step_*"))

    def save(
        self,
        method: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightEMA,
        at: Position,
    ) -> Path:
        """Writes, flushes, renames, and only then removes what is too old.

        Raises UserError where the disk is full (what was there stays) or a weight is not finite.
        """
        final = self.folder / f"step_{at.step:08d}"
        model, state = method.state_dict(), collect(method, optimizer, average)
        check_finite(model, final)

        temporary = self.folder / f".new_{final.name}"
        try:
            with explain_write_errors(final):
                write_folder(temporary, {MODEL: model, STATE: state}, at)
                os.rename(temporary, final)
                flush_to_disk(self.folder)
        except UserError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(f"{error} The last good checkpoint is {self.newest() or 'none'}.") from error

        for old in self._folders()[: -self.keep]:
            hidden = old.with_name(f".old_{old.name}")
            os.rename(old, hidden)  # removing takes time: a folder of the final name is always whole
            shutil.rmtree(hidden)
        return final

    def clean(self) -> list[str]:
        """Sets damaged checkpoints aside, with notes, and removes half-written ones. For one rank alone.

        Raises UserError when one holds pickled code.
        """
        notes = []
        with explain_write_errors(self.folder):
            for remnant in [*self.folder.glob(".new_*"), *self.folder.glob(".old_*")]:
                shutil.rmtree(remnant)

            for folder in self._folders():
                refuse_pickles(folder)
                if damage := find_damage(folder):
                    aside = folder.with_name(f"damaged_{folder.name}")
                    shutil.rmtree(aside, ignore_errors=True)
                    os.rename(folder, aside)
                    notes.append(f"warning: checkpoint {folder} is ignored and renamed to {aside.name}: {damage}")
        return notes

    def resume(self, method: nn.Module, optimizer: torch.optim.Optimizer, average: WeightEMA) -> Position:
        """Loads the newest checkpoint, if any, into all three, and the global random state.

        Raises UserError naming the tensors that do not fit the method.
        """
        folder = self.newest()
        if folder is None:
            return Position()

        weights = load_file(folder / MODEL)
        compare_shapes(weights, method, folder)
        # Shapes agree; frozen teachers may keep out of state_dict().
        method.load_state_dict(weights, strict=False)
        restore(load_file(folder / STATE), method, optimizer, average)
        return Position(**json.loads((folder / META).read_text())["position"])


def collect(method: nn.Module, optimizer: torch.optim.Optimizer, average: WeightEMA) -> dict[str, Tensor]:
    """All state beside the method's own, by name."""
    names: dict[Tensor, str] = {p: name for name, p in method.named_parameters()}
    tensors = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"optimizer/{names[parameter]}/{key}"] = value

    for name, mean in average.weights.items():
        tensors[f"average/{name}"] = mean
    tensors["rng/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    return tensors


def restore(
    tensors: dict[str, Tensor],
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightEMA,
) -> None:
    """The inverse of `collect`."""
    names = {p: name for name, p in method.named_parameters()}
    index: dict[str, int] = {}  # of parameters, in the optimiser's own count
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            index[names[parameter]] = len(index)

    state: dict[int, dict[str, Tensor]] = {}
    means: dict[str, Tensor] = {}
    for path, value in tensors.items():
        kind, _, name = path.partition("/")
        if kind == "optimizer":
            name, key = name.rsplit("/", 1)
            state.setdefault(index[name], {})[key] = value.clone()  # the file is only mapped
        elif kind == "average":
            means[name] = value

    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    average.load(means)

    torch.set_rng_state(tensors["rng/cpu"])
    if torch.cuda.is_available() and "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"])


def write_folder(folder: Path, files: dict[str, dict[str, Tensor]], at: Position) -> None:
    """All files, flushed to the disk. Raises OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    sums = {}
    for name, tensors in files.items():
        # Clones: tied weights share memory, which the format refuses.
        content = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        try:
            save_file(content, folder / name)
        except SafetensorError as error:
            match = re.search(r"os error (\d+)", str(error))
            number = int(match[1]) if match else errno.EIO
            raise OSError(number, str(error)) from error
        flush_to_disk(folder / name)
        sums[name] = describe(folder / name)

    meta = {"position": asdict(at), "torch": torch.__version__, "files": sums}
    (folder / META).write_text(json.dumps(meta, indent=1) + "\n")
    flush_to_disk(folder / META)
    flush_to_disk(folder)


def describe(file: Path) -> dict:
    with open(file, "rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def find_damage(folder: Path) -> str | None:
    """The first fault of a checkpoint's files, or None."""
    try:
        recorded = json.loads((folder / META).read_text(encoding="utf-8"))["files"]
        for name in (MODEL, STATE):
            if describe(folder / name) != recorded[name]:
                return f"{name} is not what was written ({(folder / name).stat().st_size} bytes)"
            with safe_open(folder / name, "pt"):
                pass
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def refuse_pickles(folder: Path) -> None:
    """Raises UserError when a file holds pickled code, under whatever name: reading it could run anything."""
    for file in folder.iterdir():
        with open(file, "rb") as stream:
            head = stream.read(9)
        is_safe = head[8:9] == b"{"  # safetensors: eight bytes of length, then JSON
        if not is_safe and (head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5")):
            raise UserError(
                f"{file} contains pickled code, which could run anything when read, and is refused. "
                f"Checkpoints hold safetensors and JSON only; remove {folder} or choose another run_dir=."
            )


def check_finite(weights: dict[str, Tensor], path: Path) -> None:
    """Raises UserError naming a weight that is NaN or infinite. Reads the device once."""
    names, flags = [], []
    for name, value in weights.items():
        if value.is_floating_point():
            names.append(name)
            flags.append(torch.isfinite(value).all())

    finite = torch.stack(flags)
    if not finite.all():
        bad = [name for name, flag in zip(names, finite.tolist(), strict=True) if not flag]
        raise UserError(
            f"{len(bad)} weights became NaN or infinite, {bad[0]} among them; {path} is not written. Lower "
            "the learning rate or set optim.clip, in another run_dir=."
        )


def compare_shapes(
    saved: dict[str, Tensor],
    method: nn.Module,
    folder: Path,
    remedy: str = OTHER_RUN,
) -> None:
    """Raises UserError naming the tensors whose shapes differ, and the remedy."""
    before = {name: tuple(value.shape) for name, value in saved.items()}
    after = {name: tuple(value.shape) for name, value in method.state_dict().items()}

    lines = []
    for name in {**before, **after}:
        old, new = before.get(name, "absent"), after.get(name, "absent")
        if old != new:
            lines.append(f"{name}: {old} in the checkpoint, {new} in the method")

    if lines:
        shown = lines[:8]
        if len(lines) > 8:
            shown.append(f"and {len(lines) - 8} more")
        differences = "\n  ".join(shown)
        raise UserError(f"{folder} is a checkpoint of another architecture:\n  {differences}\n{remedy}")
