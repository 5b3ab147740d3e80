"""What a record says, for people: a few lines of text."""

from collections.abc import Iterator

from core.evaluation.baselines import RANDOM


def show(record: dict) -> str:
    """The record's figures as a small table."""
    lines = {"reconstruction": _reconstruction, "published": _published}.get(record["task"], _labels)(record)
    return "\n".join(lines)


def _labels(record: dict) -> Iterator[str]:
    pool, shots = record["protocol"]["pool"], record["protocol"]["shots"]
    yield f"task={record['task']}  pool={pool}  shots={shots}  split: {record['protocol']['split']}"
    yield from _skipped(record)
    for label, section in record["figures"].items():
        yield f"\n{label}: accuracy on {section['tested']} test samples, {section['classes']} classes"
        rows = {"trained": section["accuracy"], **section["baselines"]}
        width = max(map(len, rows))
        for name, figure in rows.items():
            yield f"  {name:<{width}}  {_interval(figure)}"
        verdict = section["verdict"]
        gap = f"{_interval(verdict['difference'])} over {verdict['best_baseline']}"
        check = f"  (a check: {verdict['trainings']} training seed, headlines take 5)" if verdict["check"] else ""
        yield f"  {verdict['result']}: {gap}{check}"
        if "beside" in section:
            beside = section["beside"]
            yield f"  beside: {_interval(beside['accuracy'])}; ours - theirs {_interval(beside['difference'])}"


def _reconstruction(record: dict) -> Iterator[str]:
    yield "task=reconstruction  skill = 1 - error / error of the better of zero and the filler"
    if "reason" in record:
        yield f"not measured: {record['reason']}"
        return
    yield f"filler: {record['protocol']['filler']}"
    yield from _skipped(record)
    for objective, regions in record["figures"].items():
        for region, figure in regions.items():
            if "skill" not in figure:
                yield f"  {objective}  {region:<10}  {figure.get('result', 'no such tokens')}"
                continue
            ceiling = f"  codec ceiling {_interval(figure['codec_ceiling'])}" if "codec_ceiling" in figure else ""
            yield f"  {objective}  {region:<10}  {_interval(figure['skill'])}  {figure['result']}{ceiling}"


def _published(record: dict) -> Iterator[str]:
    name, runs = record["protocol"]["_target_"].rpartition(".")[2], len(record["each"])
    settings = "  ".join(f"{key}={value}" for key, value in record["protocol"].items() if key != "_target_")
    yield f"task=published  {name}  {settings}"
    rows = record["figures"] | {f"{name}, {RANDOM}": found for name, found in record[RANDOM].items()}
    for name, found in rows.items():
        half = found["half_interval"]
        about = f" ± {100 * found['deviation']:.2f} over {runs} runs" if half is not None else ""
        interval = f"  (mean within {100 * half:.2f}, 95 %)" if half is not None else ""
        yield f"  {name:<{max(map(len, rows))}}  {100 * found['mean']:.2f}{about}{interval}"


def _skipped(record: dict) -> Iterator[str]:
    for key, reason in record["skipped"][:5]:
        yield f"skipped {key}: {reason}"
    if len(record["skipped"]) > 5:
        yield f"skipped {len(record['skipped']) - 5} more, all named in the record"


def _interval(figure: dict) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
