"""Lacuna's core: masked self-supervised learning for any modality. Start reading at `core/tokens.py`.

from core import compare, train, evaluate, reconstruct, load_encoder, Run

run = train("modality=image", "data.root=photos", steps=100)    # as `python -m core.train …`
evaluate(run, task="knn").accuracy                              # as `python -m core.evaluate run=… task=knn`
features = run.encoder()(images)
run.encode("photos").table()                                    # features with keys and labels
compare([run, "runs/other"], task="knn").latex()                # as `python -m core.compare runs=… task=knn`
reconstruct(run, "cat.jpg")                                     # as `python -m core.reconstruct run=… file=cat.jpg`
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.compare import function as compare
    from core.evaluate import function as evaluate
    from core.evaluation.classifier import load_classifier as load_classifier
    from core.export import load_encoder as load_encoder
    from core.reconstruct import function as reconstruct
    from core.runs import Run as Run
    from core.runs import open_run as open_run
    from core.training import train as train

__all__ = ["Run", "compare", "evaluate", "load_classifier", "load_encoder", "open_run", "reconstruct", "train"]

HOMES = {
    "Run": "core.runs",
    "open_run": "core.runs",
    "load_encoder": "core.export",
    "load_classifier": "core.evaluation.classifier",
}

COMMANDS = ("compare", "evaluate", "reconstruct", "train")


def __getattr__(name: str):
    # Loaded on first use, so that `python -m core.train --help` does not pay for what it does not need. `train` and
    # some others are commands too: modules of these names, which can be called (core.cli.CallableModule).
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    if name in COMMANDS:
        return import_module(f"core.{name}")
    raise AttributeError(f"module 'core' has no attribute {name!r}")
