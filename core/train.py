"""`python -m core.train`: trains a method on a modality; run again with the same `run_dir`, it resumes.

Exit codes: 0 done; 2 the input was wrong (one message); 130 and 143 stopped by Ctrl-C and SIGTERM, to be resumed.
"""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.catalogue import describe_choices
from core.cli import CallableModule, command
from core.engine.stopping import Interrupted

if TYPE_CHECKING:
    from core.runs import Run

USAGE = """\
python -m core.train [key=value ...]      train; run it again with the same run_dir to resume
  python -m core.train modality=video
  python -m core.train modality=image method=mae size=base data=folder data.root=photos epochs=100
  torchrun --nproc-per-node=8 -m core.train modality=video batch_size=1024

Choices
{choices}
Settings
  epochs= or steps=   length of the run            batch_size=   samples per step, over all processes
  data.root=          your files                   run_dir=      default runs/<modality>_<method>_<size>_<data>
  seed=               of data, masks and weights   precision=    auto, fp32 or bf16
  seeds=              3: three runs, with seed, seed + 1 and seed + 2, in <run_dir>/seed0, seed1, …
  compile=            true: torch.compile          init.from=    a run or saved encoder to start from
  dry_run=            true: check and estimate     init.part=    encoder.trunk: that part alone
  config=             <run>/config.yaml: the same run again
Everything else by its path: optim.base_lr=1e-4 engine.workers=4 method.masker.ratio=0.9 (all: <run>/config.yaml)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return command(argv, usage, start_run)
    except Interrupted as stopped:
        state = "The last step is saved" if stopped.saved else "The newest checkpoint stands"
        print(f"Stopped by {stopped}. {state}; resume by: python -m core.train {shlex.join(argv)}", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("Stopped outside of training; the same command goes on from there.", file=sys.stderr)
        return 130


def function(*overrides: str, **settings: Any) -> "Run":
    """`core.train(…)`: see `core.training.train`."""
    from core.training import train

    return train(*overrides, **settings)


def start_run(argv: Sequence[str]) -> None:
    from core.config import compose, options
    from core.settings import Start

    settings, overrides = options(argv, {"seeds": int | None})
    start, overrides = Start.of(overrides)
    config = compose(overrides)  # its errors come before torch is loaded

    from core.engine.distributed import connect
    from core.training import run_seeds

    with connect() as distributed:
        run_seeds(overrides, config, settings.get("seeds"), distributed, start)


def usage() -> str:
    lines = []
    for group, names in describe_choices().items():
        if names:
            lines.append(f"  {group + '=':<13} {' | '.join(names)}")
    return USAGE.format(choices="\n".join(lines))


sys.modules[__name__].__class__ = CallableModule

if __name__ == "__main__":
    sys.exit(main())
