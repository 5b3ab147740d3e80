"""`python -m core.evaluate`: measures a run's encoder or reconstruction, beside baselines that need no training.

  python -m core.evaluate run=runs/mine task=knn
  python -m core.evaluate run=runs/mine task=linear data.root=flowers shots=10
  python -m core.evaluate run=[runs/s0,runs/s1,runs/s2,runs/s3,runs/s4] task=linear compare_to=runs/other

task=knn             labels by nearest neighbours, beside untrained encoders and components of the raw input
task=linear          labels by linear probes (logistic or ridge regression), beside the same
task=svm             classes by support vectors, as graph papers report them: ten folds, beside the same. With
                     kernel=linear C is chosen on validation; where the method publishes its own, that stands beside
task=retrieval       samples of the same class among the training samples, ranked by cosine, beside the same; where
                     the data mark none to test, each sample among all others
task=fewshot         classes in episodes of few classes and samples, drawn here, by probe=, beside the same
task=finetune        labels by training the whole encoder on them, beside the same training from random weights,
                     as long and for the compute of pre-training on top; leaves <run>/classifier/<name>, which
                     `from core import load_classifier` opens, with predictions.csv and confusion.csv in it
task=reconstruction  error at hidden tokens, beside a baseline without learning (such as interpolation)
task=published       as the paper measured it, where the run's experiment says how

  run=         folder of a run, or of runs by `seeds=`; also a list of runs that differ in their seed, whose
               mean is measured (reconstruction: each by itself, then their mean is printed)
  metric=      of classes accuracy (default), balanced_accuracy, micro_f1 or miou; of answers to several
               questions, as which classes may count too, micro_f1 (default), map or roc_auc; of values r2
               (default) or rmse; of retrieval retrieval_map (default), retrieval_top1 or retrieval_top5, which
               are shown together
  compare_to=  another run, or several that differ in seed, to compare with, by all but the last two tasks
  data.root=   your files; any other data= setting works too. Default: the data of the run
  seed=0       of masks, random weights, shots, validation parts and intervals
  pool=mean    features of a sample: mean, max, sum, first (token), cls, or axis0 (the change along the first
               axis, such as time); mean+max (added); mean,max or cls,max (side by side); mean,max_rest (the
               maximum without the first token). Default of kernel=linear and head=: the method's own, if any
  train=all    training samples used: all, or a number drawn at random, the same for every contender
  shots=all    labelled samples per class: all, or a number
  folds=       in which all labelled samples are tested once; of whole groups, where all samples carry one (a
               column `group` or `scene`). 0: the given split. Default: 5 (svm: 10) where samples carry groups
               or the data mark none to test, else the given split
  way=5        classes of an episode (fewshot), with shots=10 training and 20 test samples of each, in folds=10
               episodes
  probe=linear of episodes: linear, knn, svm or finetune
  kernel=rbf   of support vectors, or linear
  seeds=3      how often whatever is random is drawn anew
  epochs=10    of fine-tuning
  head=linear  of fine-tuning, or mlp (twice 256 units), or as the method publishes it for a data set (a wrong
               name lists them), with its pooling, smoothing= and clip=
  smoothing=   ε of class labels, ε / (K - 1) for each wrong class (default: 0.1 shared by all classes)
  clip=1       largest norm of the gradient in fine-tuning
  supervised=  true: probes beside supervised training at equal compute too: long, and "wins" needs it
  samples=1024 test samples at most, for reconstruction
  batch_size=  workers=  device=
  --json       prints the record as the last line

Prints a table and writes <run>/evaluation/<task>.json; with other data, settings or several runs
<task>-<their names>-<a short hash>.json, so that no record replaces another. Exit codes: 0 done; 2 the input was wrong.
In Python: `core.evaluation.run_task("runs/mine", "knn", seeds=5)` returns the same as an object."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli import CallableModule, command
from core.errors import UserError

if TYPE_CHECKING:
    from core.evaluation.result import Result
    from core.evaluation.settings import Task
    from core.runs import Run

JSON_FLAG = "--json"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command(argv, lambda: __doc__ or "", evaluate)


def function(
    run: "Run | str | Path | Sequence[Run | str | Path]", task: "Task", *overrides: str, **settings: Any
) -> "Result":
    """`core.evaluate(run, task="knn")`: see `core.evaluation.tasks.run_task`."""
    from core.evaluation.tasks import run_task

    return run_task(run, task, *overrides, **settings)


def evaluate(argv: Sequence[str]) -> None:
    """Carries out the command: prints its table, and with `--json` the record. Raises UserError."""
    # Loaded late: --help should not wait for them.
    from rich.console import Console

    from core.config import options
    from core.evaluation import tasks
    from core.evaluation.comparison import means
    from core.evaluation.settings import EvaluationSettings

    words = [word for word in argv if word != JSON_FLAG]
    settings, overrides = options(words, {field.name: field.type for field in fields(EvaluationSettings)})
    for name in ("run", "task"):
        if name not in settings:
            raise UserError(f"Give {name}=, as in: python -m core.evaluate run=runs/mine task=knn")

    line = f"python -m core.evaluate {shlex.join(words)}"
    whole = EvaluationSettings(**settings)
    parts = [whole]
    if whole.task == "reconstruction":
        parts = [replace(whole, run=str(run)) for run in whole.runs]

    console, results = Console(highlight=False), []
    for part in parts:
        result = tasks.evaluate(part, overrides, line)
        results.append(result)
        if len(parts) > 1:
            print(f"run={part.run}")
        if console.is_terminal:
            console.print(result)
        else:
            print(result, end="")
        for line in result.classifiers():
            print(line)
        if JSON_FLAG in argv:
            print(json.dumps(result.record))
    if len(results) > 1:
        print("\n".join(["", *means(results)]))


sys.modules[__name__].__class__ = CallableModule

if __name__ == "__main__":
    sys.exit(main())
