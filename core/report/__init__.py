"""`python -m core.report run=<run>`: writes `<run>/report.html`, one file that shows how a run went.

run         a run's folder, as `core.train` writes it; it may still be training. Several, run=[a,b,c] or a
            folder of runs by `seeds=`: one page that compares them, <a>/report_3_runs.html
modality.pictures.<setting>=
            a setting of the pictures in place of the run's; `python -m core.explain modality.pictures
            modality=<its modality>` lists them

The page begins with the verdicts of its evaluations. It holds curves, masks, pictures, embeddings, nearest
neighbours and tokens of held-out samples, evaluations, skipped files and the config; it loads nothing from
anywhere. Scenes in space turn where plotly is installed.
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
    from core.runs import expand_runs

    settings, overrides = options(argv, {"run": str | list[str]})
    runs = settings.get("run")
    if not runs:
        raise UserError("run= is missing: python -m core.report run=<the folder of a run>")

    for text in overrides:
        if not text.startswith("modality.pictures."):
            raise UserError(f"{text}: a report takes its run as it is; it may set modality.pictures.<setting> only.")

    folders = expand_runs([runs] if isinstance(runs, str) else runs)
    path = write_comparison(folders, overrides) if len(folders) > 1 else write_report(folders[0], overrides)
    print(f"Wrote {path} ({path.stat().st_size / 2**20:.1f} MB). It opens in any browser, also offline.")
