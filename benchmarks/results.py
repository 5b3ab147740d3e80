"""Runs the entries of results.yaml one after another and leaves one JSON for each under docs/results/.

    DATA_DIR=… python -m benchmarks.results [name …] [--runs runs/results] [--seeds N]

Resumable: stop it at any time and start it again; finished runs and evaluations are not repeated. Renders
docs/results.md from what is there, also after every entry.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks import results_table
from benchmarks.turns import keep, queue

HERE = Path(__file__).resolve().parent
RECORDS = HERE.parent / "docs" / "results"


def main() -> None:
    runs, turns = queue(__doc__, HERE / "results.yaml", "runs/results")
    for name, entry, seed in turns:
        pretrain(name, entry, seed, runs)
        collect(name, entry, seed + 1, runs)


def pretrain(name: str, entry: dict, seed: int, runs: Path) -> None:
    """One run to its end; what is finished stays."""
    run = runs / f"{name}_seed{seed}"
    command = [sys.executable, "-m", "core.train", *expand(entry["train"]), f"seed={seed}", f"run_dir={run}"]
    if (run / "finished.json").exists():
        return
    start = time.monotonic()
    if entry.get("kill") and not (run / "killed.json").exists():
        kill_half_way(command, run)
    subprocess.run(command, check=True)
    seconds = time.monotonic() - start
    (run / "wall.json").write_text(json.dumps({"seconds": round(seconds, 1)}))


def kill_half_way(command: list[str], run: Path) -> None:
    """SIGKILL once half of the steps are done; the next start must go on from the newest checkpoint."""
    process = subprocess.Popen([*command, "engine.checkpoint_every=100"], start_new_session=True)
    while process.poll() is None:
        done, total = progress(run)
        if total and done >= total // 2:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            (run / "killed.json").write_text(json.dumps({"after_step": done}))
        time.sleep(0.5)


def progress(run: Path) -> tuple[int, int]:
    """Steps done, as logged, and steps in all."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines if '"train"' in line]
        total = yaml.safe_load((run / "config.yaml").read_text())["steps"]
    except (OSError, ValueError):
        return 0, 0
    return (steps[-1] if steps else 0), total or 0


def collect(name: str, entry: dict, seeds: int, runs: Path) -> None:
    """Evaluates the seeds there are together, and writes the entry's record."""
    paths = [runs / f"{name}_seed{seed}" for seed in range(seeds)]
    record = {
        "name": name,
        "command": "python -m core.train " + " ".join(entry["train"]),
        "seeds": list(range(seeds)),
        "reconstruction": [json.loads((p / "evaluation" / "reconstruction.json").read_text()) for p in paths],
        "wall_seconds": [read(p / "wall.json", "seconds") for p in paths],
        "killed_after_step": [read(p / "killed.json", "after_step") for p in paths],
    }
    settings = list(entry.get("settings", []))
    if "beside" in entry:
        record["beside"] = entry["beside"]
        settings.append(listed("compare_to", [runs / f"{entry['beside']}_seed{seed}" for seed in range(seeds)]))
    for task in entry.get("evaluate", []):
        record[task] = evaluate(task, paths, settings)
    keep(record, RECORDS / f"{name}.json", runs, "runs/results")
    results_table.write()


def evaluate(task: str, paths: list[Path], settings: list[str]) -> dict:
    command = [sys.executable, "-m", "core.evaluate", listed("run", paths), f"task={task}", *settings, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def listed(name: str, paths: list[Path]) -> str:
    return f"{name}=[{','.join(map(str, paths))}]"


def read(path: Path, key: str):
    return json.loads(path.read_text())[key] if path.exists() else None


def expand(overrides: list[str]) -> list[str]:
    return [os.path.expandvars(override) for override in overrides]


if __name__ == "__main__":
    main()
