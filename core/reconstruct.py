"""`python -m core.reconstruct`: draws your own samples, masked and reconstructed by a run.

  python -m core.reconstruct run=runs/mine file=cat.jpg
  python -m core.reconstruct run=[runs/mae,runs/simmim] file=[cat.jpg,dog.jpg] ratio=0.9 out=animals.png

  run=     folder of a run, finished or not; or a list of runs of one modality, which are drawn side by side
  file=    a file of the run's modality, or a list; a folder, archive or array file too, of which at most 8
           samples are drawn
  out=     the picture: .png, or .svg of graphs. Default: <run>/reconstructions/<file>
  seed=0   of the masks
  ratio=   the share of tokens to hide, where the masker has one. Default: as in training
  device=

Prints the skill at each sample: 1 - error at hidden tokens / error of the better of zero and a baseline
without learning, such as interpolation; 1 is perfect, 0 no better than those. Moving pictures lie beside it
as .webp.
In Python: `core.reconstruct("runs/mine", "cat.jpg")` gives the same, and shows it in a notebook.
Exit codes: 0 done; 2 the input was wrong."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli import CallableModule, command
from core.errors import UserError

if TYPE_CHECKING:
    from core.reconstruction.sheet import Sheet
    from core.runs import Run

SETTINGS = {
    "run": str | list[str],
    "file": str | list[str],
    "out": str | None,
    "seed": int,
    "ratio": float | None,
    "device": str | None,
}
LISTED = 10  # bad samples that are named


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command(argv, lambda: __doc__ or "", reconstruct)


def function(run: "Run | str | Path | list", file: str | Path | list[str | Path], **settings: Any) -> "Sheet":
    """`core.reconstruct(run, "cat.jpg")`: see `core.reconstruction.sheet.draw_sheet`."""
    from core.reconstruction.sheet import draw_sheet
    from core.runs import Run

    runs = [run.path if isinstance(run, Run) else run for run in _as_list(run)]
    return draw_sheet(runs, _as_list(file), **settings)


def reconstruct(argv: Sequence[str]) -> None:
    """Writes the picture and prints the skills. Raises: UserError."""
    # Loaded late: --help should not wait for torch.
    from core.config import options
    from core.reconstruction.sheet import draw_sheet
    from core.runs import expand_runs

    settings, _ = options(argv, SETTINGS, strict=True)
    runs, files = expand_runs(_as_list(settings.pop("run", []))), _as_list(settings.pop("file", []))
    if not runs or not files:
        raise UserError("Give run= and file=, as in: python -m core.reconstruct run=runs/mine file=cat.jpg")

    out = settings.pop("out", None)
    sheet = draw_sheet(runs, files, **settings)
    if out is None:
        name = Path(files[0]).stem or "samples"
        out = Path(runs[0]) / "reconstructions" / f"{name}{sheet.suffix}"
    paths = sheet.save(out)
    print(describe(sheet, paths))


def describe(sheet: "Sheet", paths: Sequence[Path]) -> str:
    """The skills, the notes on the pictures, the bad samples, and the files written."""
    lines = []
    for skill in sheet.skills:
        value = "a trivial answer has no error"
        if skill.skill is not None:
            value = f"{skill.skill:.3f} over {skill.reference}"
        subject = f"{skill.key}: {skill.objective} by {skill.run}"
        lines.append(f"{subject}: skill {value} (error {skill.error:.3g})")
    if not sheet.skills:
        lines.append("No skill: nothing is predicted at tokens that are hidden from the encoder.")

    lines += sheet.notes
    lines += [f"skipped {key}: {reason}" for key, reason in sheet.skipped[:LISTED]]
    if len(sheet.skipped) > LISTED:
        lines.append(f"skipped {len(sheet.skipped) - LISTED} more")
    return "\n".join([*lines, f"Wrote {', '.join(map(str, paths))}"])


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]


sys.modules[__name__].__class__ = CallableModule

if __name__ == "__main__":
    sys.exit(main())
