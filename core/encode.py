"""`python -m core.encode`: writes a run's features of your own samples into a file.

  python -m core.encode run=runs/mine data.root=photos out=features.npz
  python -m core.encode run=runs/mine data.root=photos out=features.parquet split=test

  run=         folder of a finished run, or a saved encoder (core.convert)
  out=         the file: .npz (arrays `features` (N, D), `key`, `split` and one for each label), .csv or
               .parquet (the same as columns, features as f0, f1, …)
  data.root=   your files; any other data= setting works too. Default: the data of the run;
               a saved encoder has none
  split=all    samples of one split only: train or test
  tokens=      true: a row for every token (patch, node) of a sample, with its number in a column `token`;
               false: for every sample, the mean of its tokens. Default: false, but for data that are one
               graph, whose rows are its nodes
  view=        which encoder, where the run has several
  batch_size=64  workers=0  device=

The file appears when all is done. Killed half-way, the same command goes on. Bad samples are skipped,
counted and named, all of them in `<out>.skipped.csv`.
In Python: `core.open_run("runs/mine").encode("photos")` gives arrays, and `.table()` for pandas.
Exit codes: 0 done; 2 the input was wrong."""

import csv
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli import command
from core.errors import UserError
from core.files import explain_write_errors, write_atomic

if TYPE_CHECKING:
    from core.encoding import Summary

SETTINGS = {
    "run": str,
    "out": str,
    "split": str,
    "tokens": bool | None,
    "view": str | None,
    "batch_size": int,
    "workers": int,
    "device": str | None,
}
LISTED = 10  # skipped samples that are named on the screen
PAUSE = 10.0  # seconds between two lines of progress


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command(argv, lambda: __doc__ or "", encode)


def encode(argv: Sequence[str]) -> None:
    """Writes the file and prints its contents in words. Raises: UserError."""
    # Loaded late: --help should not wait for torch.
    from core.config import options
    from core.encoding import write_encoded
    from core.runs import is_saved_encoder, open_encoding, open_run

    settings, overrides = options(argv, SETTINGS)
    for name in ("run", "out"):
        if name not in settings:
            example = "python -m core.encode run=runs/mine data.root=photos out=f.npz"
            raise UserError(f"Give {name}=, as in: {example}")

    path, out = Path(settings.pop("run")), Path(settings.pop("out"))
    if not is_saved_encoder(path):
        open_run(path)  # its newest checkpoint must be whole
    encoding = open_encoding(path, *overrides, **settings)
    summary = write_encoded(out, encoding, Progress(len(encoding.items)))
    print(describe(out, summary, settings.get("tokens")))


class Progress:
    """Prints the number of samples done, every few seconds."""

    def __init__(self, total: int):
        self.total, self.printed, self.time = total, None, time.monotonic()

    def __call__(self, done: int) -> None:
        if self.printed is None and done:
            print(f"An earlier call encoded {done} of {self.total} samples; going on from there.", flush=True)
        elif self.printed is not None and time.monotonic() - self.time > PAUSE:
            print(f"{done} of {self.total} samples", flush=True)
            self.time = time.monotonic()
        self.printed = done


def describe(out: Path, summary: "Summary", tokens: bool | None) -> str:
    """The contents of the file, and the samples that it lacks, which a file beside it lists in full."""
    unit = "tokens" if summary.by_token else "samples"
    splits = ", ".join(f"{count} {name or 'in no split'}" for name, count in summary.splits.items())
    lines = [
        f"Wrote {out}: {summary.rows} {unit} ({splits}), {summary.width} features each; labels: "
        f"{', '.join(summary.labels) or 'none'}."
    ]

    if summary.by_token and tokens is None:
        lines.append("The data are one sample, a graph: a row for every node. tokens=false gives their mean.")

    if summary.skipped:
        names = out.with_suffix(".skipped.csv")
        rows = io.StringIO()
        csv.writer(rows).writerows([("key", "reason"), *summary.skipped])
        with explain_write_errors(names):
            write_atomic(names, rows.getvalue().encode("utf-8", "surrogateescape"))

        lines.append(f"Skipped {len(summary.skipped)} samples that could not be read, all named in {names}:")
        lines += [f"  {key}: {reason}" for key, reason in summary.skipped[:LISTED]]
        if len(summary.skipped) > LISTED:
            lines.append("  …")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
