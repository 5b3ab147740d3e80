"""The verdict of an evaluation in words, derived from the intervals of its record: wins, worse, not resolvable.

Records of every age are read: words are never stored alone, figures are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

SUPERVISED = "supervised, equal compute"  # the baseline without which nothing wins
RANDOM = "random init"
WINS, ABOVE, OPEN = "wins", "above the baselines measured", "not resolvable at this size"
WORSE = "worse than"
DOUBT = "0 lies within this interval, so that no difference is shown; more test samples or trainings would narrow it"
WITHIN = "within the published figure"
COMPARE = "compare_to"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`word`: begins with wins, above, worse or not resolvable.

    `difference`: to `baseline`, above 0 where ours is better.
    """

    word: str
    baseline: str
    difference: Mapping[str, float]


def of_label(section: Mapping[str, Any]) -> Verdict:
    """The verdict on one label of a record, by its differences to all baselines."""
    judged = section["verdict"]
    differences = judged.get("differences") or {judged["best_baseline"]: judged["difference"]}
    return of_differences(differences, judged["best_baseline"])


def of_differences(differences: Mapping[str, Mapping[str, float]], best: str) -> Verdict:
    """Wins (with `SUPERVISED` among the baselines) or above: every interval above 0. Worse: one wholly below 0.

    Where several are below 0, the baseline with the greatest lead is named; bounds of NaN decide nothing.
    """
    worse = {name: gap for name, gap in differences.items() if gap["high"] < 0}
    if worse:
        name = min(worse, key=lambda name: worse[name]["value"])
        return Verdict(word=f"{WORSE} {name}", baseline=name, difference=worse[name])

    word = OPEN
    if all(gap["low"] > 0 for gap in differences.values()):
        word = WINS if SUPERVISED in differences else ABOVE
    return Verdict(word=word, baseline=best, difference=differences[best])


def of_difference(difference: Mapping[str, float], name: str) -> str:
    """The word for one paired difference, to another training."""
    if difference["low"] > 0:
        return WINS
    if difference["high"] < 0:
        return f"{WORSE} {name}"
    return OPEN


def of_skill(figures: Mapping[str, Any], filler: str) -> str:
    """The word for one region's skill, relative to the better of the baseline `filler` and zero.

    Without skill the reason that the record gives.
    """
    if "skill" not in figures:
        return figures.get("result", "no such tokens")

    name = reference_name(figures, filler)
    return of_difference(figures["skill"], name)


def reference_name(figures: Mapping[str, Any], filler: str) -> str:
    """The name of the answer without learning that skill is relative to, without its explanation."""
    if figures.get("better_reference") == "zero":
        return "predicting zero"
    return filler.partition(" (")[0] or "the baseline"


def of_published(final: Mapping[str, float | None], reported: Mapping[str, Any] | None) -> str:
    """Whether the mean over trainings, by its 95 % interval, reaches the published mean less its deviation.

    `reported`: `mean` and `deviation` in %.
    """
    if not reported or reported.get("mean") is None:
        return "not resolvable: the run's config names no published figure"
    mean, half = final["mean"], final["half_interval"]
    if half is None or mean is None:
        return "not resolvable: one training has no interval; give run=[…] of several seeds"
    if 100 * (mean + half) >= reported["mean"] - (reported.get("deviation") or 0):
        return WITHIN
    return f"{WORSE} the published figure"


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each label, objective or figure, which begins with the verdict."""
    if "reason" in record:
        yield f"not measured: {record['reason']}"
    elif record["task"] == "reconstruction":
        yield from _skill_lines(record)
    elif record["task"] == "published":
        yield _published_line(record)
    else:
        yield from _label_lines(record)


def _label_lines(record: Mapping[str, Any]) -> Iterator[str]:
    for label, section in record["figures"].items():
        metric, verdict = section.get("metric", "accuracy"), of_label(section)

        line = f"{verdict.word}: {label}, {metric} {interval(section[metric])}, {signed(verdict.difference)}"
        if not verdict.word.startswith(WORSE):
            line += f" against {verdict.baseline}"
        yield line + doubt(verdict.word, verdict.difference)

        if "beside" in section:
            rival = section["beside"]
            name = _names(record.get("beside") or [COMPARE])
            word = of_difference(rival["difference"], name)
            line = f"{word}: {label}, {signed(rival['difference'])} against {name} ({interval(rival[metric])})"
            yield line + doubt(word, rival["difference"])


def _skill_lines(record: Mapping[str, Any]) -> Iterator[str]:
    filler = record.get("protocol", {}).get("filler", "")
    for objective, regions in record["figures"].items():
        figures = regions.get("total", {})
        word = of_skill(figures, filler)
        line = f"{word}: {objective}"
        if "skill" in figures:
            line += f", held-out skill {interval(figures['skill'])}"
        if "skill" in figures and not word.startswith(WORSE):
            line += f" over {reference_name(figures, filler)}"
        yield line + doubt(word, figures.get("skill"))


def doubt(word: str, difference: Mapping[str, float] | None) -> str:
    """For readers from elsewhere: the meaning of an open verdict, in brackets; empty for others."""
    if word != OPEN or difference is None:
        return ""
    if isnan(difference["low"]):
        return " (without an interval nothing can be told; more trainings give one)"
    if difference["low"] == difference["high"] == 0:
        return " (no difference in any sample)"
    if difference["low"] > 0:
        return " (another baseline is not beaten by its interval)"
    return f" ({DOUBT})"


def few_trainings(count: int) -> str:
    """The sentence on a figure of fewer trainings than it takes to publish."""
    remedy = "core.train … seeds=5, then run=<their folder>"
    return f"A first look, of {trainings(count)}: a figure to publish takes 5, whose seeds differ ({remedy})."


def _published_line(record: Mapping[str, Any]) -> str:
    final = record["figures"].get("final") or next(iter(record["figures"].values()))
    reported = (record.get("protocol") or {}).get("reported")

    line = f"{of_published(final, reported)}: {100 * final['mean']:.2f} %"
    if final["half_interval"] is not None:
        line += f" ± {100 * final['half_interval']:.2f} (95 % of the mean of {trainings(len(record['each']))})"
    if reported:
        line += f", published {published_figure(reported)}"
    return line


def published_figure(reported: Mapping[str, Any]) -> str:
    """The figure with its deviation and number of seeds."""
    text = f"{reported['mean']:g}"
    if reported.get("deviation") is not None:
        text += f" ± {reported['deviation']:g}"
    text += f" % {reported['metric']}" if reported.get("metric") else " %"
    if reported.get("seeds"):
        text += f" over {reported['seeds']} seeds"
    return text


def interval(figure: Mapping[str, float]) -> str:
    """A figure with its interval; alone where it has none."""
    if isnan(figure["low"]):
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def signed(difference: Mapping[str, float]) -> str:
    if isnan(difference["low"]):
        return f"{difference['value']:+.3f}"
    return f"{difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def trainings(count: int) -> str:
    return "1 training" if count == 1 else f"{count} trainings"


def _names(runs: Sequence[str]) -> str:
    if len(runs) == 1:
        return str(runs[0])
    return f"{len(runs)} runs ({', '.join(map(str, runs))})"
