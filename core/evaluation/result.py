"""The result of an evaluation: its figures as fields, and as a table that a person reads."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from core.evaluation import verdicts
from core.evaluation.classifier import CONFUSION, PREDICTIONS
from core.evaluation.intervals import Interval
from core.evaluation.record import about, subject
from core.evaluation.verdicts import RANDOM

FORMS = ("plain", "whitened", "chosen")  # of features, between which validation chooses
LISTED = 5  # skipped samples that are named
WIDTH = 120  # columns, where there is no terminal
HTML = '<pre style="line-height: normal">{code}</pre>'


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of a task: `value` of its `metric`, a field too (`result.accuracy`), and its `interval`.

    `baselines`: intervals by name; None bounds where there is a single figure. `verdict`: None where
    nothing is compared. Of several labels (or objectives) these are of the first; `of(label)` gives
    another's. `record`: the whole record, plain JSON.
    """

    task: str
    metric: str
    value: float | None
    interval: Interval | None
    baselines: Mapping[str, Interval]
    verdict: str | None
    record: Mapping[str, Any]

    @classmethod
    def of_record(cls, record: Mapping[str, Any], label: str | None = None) -> "Result":
        """The result that a record holds; `label`: of its first label, objective or figure by default."""
        names = list(record["figures"])
        if label is not None and label not in names:
            raise KeyError(f"{label!r} is none of {', '.join(names)}")
        if not names:
            return cls(
                task=record["task"], metric="skill", value=None, interval=None, baselines={}, verdict=None,
                record=record,
            )  # fmt: skip

        name = label or names[0]
        section = record["figures"][name]
        if record["task"] == "reconstruction":
            return _of_skill(record, section)
        if record["task"] == "published":
            return _of_published(record, name)
        return _of_label(record, section)

    def of(self, label: str) -> "Result":
        """The result of another label, objective or figure of the same record.

        Raises KeyError where it has none.
        """
        return self.of_record(self.record, label)

    def __getattr__(self, name: str) -> float | None:
        if name == self.__dict__.get("metric"):
            return self.value
        raise AttributeError(f"Result has no field {name!r}; its metric is {self.__dict__.get('metric')}")

    def __rich_console__(self, console: Console, options: Any) -> Iterator[RenderableType]:
        tables = {"reconstruction": _skill_tables, "published": _published_tables}
        yield from tables.get(self.task, _label_tables)(self.record)
        yield Text("")
        yield from map(Text, verdicts.lines(self.record))

    def classifiers(self) -> Iterator[str]:
        """Where fine-tuning has left its classifiers, a line each, which is printed apart so that paths stay whole."""
        for label, section in self.record["figures"].items():
            if "classifier" not in section:
                continue
            run = self.record["run"]
            folder = Path(run if isinstance(run, str) else run[0]) / section["classifier"]
            files = [PREDICTIONS]
            if "classes" in section:
                files.append(CONFUSION)
            yield f"{folder}: the classifier of {label} (load_classifier), {', '.join(files)}"

    def __str__(self) -> str:
        """The table as plain text."""
        return self._render().export_text()

    def _repr_html_(self) -> str:
        return self._render().export_html(inline_styles=True, code_format=HTML)

    def _render(self) -> Console:
        console = Console(file=io.StringIO(), record=True, width=WIDTH)
        console.print(self)
        return console


def _of_label(record: Mapping[str, Any], section: Mapping[str, Any]) -> Result:
    metric = section.get("metric", "accuracy")
    interval = _interval(section[metric])
    return Result(
        task=record["task"],
        metric=metric,
        value=interval.value,
        interval=interval,
        baselines={name: _interval(figure) for name, figure in section["baselines"].items()},
        verdict=verdicts.of_label(section).word,
        record=record,
    )


def _of_skill(record: Mapping[str, Any], regions: Mapping[str, Any]) -> Result:
    total = regions.get("total", {})
    value, interval = None, None
    if "skill" in total:
        interval = _interval(total["skill"])
        value = interval.value
    return Result(
        task=record["task"],
        metric="skill",
        value=value,
        interval=interval,
        baselines={},  # skill is relative to the better of them
        verdict=verdicts.of_skill(total, record.get("protocol", {}).get("filler", "")) if total else None,
        record=record,
    )


def _of_published(record: Mapping[str, Any], name: str) -> Result:
    interval, baselines = _mean_interval(record["figures"][name]), {}
    if name in record[RANDOM]:
        baselines[RANDOM] = _mean_interval(record[RANDOM][name])
    return Result(
        task=record["task"],
        metric=name,
        value=interval.value,
        interval=interval,
        baselines=baselines,
        verdict=verdicts.of_published(record["figures"][name], record["protocol"].get("reported")),
        record=record,
    )


def _label_tables(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    protocol = record["protocol"]
    head = f"task={record['task']}  pool={protocol['pool']}  shots={protocol['shots']}"
    yield Text(f"{head}  split: {protocol['split']}")
    yield Text(f"of {about(record)}")
    yield from _skipped_lines(record)

    for label, section in record["figures"].items():
        metric, verdict = section.get("metric", "accuracy"), section["verdict"]
        title = f"\n{label}: {metric} on {section['tested']} test samples, {label_size(section)}"
        table = _table(title, "", metric, "95 %", "better by", "95 % ")
        table.add_row(subject(record), *_cells(section[metric]), style="bold")
        for name, figure in section["baselines"].items():
            table.add_row(name, *_cells(figure), *_cells(verdict["differences"][name]))
        for name in _fixed_names(section):
            table.add_row(f"{subject(record)}, {name}", *_cells(section["trained"][name]))
        if "beside" in section:
            rival = section["beside"]
            table.add_row("compare_to", *_cells(rival[metric]), *_cells(rival["difference"]))
        yield table
        for name, figures in section.get("metrics", {}).items():
            if name != metric:
                yield _metric_table(record, name, figures)
        yield from _setting_lines(section, protocol.get("setting"))
        if "episodes" in section:
            episodes = section["episodes"]
            figures = f"{episodes['mean']:.3f} ± {episodes['deviation']:.3f}"
            yield Text(f"{figures}, mean and deviation over {len(episodes['each'])} episodes, which are drawn here")
        if verdict["check"]:
            yield Text(verdicts.few_trainings(verdict["trainings"]))


def _metric_table(record: Mapping[str, Any], name: str, figures: Mapping[str, Any]) -> Table:
    """Figures of a further metric, ours and those of the baselines."""
    table = _table("", "", name, "95 %")
    table.add_row(subject(record), *_cells(figures["ours"]), style="bold")
    for baseline, of_baseline in figures["baselines"].items():
        table.add_row(baseline, *_cells(of_baseline))
    return table


def _fixed_names(section: Mapping[str, Any]) -> list[str]:
    """Names of figures by settings that were not chosen here."""
    return [name for name in section["trained"] if name not in FORMS]


def _setting_lines(section: Mapping[str, Any], symbol: str | None) -> Iterator[RenderableType]:
    """The most frequent choice on validation, by the symbol of the setting."""
    settings = section["trained"].get("chosen", {}).get("settings")
    if not symbol or not settings or settings[0]["setting"] is None:
        return
    first, total = settings[0], sum(entry["times"] for entry in settings)
    text = f"{symbol} = {first['setting']:g} on {first['form']} features, in {first['times']} of {total} fits"
    if not first["chosen_on_validation"]:
        text += "; too few samples to choose"
    yield Text(text)


def _skill_tables(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text("task=reconstruction  skill = 1 - error / error of the better of zero and the baseline")
    if "reason" in record:
        return
    filler = record["protocol"]["filler"]
    yield Text(f"baseline: {filler}")
    yield Text(f"held out: {record['protocol'].get('held_out', 'test samples')}")
    yield from _skipped_lines(record)

    for objective, regions in record["figures"].items():
        title = f"\n{objective}: skill on {record['counts']['test']} test samples"
        table = _table(title, "region", "skill", "95 %", "result", "ceiling", "95 % ")
        for region, figures in regions.items():
            skill, ceiling = _cells(figures.get("skill")), _cells(figures.get("ceiling"))
            table.add_row(region, *skill, verdicts.of_skill(figures, filler), *ceiling)
        yield table


def _published_tables(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    protocol, runs = dict(record["protocol"]), len(record["each"])
    way, reported = protocol.pop("_target_").rpartition(".")[2], protocol.pop("reported", None)
    settings = "  ".join(f"{key}={value}" for key, value in protocol.items())
    yield Text(f"task=published  {way}  {settings}")
    if "described" in record:
        yield Text(record["described"])
    if reported:
        yield Text(f"published: {verdicts.published_figure(reported)}. Source: {reported.get('source') or 'not named'}")

    table = _table(f"\nmean of {runs} run(s), %", "", "mean", "deviation", "95 % of the mean")
    for suffix, figures in (("", record["figures"]), (f", {RANDOM}", record[RANDOM])):
        for name, figure in figures.items():
            cells = [f"{100 * figure['mean']:.2f}"]
            if figure["half_interval"] is not None:
                cells += [f"± {100 * figure['deviation']:.2f}", f"± {100 * figure['half_interval']:.2f}"]
            table.add_row(name + suffix, *cells)
    yield table


def label_size(section: Mapping[str, Any]) -> str:
    """The number of classes, answers or values of a label."""
    for kind in ("classes", "answers", "values"):
        if kind in section:
            return f"{section[kind]} {kind}"
    raise ValueError(f"a section of {', '.join(section)} is of no label")


def _skipped_lines(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    for key, reason in record["skipped"][:LISTED]:
        yield Text(f"skipped {key}: {reason}")
    more = len(record["skipped"]) - LISTED
    if more > 0:
        yield Text(f"skipped {more} more, all named in the record")


def _table(title: str, name: str, *columns: str) -> Table:
    """An empty table: a column of names, and columns of figures."""
    style = {"title_justify": "left", "title_style": "", "box": None, "pad_edge": False}
    table = Table(title=title, padding=(0, 2, 0, 0), **style)
    table.add_column(name)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _cells(figure: Mapping[str, float] | None) -> list[str]:
    """A figure and its interval."""
    if figure is None:
        return ["", ""]
    return [f"{figure['value']:.3f}", f"[{figure['low']:.3f}, {figure['high']:.3f}]"]


def _interval(figure: Mapping[str, float]) -> Interval:
    return Interval(figure["value"], figure["low"], figure["high"])


def _mean_interval(figure: Mapping[str, float | None]) -> Interval:
    """Of a mean over runs; of one run both bounds are NaN."""
    mean, half = figure["mean"], figure["half_interval"]
    assert mean is not None
    if half is None:
        return Interval(mean, float("nan"), float("nan"))
    return Interval(mean, mean - half, mean + half)
