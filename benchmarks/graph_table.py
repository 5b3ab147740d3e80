"""The part of docs/results.md on graphs: published figures, run again. Records: docs/results/graph/."""

from core.evaluation.published import spread
from core.evaluation.verdicts import RANDOM

HEADER = """## Graphs: published figures, run again

From `docs/results/graph/*.json`; run again by `DATA_DIR=… python -m benchmarks.graph_results`. Accuracy in %, mean ±
population deviation over pre-training seeds, as the papers give it, and the 95 % interval of the mean. "final": the
probe's last epoch, or the ten folds of support vectors; "validation": the probe's epoch with the best validation
accuracy, which the official code calls early stopping. "random init": final of the same network untrained, one drawn
for each seed. "within": the interval reaches the published mean less its deviation.

| entry | seeds | final | 95 % | validation | random init | published | official code, here | within |
|---|---|---|---|---|---|---|---|---|"""
BASELINES = ("logistic regression", "supervised GAT")


def section(records: list[dict]) -> list[str]:
    """Lines of the section; none where there are no records."""
    if not records:
        return []
    return [HEADER, *map(row, records), "", *baselines(records)]


def commands(records: list[dict]) -> list[str]:
    """Every seed's own command."""
    return [f"- `{record['name']}`: `{each['command']}`" for record in records for each in record["records"]]


def row(record: dict) -> str:
    final = spread([each["figures"]["final"] for each in record["records"]])
    chosen, untrained = (
        [each["figures"].get(name) for each in record["records"]] for name in ("chosen_on_validation", RANDOM)
    )
    published, mean, half = record.get("published"), 100 * final["mean"], final["half_interval"]
    interval = reached = "–"
    if half is not None:
        interval = f"{mean - 100 * half:.2f} to {mean + 100 * half:.2f}"
        if published:
            reached = "yes" if mean + 100 * half >= published[0] - published[1] else "no"
    cells = [
        record["name"], str(len(record["records"])), shown(final), interval,
        *("–" if None in values else shown(spread(values)) for values in (chosen, untrained)),
        *("–" if not known else f"{known[0]:.2f} ± {known[1]:.2f}" for known in (published, record.get("code"))),
        reached,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def baselines(records: list[dict]) -> list[str]:
    lines = []
    for record in records:
        for name in BASELINES:
            values = [e["figures"][name] for e in record["records"] if name in e["figures"]]
            if values:
                lines.append(f"- {record['name']}, {name}: {shown(spread(values))}")
    return ["Baselines on the same splits:", "", *lines, ""] if lines else []


def shown(found: dict) -> str:
    """Mean and deviation in %."""
    return f"{100 * found['mean']:.2f} ± {100 * found['deviation']:.2f}"
