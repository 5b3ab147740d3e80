"""The search behind the defaults for people's own data: trains the candidates of defaults.yaml on its sets.

    DATA_DIR=… python -m benchmarks.defaults [set …] [--runs runs/defaults]

Resumable: finished runs and evaluations are not repeated. Leaves docs/results/defaults/<set>.json: of
every candidate its settings, held-out skill, accuracy of nearest neighbours beside random weights, and seconds.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

from benchmarks.turns import keep

HERE = Path(__file__).resolve().parent
RECORDS = HERE.parent / "docs" / "results" / "defaults"
LABELS = {"image": "knn", "video": "knn", "graph": "svm"}  # the task that measures labels


def main() -> None:
    plan = yaml.safe_load((HERE / "defaults.yaml").read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help="default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs/defaults"))
    args = parser.parse_args()

    os.environ["LISTS"] = str(args.runs.resolve() / "lists")
    for name, table in plan["lists"].items():
        write_training_rows(Path(os.path.expandvars(table)), args.runs / "lists" / f"{name}.csv")

    for candidate in plan["candidates"]:
        for name in args.sets or plan["sets"]:
            settings = settings_of(plan, name, candidate)
            if settings is not None:
                data = plan["sets"][name]
                if settings:
                    data = [*data, "data.cache_mb=1024"]
                run = args.runs / name / candidate
                pretrain([*data, "data=folder"], settings, run, plan["labels"].get(name, []))
                collect(name, list(plan["candidates"]), args.runs)


def write_training_rows(table: Path, out: Path) -> None:
    """The rows of a list whose split is train, without that column, with absolute paths."""
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]

    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label", "scene"], extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "file": table.parent / row["file"]})


def settings_of(plan: Mapping, name: str, candidate: str) -> dict[str, str] | None:
    """The settings of a candidate on a set; None where it is not tried there."""
    modality = plan["sets"][name][0].removeprefix("modality=")
    changes = plan["candidates"][candidate]
    if changes is None:
        return {}
    if name not in changes.get("sets", [name]):
        return None

    changes = changes.get(modality, {key: value for key, value in changes.items() if key != "sets"})
    return {**plan["centre"][modality], **plan["centre"].get(name, {}), **changes}


def pretrain(data: list[str], settings: Mapping[str, str], run: Path, of_labels: list[str]) -> None:
    """One run and its evaluation; what is finished stays. `of_labels`: settings of the evaluation by labels."""
    modality = data[0].removeprefix("modality=")
    overrides = [os.path.expandvars(text) for text in data] + [f"{key}={value}" for key, value in settings.items()]
    if not (run / "finished.json").exists():
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "core.train", *overrides, f"run_dir={run}"], check=True)
        (run / "wall.json").write_text(json.dumps({"seconds": round(time.monotonic() - start, 1)}))

    if not (run / "labels.json").exists():
        settings_of_task = [f"run={run}", f"task={LABELS[modality]}", *of_labels, "--json"]
        command = [sys.executable, "-m", "core.evaluate", *settings_of_task]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        (run / "labels.json").write_text(done.stdout.splitlines()[-1])
    (run / "settings.json").write_text(json.dumps(dict(settings)))


def collect(name: str, candidates: list[str], runs: Path) -> None:
    """Writes the record of a set from the runs that are finished."""
    record = {}
    for candidate in candidates:
        run = runs / name / candidate
        if (run / "labels.json").exists():
            record[candidate] = {
                "settings": json.loads((run / "settings.json").read_text()),
                "reconstruction": json.loads((run / "evaluation" / "reconstruction.json").read_text()),
                "labels": json.loads((run / "labels.json").read_text()),
                "seconds": json.loads((run / "wall.json").read_text())["seconds"],
            }
    keep(record, RECORDS / f"{name}.json", runs, "runs/defaults")


if __name__ == "__main__":
    main()
