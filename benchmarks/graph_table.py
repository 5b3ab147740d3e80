"""The part of docs/results.md on graphs: published figures, run again. Records: docs/results/graph/."""

from modalities.graph.evaluation import spread

HEADER = """## Graphs: published figures, run again

From `docs/results/graph/*.json`; run again by `DATA_DIR=… python -m benchmarks.graph_results`. Accuracy in %, mean ±
population deviation over pre-training seeds, as the papers give it, and the 95 % interval of the mean. "final": the
probe's last epoch, or the ten folds of support vectors; "validation": the probe's epoch with the best validation
accuracy, which the official code calls early stopping. "within": the interval reaches the published mean less its
deviation.

| entry | seeds | final | 95 % | validation | published | official code, here | within |
|---|---|---|---|---|---|---|---|"""
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
    final = [100 * each["figures"]["final"] for each in record["records"]]
    mean, deviation, half = spread(final)
    validated = [each["figures"].get("chosen_on_validation") for each in record["records"]]
    chosen = [100 * value for value in validated if value is not None]
    published = record.get("published")
    reached = "–" if not published or half != half else "yes" if mean + half >= published[0] - published[1] else "no"
    cells = [
        record["name"], str(len(final)), f"{mean:.2f} ± {deviation:.2f}",
        "–" if half != half else f"{mean - half:.2f} to {mean + half:.2f}",
        "{:.2f} ± {:.2f}".format(*spread(chosen)[:2]) if chosen else "–",
        *("–" if not known else f"{known[0]:.2f} ± {known[1]:.2f}" for known in (published, record.get("code"))),
        reached,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def baselines(records: list[dict]) -> list[str]:
    lines = []
    for record in records:
        for name in BASELINES:
            values = [100 * e["figures"][name] for e in record["records"] if name in e["figures"]]
            if values:
                lines.append("- {}, {}: {:.2f} ± {:.2f}".format(record["name"], name, *spread(values)[:2]))
    return ["Baselines on the same splits:", "", *lines, ""] if lines else []
