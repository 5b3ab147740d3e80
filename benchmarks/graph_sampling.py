"""GraphMAE pre-training by neighbour sampling on a generated graph that is never in memory: 1M nodes, 10M edges.

    OMP_NUM_THREADS=1 python -m benchmarks.graph_sampling

The graph is written as arrays, then `python -m core.train data=graph_sampled` trains on it as a user would, with one
loader process. Memory is what that command and its loader hold together, shared pages counted once, read every half
second; pages of the mapped arrays count while they are mapped. Flat: the medians of both halves of the steps are equal.
Writes docs/benchmarks/graph_sampling.json and renders the table.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import printed_by, record
from modalities.graph.sampling import write

FEATURES = 64
SIZE = 1000  # nodes of a community
EVERY = 5  # steps between log lines


def generate(folder: str, nodes: int, edges: int) -> None:
    """A random graph, undirected (`edges` counts both directions): nine links of ten join nodes of one community.

    Features are those of the community and noise, so that there is something to learn.
    """
    rng = np.random.default_rng(0)
    one = rng.integers(nodes, size=edges // 2)
    other = np.where(rng.random(len(one)) < 0.9, one - one % SIZE + rng.integers(SIZE, size=len(one)), one[::-1])
    other = np.minimum(other, nodes - 1)
    centres = rng.standard_normal((-(-nodes // SIZE), FEATURES), np.float32)
    features = rng.standard_normal((nodes, FEATURES), np.float32)
    features += centres.repeat(SIZE, 0)[:nodes]
    write(folder, np.stack([np.concatenate([one, other]), np.concatenate([other, one])]), features)


def train(graph: str, run: Path, steps: int, batch: int) -> list[tuple[float, float]]:
    """Runs the command; (time, MiB) of its memory from start to end."""
    settings = {
        "modality": "graph",
        "method": "graphmae",
        "size": "base",
        "data": "graph_sampled",
        "data.root": graph,
        "modality.features": FEATURES,
        "optim": "adam",
        "steps": steps,
        "batch_size": batch,
        "precision": "fp32",
        "engine.workers": 1,
        "engine.log_every": EVERY,
        "run_dir": run,
    }
    command = [sys.executable, "-m", "core.train", *(f"{key}={value}" for key, value in settings.items())]
    seen = []
    with open(run.with_suffix(".log"), "w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while process.poll() is None:
            seen.append((time.time(), memory(process.pid)))
            time.sleep(0.5)
    if process.returncode:
        raise RuntimeError(run.with_suffix(".log").read_text())
    return seen


def memory(process: int) -> float:
    """MiB of a process and those it started; what has just ended counts nothing."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0.0
    own = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) / 2**10
    return own + sum(memory(int(child)) for child in children)


def figures(run: Path, seen: list[tuple[float, float]]) -> dict:
    """Of the steps behind the first log line, before which everything starts."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["kind"] == "train"]
    times, middle = [time for time, _ in seen], (lines[0]["time"] + lines[-1]["time"]) / 2
    start, half, end = (bisect(times, t) for t in (lines[0]["time"], middle, lines[-1]["time"]))
    held = [memory for _, memory in seen]
    passed = [(b["time"] - a["time"]) / (b["step"] - a["step"]) for a, b in itertools.pairwise(lines)]
    return {
        "seconds_per_step": statistics.median(passed),
        "data_wait": statistics.mean(line["data_wait"] for line in lines[1:]),
        "peak_mib": max(held),
        "first_half_mib": statistics.median(held[start:half]),
        "second_half_mib": statistics.median(held[half:end]),
        "loss": [lines[0]["loss"], lines[-1]["loss"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32, help="root nodes per step")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.make:
        generate(args.make, args.nodes, args.edges)
        print(sum(file.stat().st_size for file in Path(args.make).iterdir()) / 2**20)
        return
    with tempfile.TemporaryDirectory() as folder:
        graph, run = os.path.join(folder, "graph"), Path(folder) / "run"
        size = printed_by(
            "benchmarks.graph_sampling", "--make", graph, "--nodes", str(args.nodes), "--edges", str(args.edges)
        )
        seen = train(graph, run, args.steps, args.batch)
        asked = {"nodes": args.nodes, "edges": args.edges, "features": FEATURES, "graph_mib": float(size)}
        asked |= {"steps": args.steps, "batch": args.batch}
        record("graph_sampling", "python -m benchmarks.graph_sampling", asked | figures(run, seen))


if __name__ == "__main__":
    main()
