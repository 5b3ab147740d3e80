"""Runs in a table: a row for all runs that differ in their seed alone, with intervals over seeds."""

import csv
import io
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from core.engine.run_dir import CHANGEABLE, flatten
from core.errors import UserError, show
from core.evaluation.result import Result
from core.evaluation.settings import Task
from core.evaluation.tasks import run_task
from core.runs import Run, expand_runs, read_run

LEVEL = 0.95
NAMES = ("modality.name", "method.name", "size.name", "data.name", "data.root")  # which name rows first
NO_SETTINGS = ("seed", "chosen")  # the reasons of settings that follow from the data
CHOSEN_BY_NAME = ("modality", "method", "size", "data")  # groups whose name stands for all their settings
INDIFFERENT = ("workers", "device")  # settings of an evaluation that change no figure
MINUS, PLUS_MINUS = "\N{MINUS SIGN}", "\N{PLUS-MINUS SIGN}"
NO_VALUE = "-"
PROBLEM = re.compile(r"method\.(masker|readouts\..*\.(target|loss))\b")  # settings of the task of a reconstruction
LATEX = {"\\": "\\textbackslash "}  # other special characters take a backslash before them


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its 95 % interval over seeds, None of one seed."""

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """mean ± t(n − 1, 97.5 %) · s / √n, s with n − 1 in the denominator (Student)."""
        count = len(values)
        if count < 2:
            return cls(float(np.mean(values)), None)
        half = student.ppf((1 + LEVEL) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
        return cls(float(np.mean(values)), float(half))

    def text(self, signed: bool = False) -> str:
        sign = "+" if signed else "-"
        mean = format(self.mean, f"{sign}.3f").replace("-", MINUS)
        if self.half is None:
            return mean
        return f"{mean} {PLUS_MINUS} {self.half:.3f}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ in their seed alone.

    `settings`: those that tell it from other rows, by short name. `values`: the figure by seed.
    `difference`: to the first row, over the `pairs` seeds that both have; None in the first row, and
    without such seeds.
    """

    settings: Mapping[str, str]
    runs: Mapping[int, Path]
    values: Mapping[int, float]
    estimate: Estimate
    difference: Estimate | None
    pairs: int
    command: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A table of runs. `metric`: of the label or objective `label`. `notes`: on how to read it."""

    task: str
    metric: str
    label: str
    rows: Sequence[Row]
    notes: Sequence[str]

    def markdown(self) -> str:
        """A table, notes and the commands."""
        header, *body = self._cells()
        lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
        for cells in body:
            escaped = [cell.replace("|", "\\|") for cell in cells]
            lines.append(f"| {' | '.join(escaped)} |")
        return "\n".join([*lines, "", *self.notes, "", "```bash", *self.commands, "```", ""])

    def latex(self) -> str:
        """A tabular for the package booktabs; notes and commands are comments."""
        header, *body = self._cells()
        names = len(self.rows[0].settings)
        lines = []
        for note in [*self.notes, *self.commands]:
            lines.append(f"% {note}")
        lines += [f"\\begin{{tabular}}{{{'l' * names}{'r' * (len(header) - names)}}}", "\\toprule"]
        lines += [_latex_line(header), "\\midrule", *map(_latex_line, body)]
        lines += ["\\bottomrule", "\\end{tabular}", ""]
        return "\n".join(lines)

    def csv(self) -> str:
        """A line a row with figures in full; the values by seed, runs and commands too."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        figures = ["mean", "half_interval", "difference", "difference_half_interval"]
        further = ["pairs", "seeds", "values", "runs", "command"]
        writer.writerow([*self.rows[0].settings, "n", *figures, *further])

        for row in self.rows:
            difference = row.difference or Estimate(float("nan"), None)
            numbers = [row.estimate.mean, row.estimate.half, difference.mean, difference.half]
            writer.writerow(
                [
                    *row.settings.values(),
                    len(row.values),
                    *map(_number, numbers),
                    row.pairs,
                    " ".join(map(str, row.values)),
                    " ".join(map(_number, row.values.values())),
                    " ".join(map(str, row.runs.values())),
                    row.command,
                ]
            )
        return stream.getvalue()

    @property
    def commands(self) -> list[str]:
        """The evaluation of each row's runs."""
        return [row.command for row in self.rows]

    def __str__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        return self.html()

    def html(self) -> str:
        """A table, notes and the commands."""
        header, *body = self._cells()
        lines = _html_line(header, "th")
        for cells in body:
            lines += _html_line(cells, "td")

        notes = ""
        for note in self.notes:
            notes += f"<p>{escape(note)}</p>"
        commands = escape("\n".join(self.commands))
        return f"<table>{lines}</table>{notes}<pre>{commands}</pre>"

    def _cells(self) -> Iterator[list[str]]:
        """The header and the rows as text."""
        figures = [f"{self.metric}, mean {PLUS_MINUS} 95 %", "difference to the first row"]
        yield [*self.rows[0].settings, "n", *figures]
        for row in self.rows:
            difference = NO_VALUE
            if row.difference is not None:
                difference = row.difference.text(signed=True)
            yield [*row.settings.values(), str(len(row.values)), row.estimate.text(), difference]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in their seed alone; `settings`: all that can change a result, by dotted key."""

    settings: Mapping[str, Any]
    runs: dict[int, Run]


def compare_runs(
    runs: Sequence[str | Path | Run],
    task: Task,
    *overrides: str,
    **settings: Any,
) -> Comparison:
    """Compares runs, or folders of runs by `seeds=`, by an evaluation of each; what is not recorded yet is
    measured.

    `settings` are those of `python -m core.evaluate`, `overrides` those of its data.
    Raises: UserError where two runs are the same, or were evaluated on different data or by different
    metrics.
    """
    paths = [run.path if isinstance(run, Run) else run for run in runs]
    groups = group_runs([read_run(path) for path in expand_runs(paths)])
    members = [run for group in groups for run in group.runs.values()]

    results: dict[Path, Result] = {}
    for run in members:
        result = recorded(run, task, overrides, settings)
        if result is not None:
            results[run.path] = result
    stored = list(results)

    missing = [run.path for run in members if run.path not in results]
    for number, path in enumerate(missing, start=1):
        print(f"evaluating {path}, {number} of {len(missing)}", file=sys.stderr, flush=True)
        results[path] = run_task(path, task, *overrides, **settings)

    # A record may be older than a change of the data, where all are measured on the same.
    hashes = {result.record["data_hash"] for result in results.values()}
    names = {_data_name(run) for run in members}
    if len(hashes) > 1 and (overrides or len(names) == 1):
        for path in stored:
            results[path] = run_task(path, task, *overrides, **settings)
    return _tabulate(groups, results, task, overrides, settings)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """In order of appearance. Raises: UserError for no runs, and where two differ in nothing."""
    groups: list[Group] = []
    for run in runs:
        settings = {}
        for key, value in flatten(run.config).items():
            if key.partition(".")[0] not in (*CHANGEABLE, *NO_SETTINGS):
                settings[key] = value

        group = _group_of(groups, settings)
        twin = group.runs.setdefault(run.config["seed"], run)
        if twin.path != run.path:
            pair = f"{twin.path} and {run.path}"
            raise UserError(f"runs {pair} have the same settings and the same seed; leave one out.")
    if not groups:
        raise UserError("Give runs=[…], as in: python -m core.compare runs=[runs/a,runs/b] task=knn")
    return groups


def _group_of(groups: list[Group], settings: Mapping[str, Any]) -> Group:
    """The group of these settings, which is added where there is none."""
    for group in groups:
        if group.settings == settings:
            return group
    groups.append(Group(settings=settings, runs={}))
    return groups[-1]


def row_names(groups: Sequence[Group]) -> tuple[list[dict[str, str]], list[str]]:
    """The fewest settings that tell the groups apart, by short name; and further ones that differ."""
    keys_of_all: dict[str, None] = {}
    for group in groups:
        keys_of_all |= dict.fromkeys(group.settings)

    differing = []
    for key in keys_of_all:
        if _distinct(groups, [key]) > 1:
            differing.append(key)
    differing.sort(key=_rank)

    keys: list[str] = []
    for key in differing:
        if _distinct(groups, [*keys, key]) > _distinct(groups, keys):
            keys.append(key)

    # Of a method that was chosen by its name, all settings differ.
    by_name = [group for group in CHOSEN_BY_NAME if f"{group}.name" in differing]
    further = []
    for key in differing:
        if key not in keys and key.partition(".")[0] not in by_name:
            further.append(key)

    names = []
    for group in groups:
        names.append({_short(key): _shown(key, group.settings.get(key)) for key in keys or ["method.name"]})
    return names, further


def recorded(run: Run, task: str, overrides: Sequence[str], settings: Mapping[str, Any]) -> Result | None:
    """The record of this run alone, by the same settings and data; None where there is none."""
    expected = sorted([*_words(settings), *overrides])
    for record in run.evaluations.values():
        if record["task"] != task or not isinstance(record.get("run"), str) or not record.get("figures"):
            continue

        if sorted(_words_of(record)) == expected:
            return Result.of_record(record)
    return None


def compare_recorded(runs: Sequence[Run]) -> list[Comparison]:
    """A table for every evaluation that is recorded of all these runs by the same settings; nothing is measured.

    Raises: UserError as `compare_runs`.
    """
    groups, comparisons = group_runs(runs), []
    for record in runs[0].evaluations.values():
        words, results = _words_of(record), {}
        for run in runs:
            result = recorded(run, record["task"], words, {})
            if result is not None and result.value is not None:
                results[run.path] = result
        if len(results) == len(runs):
            comparisons.append(_tabulate(groups, results, record["task"], words, {}))
    return comparisons


def means(results: Sequence[Result]) -> list[str]:
    """A line for each label or objective: the mean of its figures over runs."""
    lines = []
    for label in results[0].record["figures"]:
        values = []
        for result in results:
            if label in result.record["figures"]:
                values.append(result.of(label).value)
        if values and None not in values:
            figure = f"{label}, {results[0].metric} {Estimate.of(values).text()}"
            lines.append(f"mean of {len(values)} runs: {figure} (95 % over runs, Student's t)")
    return lines


def _words_of(record: Mapping[str, Any]) -> list[str]:
    """The settings in the command of a record, without its runs and its task."""
    words = []
    for word in shlex.split(record.get("command", ""))[3:]:  # after python -m core.evaluate
        if word.partition("=")[0] not in ("run", "task", "--json"):
            words.append(word)
    return words


def _tabulate(
    groups: Sequence[Group],
    results: Mapping[Path, Result],
    task: Task,
    overrides: Sequence[str],
    settings: Mapping[str, Any],
) -> Comparison:
    _check_comparable(results)
    names, further = row_names(groups)
    words = [f"task={task}", *_words(settings), *overrides]

    rows: list[Row] = []
    reference: dict[int, float] = {}
    for group, name in zip(groups, names, strict=True):
        paths, values = {}, {}
        for seed, run in sorted(group.runs.items()):
            paths[seed] = run.path
            values[seed] = _value(results[run.path], run.path)
        reference = reference or values

        gains = [values[seed] - reference[seed] for seed in values if seed in reference]
        difference = None
        if rows and gains:
            difference = Estimate.of(gains)
        rows.append(
            Row(
                settings=name,
                runs=paths,
                values=values,
                estimate=Estimate.of(list(values.values())),
                difference=difference,
                pairs=len(gains),
                command=_command(list(map(str, paths.values())), words),
            )
        )

    first = results[next(iter(groups[0].runs.values())).path]
    label = next(iter(first.record["figures"]))
    notes = _notes(rows, first, label, further)
    if task == "reconstruction" and _problems_differ(groups):
        notes.append(
            "Rows differ in masks, targets or losses: each is measured by its own, its skill relative to the "
            "baseline under the same masks. A higher skill may come from an easier problem."
        )
    return Comparison(task=task, metric=first.metric, label=label, rows=rows, notes=notes)


def _command(paths: Sequence[str], words: Sequence[str]) -> str:
    """The evaluation of every run by itself, as a line for the shell."""
    if len(paths) == 1:
        return f"python -m core.evaluate {shlex.join([f'run={paths[0]}', *words])}"
    return f'for run in {shlex.join(paths)}; do python -m core.evaluate run="$run" {shlex.join(words)}; done'


def _check_comparable(results: Mapping[Path, Result]) -> None:
    """Raises: UserError where figures are of different data or metrics."""
    (path, first), *others = results.items()
    for other_path, other in others:
        if other.record["data_hash"] != first.record["data_hash"]:
            raise UserError(
                f"runs {path} and {other_path} were evaluated on different data: those that each was trained "
                "on. Give data= and data.root= of one data set for all."
            )
        if other.metric != first.metric:
            metrics = f"{first.metric} and {other.metric}"
            raise UserError(f"runs {path} and {other_path} have figures of {metrics}.")


def _value(result: Result, path: Path) -> float:
    if result.value is None:
        raise UserError(f"run={path} has no figure: {result.record.get('reason', 'nothing was measured')}")
    return result.value


def _notes(rows: Sequence[Row], first: Result, label: str, further: Sequence[str]) -> list[str]:
    seeds: set[int] = set()
    for row in rows:
        seeds |= set(row.values)
    seeds_text = ", ".join(map(str, sorted(seeds)))
    data = first.record.get("data", "of the runs")
    notes = [
        f"task={first.task}, {label}, data={data}; seeds {seeds_text}. Means with 95 % intervals over "
        "training seeds (Student's t); differences are paired by seed."
    ]

    if min(len(row.values) for row in rows) < 2:
        notes.append(
            "A row of one seed has no interval over seeds: seeds=3 of core.train trains more. An interval over "
            "test samples is in the run's own evaluation, of a difference by compare_to= of core.evaluate."
        )
    if any(row.pairs < len(row.values) for row in rows):
        notes.append("Seeds that the first row lacks count in the mean and not in the difference.")
    if first.metric == "rmse":
        notes.append("Of rmse, lower is better.")
    if further:
        notes.append(f"Rows differ in these settings too: {', '.join(further)}.")
    return notes


def _rank(key: str) -> tuple[int, int]:
    """`NAMES` first, then settings near the root and with short keys."""
    if key in NAMES:
        return -1, NAMES.index(key)
    return key.count("."), len(key)


def _distinct(groups: Sequence[Group], keys: Sequence[str]) -> int:
    """How many groups `keys` tell apart."""
    rows = set()
    for group in groups:
        rows.add(tuple(show(group.settings.get(key)) for key in keys))
    return len(rows)


def _data_name(run: Run) -> tuple[str, str, str]:
    """Modality, data and place of a run's own samples."""
    data = run.config["data"]
    return run.config["modality"]["name"], data["name"], str(data.get("root"))


def _problems_differ(groups: Sequence[Group]) -> bool:
    """Whether groups hide or predict differently, so that their errors at hidden tokens are of other tasks."""
    problems = []
    for group in groups:
        problems.append({key: value for key, value in group.settings.items() if PROBLEM.match(key)})
    return any(problem != problems[0] for problem in problems)


def _short(key: str) -> str:
    """`method.name` -> method, `method.masker.ratio` -> masker.ratio, `method.masker._target_` -> masker."""
    return key.removesuffix(".name").removesuffix("._target_").removeprefix("method.")


def _shown(key: str, value: Any) -> str:
    """A class by its name; a setting that a group lacks as a dash."""
    if value is None:
        return NO_VALUE
    text = show(value)
    if key.endswith("_target_"):
        return text.rpartition(".")[2]
    return text


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as they are typed."""
    return [f"{name}={show(value)}" for name, value in settings.items()]


def _number(value: float | None) -> str:
    """A figure with six digits; empty where there is none."""
    if value is None or np.isnan(value):
        return ""
    return f"{value:.6g}"


def _html_line(cells: Sequence[str], tag: str) -> str:
    """A line of a table in HTML."""
    line = ""
    for cell in cells:
        line += f"<{tag}>{escape(cell)}</{tag}>"
    return f"<tr>{line}</tr>"


def _latex_line(cells: Sequence[str]) -> str:
    """A line of a tabular."""
    escaped = []
    for cell in cells:
        for character in "\\&%$#_{}":
            cell = cell.replace(character, LATEX.get(character, f"\\{character}"))
        escaped.append(cell.replace(PLUS_MINUS, "$\\pm$").replace(MINUS, "$-$"))
    return f"{' & '.join(escaped)} \\\\"
