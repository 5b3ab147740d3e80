"""`python -m core.report run=<run>`: writes `<run>/report.html`, one file that shows how a run went.

run         a run's folder, as `core.train` leaves it; it may still be training

The page holds curves, masks, pictures of held-out samples, evaluations, skipped files and the config; it loads nothing
from anywhere.
"""

import sys
from collections.abc import Sequence

from core.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 where the input was wrong."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help", "help"} & set(argv):
        print(__doc__.strip())
        return 0
    try:
        start(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def start(argv: Sequence[str]) -> None:
    # Loaded late: --help and typing errors should not wait for them.
    from core.config import options
    from core.report.page import write_report

    settings, _ = options(argv, {"run": str})
    if "run" not in settings:
        raise UserError("run= is missing: python -m core.report run=<the folder of a run>")
    path = write_report(settings["run"])
    print(f"Wrote {path} ({path.stat().st_size / 2**20:.1f} MB). It opens in any browser, also offline.")
