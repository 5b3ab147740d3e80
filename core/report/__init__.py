"""`python -m core.report run=<run>`: writes `<run>/report.html`, one file that shows how a run went.

run         a run's folder, as `core.train` writes it; it may still be training. Several, run=[a,b,c]: one page
            that compares them, <a>/report_3_runs.html

The page begins with the verdicts of its evaluations. It holds curves, masks, pictures, embeddings, nearest
neighbours and tokens of held-out samples, evaluations, skipped files and the config; it loads nothing from
anywhere.
"""

from collections.abc import Sequence

from core.cli import command
from core.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 where the input was wrong."""
    return command(argv, lambda: (__doc__ or "").strip(), start)


def start(argv: Sequence[str]) -> None:
    """Writes the report and prints where it is. Raises: UserError."""
    # Imported late: --help and typing errors should not wait for torch.
    from core.config import options
    from core.report.page import write_report
    from core.report.several import write_comparison

    settings, _ = options(argv, {"run": str | list[str]})
    runs = settings.get("run")
    if not runs:
        raise UserError("run= is missing: python -m core.report run=<the folder of a run>")

    if isinstance(runs, list) and len(runs) > 1:
        path = write_comparison(runs)
    else:
        path = write_report(runs[0] if isinstance(runs, list) else runs)
    print(f"Wrote {path} ({path.stat().st_size / 2**20:.1f} MB). It opens in any browser, also offline.")
