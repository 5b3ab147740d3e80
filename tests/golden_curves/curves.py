"""A golden curve: the command of a short run, the machine it ran on, and the loss of every step.

As text, one file a method:

    # python -m core.train modality=image method=mae …
    # AMD EPYC, AVX2, torch 2.14.1
    1 1.64174235
    2 …
"""

import json
import os
import platform
import shlex
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import torch

from core.train import main
from tests import molecules

FOLDER = Path(__file__).parent
COMMAND = "python -m core.train"
MOLECULES = "molecules"  # `data.root` of a command that trains on molecules


@dataclass(frozen=True)
class Curve:
    command: str
    machine: str
    losses: Sequence[float]

    @classmethod
    def read(cls, path: Path) -> "Curve":
        command, machine, *lines = path.read_text(encoding="utf-8").splitlines()
        losses = [float(line.split()[1]) for line in lines]
        return cls(command.removeprefix("# "), machine.removeprefix("# "), losses)

    def write(self, path: Path) -> None:
        lines = [f"# {self.command}", f"# {self.machine}"]
        lines += [f"{step} {loss:.9g}" for step, loss in enumerate(self.losses, 1)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def paths() -> dict[str, Path]:
    """The files by their method."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.txt"))}


def train(command: str, folder: Path) -> Curve:
    """Runs `command` on one thread in the empty `folder`; its paths are relative to it."""
    arguments = shlex.split(command.removeprefix(COMMAND))
    if f"data.root={MOLECULES}" in arguments:
        molecules.write(folder / MOLECULES, count=16)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with chdir(folder):
            code = main([*arguments, "run_dir=run"])
    finally:
        torch.set_num_threads(threads)
    if code:
        raise RuntimeError(f"{command} ended with exit code {code}")

    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return Curve(command, machine(), [line["loss"] for line in lines if line["kind"] == "train"])


def machine() -> str:
    """Equal on machines that compute the same bits: processor, its instructions as torch uses them, torch."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
