"""GraphMAE's published figures, run again: one JSON for each under docs/results/graph/, shown in docs/results.md.

    DATA_DIR=… OMP_NUM_THREADS=1 python -m benchmarks.graph_results [name …] [--runs runs/graph] [--seeds N]

Resumable: stop it at any time and start it again; runs go on from their newest checkpoint, what is finished stays. The
first seed of every entry comes first.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import results_table
from benchmarks.results import evaluate
from benchmarks.turns import keep, queue
from core.data.sources import Item
from core.evaluation.published import evaluate_published
from core.evaluation.record import describe, hash_items
from core.evaluation.verdicts import RANDOM
from core.export import load_encoder
from core.runs import open_config
from modalities.graph.evaluation import raw_accuracy, supervised_accuracy
from modalities.graph.formats.files import read

HERE = Path(__file__).resolve().parent
RECORDS = HERE.parent / "docs" / "results" / "graph"


def main() -> None:
    runs, turns = queue(__doc__, HERE / "graph_results.yaml", "runs/graph")
    for name, entry, seed in turns:
        collect(name, entry, [one_seed(name, entry, s, runs) for s in range(seed + 1)], runs)


def one_seed(name: str, entry: dict, seed: int, runs: Path) -> dict:
    """Pre-training to its end and its evaluation, unless they are there."""
    run, root = runs / f"{name}_seed{seed}", str(Path(os.environ["DATA_DIR"]) / entry["data"])
    done = run / "published.json"
    if done.exists():
        return json.loads(done.read_text())
    start = time.monotonic()
    train = [f"experiment={name}", f"data.root={root}", f"seed={seed}", f"run_dir={run}"]
    if not (run / "finished.json").exists():
        subprocess.run([sys.executable, "-m", "core.train", *train], check=True)
    found = evaluate_published([run], open_config(run), seed)
    figures = {**found["each"][0], RANDOM: found[f"each, {RANDOM}"][0]["final"]}
    if entry.get("baselines"):
        figures["logistic regression"] = raw_accuracy(read(root), seed)
        figures["supervised GAT"] = supervised_accuracy(read(root), load_encoder(run).config["encoder"], seed)
    files = [p for p in sorted(Path(root).rglob("*")) if p.is_file()] or [Path(root)]
    items = [Item(p.name, str(p)) for p in files]
    command = f"python -m core.train {' '.join(train)}"
    record = {**describe(command, seed=seed, data_hash=hash_items(items), start=start), "figures": figures}
    done.write_text(json.dumps(record, indent=1) + "\n")
    return record


def collect(name: str, entry: dict, seeds: list[dict], runs: Path) -> None:
    """The entry's record; once all its seeds are there, also what is asked of them together."""
    record = {"name": name, **entry, "records": seeds}
    if len(seeds) == entry["seeds"]:
        paths = [runs / f"{name}_seed{seed}" for seed in range(len(seeds))]
        record |= {task: evaluate(task, paths, []) for task in entry.get("evaluate", [])}
    keep(record, RECORDS / f"{name}.json", runs, "runs/graph")
    results_table.write()


if __name__ == "__main__":
    main()
