"""What the speed benchmarks share: sides that take turns, memory of a process of its own, records."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.table import render

RECORDS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"


def take_turns(steps: Mapping[str, Callable[[], None]], rounds: int) -> tuple[dict[str, list], dict[str, list]]:
    """Seconds of wall time and of CPU time, each step's `rounds` times, in turns so that all share the weather."""
    wall, cpu = {name: [] for name in steps}, {name: [] for name in steps}
    for index in range(rounds):
        for name in list(steps) if index % 2 else list(steps)[::-1]:
            start, worked = time.perf_counter(), time.process_time()
            steps[name]()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - worked)
    return wall, cpu


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict:
    """Median of the paired ratios with its 95 % interval, that of order statistics (binomial, by its normal limit)."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    outside = max(0, int(len(ratios) / 2 - 0.98 * len(ratios) ** 0.5))
    low, high = ratios[outside], ratios[-1 - outside]
    return {"median": statistics.median(ratios), "interval": [low, high]}


def printed_by(module: str, *arguments: str) -> str:
    """The last line that another run of a benchmark prints."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def record(name: str, command: str, found: Mapping) -> None:
    """Writes docs/benchmarks/<name>.json, renders docs/benchmarks.md anew and prints the record."""
    hardware = {
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    text = json.dumps({"benchmark": name, "command": command, **hardware, **found}, indent=2)
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / f"{name}.json").write_text(text + "\n")
    RECORDS.with_suffix(".md").write_text(render(RECORDS))
    print(text)
