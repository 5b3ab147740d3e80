"""`python -m core.compare`: a table of runs, with means and intervals over seeds.

  python -m core.compare runs=[runs/mae,runs/half] task=knn
  python -m core.compare runs=[runs/a0,runs/a1,runs/b0,runs/b1] task=linear data.root=flowers out=table.tex

  runs=       folders of runs, or of runs by `seeds=` of core.train. Runs that differ in their seed alone are
              one row; rows are named by the settings in which they differ
  task=       knn, linear, svm, retrieval, fewshot, finetune, reconstruction or published
  format=     md, csv or latex (for the package booktabs). Default: as out= ends, else md
  out=        a file for the table. Default: it is printed

Any other setting is one of core.evaluate, such as data.root=, metric= or shots=. Evaluations with these
settings that are recorded already are read; all others are carried out first.

A row gives the mean over its n seeds, ± half its 95 % interval (Student's t over seeds), and the same of the
differences to the first row, over the seeds that both rows have.
In Python: `core.compare(["runs/mae", "runs/half"], task="knn")` has .markdown(), .latex() and .csv(), and
shows itself in a notebook. Exit codes: 0 done; 2 the input was wrong."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.cli import CallableModule, command
from core.errors import UserError
from core.files import explain_write_errors, write_atomic

if TYPE_CHECKING:
    from core.evaluation.comparison import Comparison
    from core.evaluation.settings import Task
    from core.runs import Run

Format = Literal["md", "csv", "latex"]
ENDINGS: dict[str, Format] = {".csv": "csv", ".tex": "latex"}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command(argv, lambda: __doc__ or "", compare)


def function(runs: "Sequence[Run | str | Path]", task: "Task", *overrides: str, **settings: Any) -> "Comparison":
    """`core.compare(runs, task="knn")`: see `core.evaluation.comparison.compare_runs`."""
    from core.evaluation.comparison import compare_runs

    return compare_runs(runs, task, *overrides, **settings)


def compare(argv: Sequence[str]) -> None:
    """Prints the table or writes it. Raises: UserError."""
    # Loaded late: --help should not wait for torch.
    from core.config import options
    from core.evaluation.comparison import compare_runs
    from core.evaluation.settings import EvaluationSettings

    own = {"runs": str | list[str], "format": Format | None, "out": str | None}
    types = {field.name: field.type for field in fields(EvaluationSettings) if field.name != "run"}
    settings, overrides = options(argv, {**types, **own})
    for name in ("runs", "task"):
        if name not in settings:
            raise UserError(f"Give {name}=, as in: python -m core.compare runs=[runs/a,runs/b] task=knn")

    runs, out = settings.pop("runs"), settings.pop("out", None)
    table_format = settings.pop("format", None) or ENDINGS.get(Path(out or "").suffix, "md")
    runs = [runs] if isinstance(runs, str) else runs
    comparison = compare_runs(runs, settings.pop("task"), *overrides, **settings)

    texts = {"md": comparison.markdown, "csv": comparison.csv, "latex": comparison.latex}
    text = texts[table_format]()
    if out is None:
        print(text, end="")
        return

    with explain_write_errors(Path(out)):
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(out), text)
    print(f"Wrote {out}")


sys.modules[__name__].__class__ = CallableModule

if __name__ == "__main__":
    sys.exit(main())
