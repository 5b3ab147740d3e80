"""task=finetune, and the baseline without which nothing wins: supervised training from scratch at equal compute.

Equal compute: the forward and backward FLOPs of pre-training (steps x samples x FLOPs of one, counted) are turned into
samples of the classifier and come on top of those of fine-tuning. So "supervised, equal compute" sees
epochs x S + FLOPs of pre-training / FLOPs of the classifier per sample, of S training samples, at most `MOST_EPOCHS`
times each; the record says how many that were. All contenders have the same head, augmentation, recipe, choice of rates
and validation part; trying out rates is counted for none of them, and costs the supervised one the most.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.data.sources import Item
from core.evaluation.baselines import RANDOM, random_encoder
from core.evaluation.cache import cached
from core.evaluation.classification import SUPERVISED, Scores, Task, majority
from core.evaluation.compute import flops_per_sample, pretraining_flops
from core.evaluation.features import extract, extractor, fingerprints
from core.evaluation.labelled import Question, report
from core.evaluation.probe import Choice, validation_parts
from core.evaluation.protocol import Fold, draw_shots
from core.evaluation.training import Classifier, classes, fit, predict
from core.export import SavedEncoder, load_encoder
from core.seeding import mix

RATES = (2e-3, 6e-4, 2e-4)  # tried at the first seed; the others take what it chose
DEFAULT_RATE = 6e-4  # where there are too few samples to choose
VALIDATION = 0.1  # of the training samples, for the rate and the moment to stop
MOST_EPOCHS = 300.0  # more than that is learned by heart


@dataclass(frozen=True)
class Contender:
    """What is trained: the encoder it begins with, by seed, and how many samples of S it sees."""

    name: str
    begin: Callable[[int], SavedEncoder]
    samples: Callable[[int], float]


def evaluate_finetune(question: Question) -> dict:
    """The record's figures. Raises: UserError where there are no labels, too few, or a run is not finished."""
    question.names()
    table = extract({}, question.samples, question.reading, question.tokens)  # which samples can be read
    tasks = question.tasks(table)
    ours = Contender("trained", _saved(question.runs), _epochs(question))
    untrained = Contender(RANDOM, _random(question), _epochs(question))
    extra, told = supervised(question, table.items, tasks)
    scores = {label: {"chosen": compete(ours, question, label, task, table.items)} for label, task in tasks.items()}
    others = {
        label: {
            "majority class": majority(task),
            RANDOM: compete(untrained, question, label, task, table.items).right,
            SUPERVISED: extra[label],
        }
        for label, task in tasks.items()
    }
    beside = {}
    if question.beside:
        rival = Contender("beside", _saved(question.beside), _epochs(question))
        beside = {label: compete(rival, question, label, task, table.items).right for label, task in tasks.items()}
    protocol = {
        "probe": "the whole network and a linear head on its pooled features, trained on augmented samples: "
        f"{question.epochs:g} epochs of AdamW, warm-up and half a cosine",
        "selection": f"rate (of {len(RATES)}, by the first seed) and moment to stop on a validation part "
        f"({VALIDATION:.0%}) of the training samples, which is not trained on",
        RANDOM: "the same network untrained, fine-tuned alike",
        SUPERVISED: told,
    }
    return report(question, table, tasks, scores, others, beside, protocol)


def supervised(
    question: Question, items: Sequence[Item], tasks: Mapping[str, Task]
) -> tuple[dict[str, np.ndarray], str]:
    """What is right (R, T) by label after supervised training from scratch at equal compute; and what that meant."""
    reading, begin = question.reading, _random(question)
    label = next(iter(tasks))
    network = _classifier(begin(0), question, label, 0).to(reading.device)
    known = [item for item in items if item.key not in question.tested and item.labels.get(label, -1) >= 0]
    if question.tokens is not None:
        known = network.ask(known)
    each = flops_per_sample(network, known, reading)
    before = max(pretraining_flops(run, known, reading) for run in question.runs)
    more = before / each

    def samples(size: int) -> float:
        return min(question.epochs * size + more, MOST_EPOCHS * size)

    contender = Contender(SUPERVISED, begin, samples)
    right = {label: compete(contender, question, label, task, items).right for label, task in tasks.items()}
    size = _size(question, [items[i] for i in _parts(question, tasks[label], tasks[label].folds[0], 0)[0]])
    told = (
        f"the same network from random initialisation for {samples(size):.0f} samples of {each / 1e9:.4g} GFLOP: "
        f"{question.epochs:g} epochs of {size} and the {before / 1e12:.4g} TFLOP of pre-training, "
        f"at most {MOST_EPOCHS:g} epochs; spent {samples(size) / (question.epochs * size + more):.0%} of that"
    )
    return right, told


def compete(contender: Contender, question: Question, label: str, task: Task, items: Sequence[Item]) -> Scores:
    """Trains it for every seed and fold, and scores it on the tested samples, in the order of `task.tested`."""
    right, choices = [], []
    chosen: dict[int, float] = {}  # rates by fold
    for seed in range(task.options.seeds):
        row = []
        for number, fold in enumerate(task.folds):
            rates = (chosen[number],) if number in chosen else RATES
            answer, choice = _train(contender, question, label, task, fold, items, seed, rates)
            chosen[number] = choice.setting
            row.append(answer)
            choices.append(choice)
        right.append(np.concatenate(row))
    return Scores(np.stack(right), choices)


def _train(
    contender: Contender,
    question: Question,
    label: str,
    task: Task,
    fold: Fold,
    items: Sequence[Item],
    seed: int,
    rates: Sequence[float],
) -> tuple[np.ndarray, Choice]:
    """What is right (T,) after the training whose rate validation prefers; from the cache where it was done before."""
    fitting, held = ([items[i] for i in rows] for rows in _parts(question, task, fold, seed))
    tested = [items[i] for i in fold.test if task.y[i] >= 0]
    rates = rates if held or len(rates) == 1 else (DEFAULT_RATE,)
    begin = {"begin": extractor(contender.begin(seed), question.pooling, question.reading.device)}
    samples = contender.samples(_size(question, fitting))
    key = question.key() | {
        **fingerprints(begin, question.samples, question.reading),
        **{"label": label, "fold": [int(i) for i in fold.test[:1]], "seed": seed, "rates": list(rates)},
        **{"samples": samples, "batch_size": question.reading.batch_size},
    }

    def compute() -> dict[str, np.ndarray]:
        best = (-1.0, rates[0], np.zeros(0))
        for rate in rates:
            network = _classifier(contender.begin(seed), question, label, seed)
            accuracy = fit(network, fitting, held, rate, samples, question.reading, mix(seed, 1))
            if (accuracy or 0.0) > best[0]:
                answer = predict(network, tested, question.reading) == classes(tested, label)
                best = (accuracy or 0.0, rate, answer)
        return {"right": best[2], "rate": np.array(best[1]), "accuracy": np.array(best[0])}

    found = cached(key, compute)
    accuracy = float(found["accuracy"]) if held else None
    return found["right"], Choice("learning rate", float(found["rate"]), accuracy)


def _parts(question: Question, task: Task, fold: Fold, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training rows and validation rows; the second is empty where there are too few samples."""
    rows = draw_shots(task.y, fold.fit, task.options, seed)
    rng = np.random.default_rng([task.options.seed, seed, 4])
    parts = validation_parts(task.y, rows, task.groups, rng, VALIDATION, most=None)
    return (rows, rows[:0]) if parts is None else parts


def _size(question: Question, items: Sequence[Item]) -> int:
    """How many samples an epoch over these items reads."""
    return len(items if question.tokens is None else question.tokens.asked(items)[0])


def _classifier(encoder: SavedEncoder, question: Question, label: str, seed: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("head", question.options.seed, seed))
        return Classifier(encoder, label, len(question.classes[label]), question.pooling, question.tokens)


def _epochs(question: Question) -> Callable[[int], float]:
    return lambda size: question.epochs * size


def _saved(runs: Sequence[Path]) -> Callable[[int], SavedEncoder]:
    return lambda seed: load_encoder(runs[seed % len(runs)])


def _random(question: Question) -> Callable[[int], SavedEncoder]:
    return lambda seed: random_encoder(question.runs[0], question.options.seed, seed)
