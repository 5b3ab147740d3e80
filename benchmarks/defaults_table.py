"""The section of docs/results.md on the defaults for people's own data, from docs/results/defaults/*.json."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
DEFAULTS = "defaults"  # the candidate without any setting
HEADER = """## Defaults for your own data

Each set with no setting but `data.root` (defaults), beside a small search. centre: 500 steps of 32 samples (16 clips)
at rate 1e-3; the others differ from it by one thing (`benchmarks/defaults.yaml`). Held-out samples come from the
training part alone; one seed each, on a shared machine. Accuracy of nearest neighbours (graphs: of support vectors);
its gain is over the better of the same network untrained, as it is or whitened. Run again by
`python -m benchmarks.defaults`.

| set | settings | held-out skill | accuracy | gain over untrained | wall s |
|---|---|---|---|---|---|"""


def section(folder: Path) -> list[str]:
    """The lines of the section; none without records."""
    plan = yaml.safe_load((HERE / "defaults.yaml").read_text())
    lines = []
    for name in plan["sets"]:
        path = folder / f"{name}.json"
        if path.exists():
            record = json.loads(path.read_text())
            order = [DEFAULTS, *(candidate for candidate in plan["candidates"] if candidate != DEFAULTS)]
            lines += [row(name, candidate, record[candidate]) for candidate in order if candidate in record]
    return [HEADER, *lines, ""] if lines else []


def row(name: str, candidate: str, entry: Mapping) -> str:
    (figures,) = entry["reconstruction"]["figures"].values()
    (label,) = entry["labels"]["figures"].values()
    untrained = [key for key in label["baselines"] if key.startswith("random init")]
    better = max(untrained, key=lambda key: label["baselines"][key]["value"])
    gain = label["verdict"]["differences"][better]
    cells = [name, candidate, *map(interval, (figures["total"]["skill"], label["accuracy"], gain))]
    return f"| {' | '.join(cells)} | {entry['seconds']:.0f} |"


def interval(value: Mapping) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
