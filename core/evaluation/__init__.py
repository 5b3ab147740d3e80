"""Measures encoders and reconstructions: every figure with its interval and beside its baselines.

`run_task(run, task)` evaluates a run; the page of stages is `core.evaluation.tasks`.
"""

from importlib import import_module


def __getattr__(name: str):
    # Loaded on first use: training needs a part of this package only.
    if name == "run_task":
        return import_module("core.evaluation.tasks").run_task
    if name == "Result":
        return import_module("core.evaluation.result").Result
    raise AttributeError(f"module 'core.evaluation' has no attribute {name!r}")
