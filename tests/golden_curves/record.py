"""`python -m tests.golden_curves.record`: writes golden curves anew.

    python -m tests.golden_curves.record                              every curve, by the command in its file
    python -m tests.golden_curves.record mae spark                    these alone
    python -m tests.golden_curves.record newmethod modality=image     a new one, with these settings

A change of a curve needs its reason in the commit.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.golden_curves.curves import COMMAND, FOLDER, Curve, paths, train

SETTINGS = "size=nano seed=0 steps=20 batch_size=4 precision=fp32 engine=debug"
WORLD = "data.source.train=16 data.source.test=4"  # samples of the generated world


def record(commands: dict[str, str]) -> None:
    """Trains by each method's command and writes its file."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LACUNA_CACHE"] = f"{scratch}/cache"
        for method, command in commands.items():
            folder = Path(scratch, method)
            folder.mkdir()
            train(command, folder).write(FOLDER / f"{method}.txt")


def commands(arguments: Sequence[str]) -> dict[str, str]:
    """The command of every method to record."""
    methods = [text for text in arguments if "=" not in text]
    settings = [text for text in arguments if "=" in text]
    if not settings:
        files = paths()
        return {method: Curve.read(files[method]).command for method in methods or files}

    world = [] if any(text.startswith("data=") for text in settings) else [WORLD]
    return {method: " ".join([COMMAND, f"method={method}", *settings, SETTINGS, *world]) for method in methods}


if __name__ == "__main__":
    record(commands(sys.argv[1:]))
