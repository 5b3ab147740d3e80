"""task=finetune, and the baseline that a win needs: supervised training from scratch at equal compute.

Equal compute: the forward and backward FLOPs of pre-training (steps x samples x FLOPs of one, counted) are
turned into samples of the labelled network and come on top of those of fine-tuning. So "supervised, equal
compute" sees epochs x S + FLOPs of pre-training / FLOPs of the network per sample, of S training samples,
at most `MOST_EPOCHS` times each; the record says how many that were. All contenders have the same head,
augmentation, recipe, choice of rates and validation part; trying out rates is counted for none of them, and
costs the supervised one the most.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.config import load
from core.config.build import build_method
from core.data.dataset import Samples
from core.data.loader import Loader, evaluation_batches
from core.data.sources import Item
from core.encoder import ViT
from core.engine import flops
from core.engine.clock import Clock
from core.engine.optim import AdamW
from core.engine.precision import DryRun, Precision, autocast
from core.errors import UserError
from core.evaluation.cache import cached
from core.evaluation.classifier import save_classifier, write_predictions
from core.evaluation.compare import CONSTANT, compare, constant_scores, random_encoder
from core.evaluation.features import extract, extractor, fingerprints
from core.evaluation.labelled import Fold, LabelledData, LabelSplit, cache_key, draw_shots, pick
from core.evaluation.network import LabelledNetwork
from core.evaluation.probes import Choice, Scores, validation_parts
from core.evaluation.settings import LabelledTask, LoaderSettings
from core.evaluation.verdicts import RANDOM, SUPERVISED
from core.export import SavedEncoder, load_encoder, with_settings
from core.files import read_json
from core.runs import is_saved_encoder
from core.seeding import deterministic, mix
from core.tokens import Progress

RATES = (2e-3, 6e-4, 2e-4)  # tried at the first seed; the others take what it chose
DEFAULT_RATE = 6e-4  # where there are too few samples to choose
VALIDATION = 0.1  # of the training samples, for the rate and the moment to stop
MOST_LINES = 10  # of progress, for one training
NETWORK = "network/"  # in front of the names of kept weights
NO_COMPUTE = "a saved encoder does not say how much compute its pre-training took"
MOST_EPOCHS = 300.0  # more than that is learned by heart
RECIPE = {"betas": (0.9, 0.999), "weight_decay": 0.05, "warmup_share": 0.1}
HEADS = {"linear": "linear head", "mlp": "head of two hidden layers"}
# A class token for encoders that were trained without, begun as Point-MAE's classifier begins its own.
CLS = {"_target_": "core.embeddings.ClsToken", "position": "learned", "init": "truncated"}
LOOKS = 5  # at the validation part, evenly over a training; the weights of the best of them are kept
COUNTED_SAMPLES = 8  # of the batch whose FLOPs are counted; their number changes nothing beyond rounding
TRAINED = Progress(1, 1, 1.0, 1.0)  # the end of training, for masks and targets that follow a schedule


def fit(
    network: LabelledNetwork,
    items: Sequence[Item],
    validation: Sequence[Item],
    loader: LoaderSettings,
    *,
    rate: float,
    samples: float,
    seed: int,
    name: str = "",
) -> float | None:
    """Trains in place on `samples` augmented samples; `name`: under which its epochs are printed, to stderr.

    Returns the best figure on `validation`, keeping its weights.

    `items`, `validation`: samples, or tokens. Without `validation` the last weights stay and None is
    returned. AdamW, linear warm-up, half a cosine to 0; the result depends on the network, the items and
    the seed alone.
    """
    fitted = network.set_targets(items)
    device, size = torch.device(loader.device), min(loader.batch_size, len(fitted))
    stream = Loader(Samples(fitted, loader.reader, seed), size, seed, loader.workers)
    recipe = AdamW(lr=rate, clip=network.options.clip, **RECIPE)
    clock = Clock(max(1, round(samples / size)), stream.steps_per_epoch)
    looks = set()
    if validation:
        looks = {round(clock.steps * (i + 1) / LOOKS) - 1 for i in range(LOOKS)}

    lines = EpochLines(name, clock.steps, samples / len(fitted))
    metric, y = network.label.metric, network.label.values(validation)
    optimizer, best, weights = recipe.optimizer(network.to(device)), None, None
    untrained = untrained_norms(network)
    with torch.random.fork_rng(_generators(device)), deterministic(True):
        torch.manual_seed(mix("fit", seed))  # dropout
        for step, batch in zip(range(clock.steps), stream, strict=False):
            network.train()
            for norm, momentum in untrained.items():
                norm.momentum = max(momentum, 1 / (step + 1))
            recipe.set(optimizer, clock.at(step), size)
            with autocast(_precision(device), device):
                loss = network(batch.to(device)).loss
            loss.backward()
            recipe.clip_gradients(optimizer)
            optimizer.step()
            optimizer.zero_grad()
            lines.add(loss)

            if step in looks:
                value = metric.value(metric.score(y, predict(network, validation, loader))[None])
                if best is None or metric.utility(value) >= metric.utility(best):
                    best = value
                    weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
                lines.note(f"validation {metric.name} {value:.3f}")
            lines.show(step)

    for norm, momentum in untrained.items():
        norm.momentum = momentum
    if weights is not None:
        network.load_state_dict(weights)
    return best


def untrained_norms(network: nn.Module) -> dict[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, float]:
    """Batch norms that have seen no batch yet, with their momentum.

    Their running statistics start at 0 and 1, whose share after n steps of momentum m is (1 - m)^n: a short
    training ends with norms that fit nothing. Averaged over the steps so far at first, they fit from the
    first step on, and a long training ends with the same.
    """
    norms = {}
    for module in network.modules():
        if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) or module.momentum is None:
            continue
        if module.num_batches_tracked == 0:
            norms[module] = module.momentum
    return norms


class EpochLines:
    """Progress of a training as lines, one at the end of each epoch, or of every few; the loss is their mean.

    Losses are read from the device only when a line is printed. Without a `name` nothing is printed.
    """

    def __init__(self, name: str, steps: int, epochs: float):
        self.name, self.steps, self.epochs = name, steps, epochs
        self.total, self.count, self.text = None, 0, ""

        count = min(MOST_LINES, steps, max(1, ceil(epochs)))
        self.ends = {round(steps * (i + 1) / count) - 1 for i in range(count)}

    def add(self, loss: Tensor) -> None:
        if self.total is None:
            self.total = loss.detach()
        else:
            self.total = self.total + loss.detach()
        self.count += 1

    def note(self, text: str) -> None:
        """Appended to the next line."""
        self.text = f", {text}"

    def show(self, step: int) -> None:
        """Prints the line that is due after this step, if any."""
        if not self.name or step not in self.ends or self.total is None:
            return
        epoch = (step + 1) / self.steps * self.epochs
        loss = float(self.total) / self.count
        line = f"{self.name}: epoch {epoch:.3g} of {self.epochs:.3g}, loss {loss:.4f}{self.text}"
        print(line, file=sys.stderr, flush=True)
        self.total, self.count, self.text = None, 0, ""


def predict(network: LabelledNetwork, items: Sequence[Item], loader: LoaderSettings) -> np.ndarray:
    """Predictions (S,) or (S, L) for items that can all be read; of tokens, in the order of their samples."""
    return _of_items(network, network.predictions, items, loader)


def probabilities(network: LabelledNetwork, items: Sequence[Item], loader: LoaderSettings) -> np.ndarray:
    """Probabilities (S, L) of classes or of a yes to each question, or values; items as for `predict`."""
    return _of_items(network, lambda data: network.probabilities(network.outputs(data)), items, loader)


@torch.no_grad()  # not inference mode: tensors that modules keep from it could not be trained through
def _of_items(
    network: LabelledNetwork, read: Callable[[Any], Tensor], items: Sequence[Item], loader: LoaderSettings
) -> np.ndarray:
    """Results of `read` on the data of these items."""
    network.eval()
    device, samples, flags = torch.device(loader.device), items, None
    if network.tokens is not None:
        samples, flags = network.tokens.select(items)

    predictions = []
    for batch in evaluation_batches(samples, loader.reader, loader.batch_size, loader.workers):
        with autocast(_precision(device), device):
            predictions.append(read(batch.to(device).views[loader.reader.view]).cpu())

    joined = torch.cat(predictions)
    if flags is not None:
        joined = joined[torch.cat(list(flags.values()))]
    return joined.numpy()


@dataclass(frozen=True)
class Contender:
    """A training: its first encoder, by seed, and how many samples it sees, by the training set's size.

    `keeps`: of the first seed's trainings the predictions are kept, and of its first fold the network.
    """

    name: str
    begin: Callable[[int], SavedEncoder]
    samples: Callable[[int], float] = field(kw_only=True)
    keeps: bool = field(kw_only=True, default=False)


@dataclass(frozen=True)
class Training:
    """Scores (T, …) of a fold, the choice that validation made, and kept arrays."""

    units: np.ndarray
    choice: Choice
    arrays: Mapping[str, np.ndarray] = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One label of a task: everything that contenders share. `items`: those that could be read."""

    task: LabelledTask
    data: LabelledData
    split: LabelSplit
    items: Sequence[Item]

    @property
    def pool(self) -> str:
        return self.data.pool(self.task)

    def network(self, encoder: SavedEncoder, seed: int) -> LabelledNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix("head", self.task.options.seed, seed))
            return LabelledNetwork(encoder, self.split.label, self.pool, self.data.tokens, self.task.classifier)

    @property
    def training_items(self) -> list[Item]:
        """Labelled items that are not tested."""
        labelled = pick(self.items, np.flatnonzero(self.split.is_known))
        return [item for item in labelled if item.key not in self.data.tested]

    def parts(self, fold: Fold, seed: int) -> tuple[list[Item], list[Item]]:
        """Training items and validation items; the second is empty where there are too few samples."""
        split = self.split
        rows = draw_shots(split, fold, seed)
        rng = np.random.default_rng([split.options.seed, seed, 4])
        parts = validation_parts(split.classes, rows, groups=split.groups, rng=rng, share=VALIDATION, most=None)
        if parts is None:
            return pick(self.items, rows), []
        fitting, validation = parts
        return pick(self.items, fitting), pick(self.items, validation)

    def size(self, items: Sequence[Item]) -> int:
        """How many samples an epoch over these items reads."""
        if self.data.tokens is None:
            return len(items)
        return len(self.data.tokens.select(items)[0])

    def key(self) -> dict:
        """Everything that every contender's scores depend on; the number of seeds is not among it."""
        return cache_key(self.task, self.data) | {
            "label": self.split.label.name,
            "classifier": asdict(self.task.classifier),
        }


def evaluate_finetune(task: LabelledTask, data: LabelledData, folder: Path) -> dict:
    """Figures of whole networks; leaves a classifier and its predictions in `folder`, for each label.

    Of a saved encoder, whose compute of pre-training is not known, without the supervised baseline.
    Raises: UserError where there are too few labels, or a run is not finished.
    """
    table = extract({}, data.samples, task.loader, data.tokens)  # which samples can be read
    splits = data.splits(table.items, task.options)
    contests = contests_of(task, data, splits, table.items)

    trained = Contender("trained", _saved(task, task.runs), samples=_epochs(task), keeps=True)
    untrained = Contender(RANDOM, _random(task), samples=_epochs(task))
    rival = Contender("compare_to", _saved(task, task.rivals), samples=_epochs(task))
    supervised, supervised_text = {}, NO_COMPUTE
    if any(is_saved_encoder(run) for run in task.runs):
        print(f"note: {SUPERVISED}, is left out: {NO_COMPUTE}.", file=sys.stderr)
    else:
        supervised, supervised_text = supervised_scores(task, contests)

    ours, baselines, rivals, outcomes = {}, {}, {}, {}
    for name, contest in contests.items():
        trainings = train_all(trained, contest)
        ours[name] = {"chosen": joined_scores(trainings, contest)}
        outcomes[name] = trainings[0]
        baselines[name] = {
            CONSTANT[contest.split.label.kind]: constant_scores(contest.split),
            RANDOM: compete(untrained, contest).units,
        }
        if supervised:
            baselines[name][SUPERVISED] = supervised[name]
        if task.rivals:
            rivals[name] = compete(rival, contest).units

    protocol = {
        "probe": f"the whole network and a {HEADS[task.classifier.head]} on its pooled features, trained on augmented "
        f"samples: {task.epochs:g} epochs of AdamW, warm-up and half a cosine",
        "recipe": asdict(task.classifier),
        "selection": f"rate (of {len(RATES)}, by the first seed) and moment to stop on a validation part "
        f"({VALIDATION:.0%}) of the training samples, which is not trained on",
        RANDOM: "the same network untrained, fine-tuned alike",
        SUPERVISED: supervised_text,
    }
    figures = {"ours": ours, "baselines": baselines, "rivals": rivals}
    record = compare(task, data, table, splits, **figures, protocol=protocol)
    for name, contest in contests.items():
        place = folder
        if len(contests) > 1:
            place = folder / name.replace("/", "_")
        record["figures"][name]["classifier"] = str(place.relative_to(task.runs[0]))
        _keep(contest, outcomes[name], place)
    return record


def _keep(contest: Contest, trainings: Sequence[Training], folder: Path) -> None:
    """Writes the network of the first fold as a classifier, and predictions for the tested items of all folds."""
    task, split, state = contest.task, contest.split, trainings[0].arrays
    network = contest.network(_saved(task, task.runs)(0), 0)
    tensors = {}
    for name in network.state_dict():
        tensors[name] = torch.from_numpy(np.asarray(state[NETWORK + name]))
    network.load_state_dict(tensors)

    count = contest.size(contest.parts(split.folds[0], 0)[0])
    text = f"{count} samples, of {task.runs[0]}"
    if len(split.folds) > 1:
        text += f", the training part of fold 1 of {len(split.folds)}"
    save_classifier(folder, network, reader=task.reader_node, trained_on=text)

    keys = [item.key for item in pick(contest.items, split.tested)]
    outputs = []
    for name in ("predictions", "probabilities"):
        outputs.append(np.concatenate([training.arrays[name] for training in trainings]))
    write_predictions(folder, split.label, keys, split.y[split.tested], *outputs)


def contests_of(
    task: LabelledTask, data: LabelledData, splits: Mapping[str, LabelSplit], items: Sequence[Item]
) -> dict[str, Contest]:
    """A contest for every label, by its name."""
    contests = {}
    for name, split in splits.items():
        contests[name] = Contest(task=task, data=data, split=split, items=items)
    return contests


def supervised_scores(
    task: LabelledTask,
    contests: Mapping[str, Contest],
) -> tuple[dict[str, np.ndarray], str]:
    """Scores (R, T, …) by label after supervised training from scratch at equal compute.

    And how long that was.
    """
    contest, loader, begin = next(iter(contests.values())), task.loader, _random(task)

    # FLOPs of pre-training, in samples of the labelled network.
    network = contest.network(begin(0), 0).to(loader.device)
    samples = network.set_targets(contest.training_items)
    per_sample = flops_per_sample(network, samples, loader)
    pretraining = max(pretraining_flops(run, samples, loader) for run in task.runs)
    extra = pretraining / per_sample

    def count(size: int) -> float:
        return min(task.epochs * size + extra, MOST_EPOCHS * size)

    contender = Contender(SUPERVISED, begin, samples=count)
    scores = {name: compete(contender, part).units for name, part in contests.items()}

    size = contest.size(contest.parts(contest.split.folds[0], 0)[0])
    text = (
        f"the same network from random initialisation for {count(size):.0f} samples of {per_sample / 1e9:.4g} GFLOP: "
        f"{task.epochs:g} epochs of {size} and the {pretraining / 1e12:.4g} TFLOP of pre-training, "
        f"at most {MOST_EPOCHS:g} epochs; spent {count(size) / (task.epochs * size + extra):.0%} of that"
    )
    return scores, text


def compete(contender: Contender, contest: Contest) -> Scores:
    """Trains it for every seed and fold; scores of the tested units, in the order of `split.tested`."""
    return joined_scores(train_all(contender, contest), contest)


def train_all(contender: Contender, contest: Contest) -> list[list[Training]]:
    """Its trainings, by seed and fold; later seeds take the rate that the first one chose in their fold."""
    trainings = []
    rates: dict[int, float] = {}  # by fold
    for seed in range(contest.split.options.seeds):
        by_fold = []
        for number in range(len(contest.split.folds)):
            candidates = RATES
            if number in rates:
                candidates = (rates[number],)
            training = _train(contender, contest, number, seed, candidates)
            assert training.choice.setting is not None, "a training chooses a rate"
            rates[number] = training.choice.setting
            by_fold.append(training)
        trainings.append(by_fold)
    return trainings


def joined_scores(trainings: Sequence[Sequence[Training]], contest: Contest) -> Scores:
    """Scores of all seeds, those of the folds joined, and the choices made."""
    units, choices = [], []
    for by_fold in trainings:
        parts = []
        for training in by_fold:
            parts.append(training.units)
            choices.append(training.choice)
        units.append(contest.split.metric.join(parts))
    return Scores(np.stack(units), choices)


def pretraining_flops(run: Path, samples: Sequence[Item], loader: LoaderSettings) -> float:
    """FLOPs of a finished run: steps × batch size × forward and backward of the method per sample.

    Counted on training samples of the evaluation, read as in training; compute that `init=` brought along
    is not counted. Raises UserError where the run is not finished, or no run.
    """
    if is_saved_encoder(run):
        raise UserError(f"run={run}: {NO_COMPUTE}. Leave out supervised=true.")
    note = read_json(run / "finished.json")
    if note is None:
        raise UserError(f"run={run} is not finished, so that its compute is not known: finish it by the same command.")
    config = load(run / "config.yaml")
    method = build_method(config).to(loader.device)
    return note["steps"] * config["batch_size"] * flops_per_sample(method, samples, loader)


def flops_per_sample(module: nn.Module, samples: Sequence[Item], loader: LoaderSettings) -> float:
    """Of a forward and backward of anything that takes batches as methods do, per sample (not per view)."""
    size = min(COUNTED_SAMPLES, len(samples))
    batch = next(iter(Loader(Samples(samples, loader.reader, seed=0), size, seed=0, workers=0)))
    rehearse = DryRun(module, batch.to(loader.device), TRAINED, torch.device(loader.device))
    return flops.count(rehearse, "fp32") / size


def _train(
    contender: Contender,
    contest: Contest,
    number: int,
    seed: int,
    rates: Sequence[float],
) -> Training:
    """Scores (T, …) on a fold, by its number, after the training whose rate validation prefers.

    From the cache where it was done before.
    """
    task, split, fold = contest.task, contest.split, contest.split.folds[number]
    keeps_outputs = contender.keeps and seed == 0
    keeps_network = keeps_outputs and number == 0
    name = f"{split.label.name}, {contender.name}, seed {seed + 1} of {split.options.seeds}"
    if len(split.folds) > 1:
        name += f", fold {number + 1} of {len(split.folds)}"

    fitting, validation = contest.parts(fold, seed)
    test = split.test_rows(fold)
    if not validation and len(rates) > 1:
        rates = (DEFAULT_RATE,)

    begin = {"begin": extractor(contender.begin(seed), contest.pool, task.loader.device)}
    samples = contender.samples(contest.size(fitting))
    key = contest.key() | {
        **fingerprints(begin, contest.data.samples, task.loader),
        "fold": fold.test[:1].tolist(),
        "seed": seed,
        "rates": list(rates),
        "samples": samples,
        "batch_size": task.loader.batch_size,
        "keeps": [keeps_outputs, keeps_network],
    }

    def train_rates() -> dict[str, np.ndarray]:
        best, arrays = None, {}
        for rate in rates:
            network = contest.network(contender.begin(seed), seed)
            recipe = {"rate": rate, "samples": samples, "seed": mix(seed, 1)}
            value = fit(network, fitting, validation, task.loader, **recipe, name=f"{name}, rate {rate:g}")
            if value is None:
                value = np.nan
            if best is None or split.metric.utility(value) > best:
                predictions = predict(network, pick(contest.items, test), task.loader)
                best = split.metric.utility(value)
                arrays = {
                    "units": split.metric.score(split.y[test], predictions),
                    "rate": np.array(rate),
                    "validation": np.array(value),
                }
                if keeps_outputs:
                    arrays["predictions"] = predictions
                    arrays["probabilities"] = probabilities(network, pick(contest.items, test), task.loader)
                if keeps_network:
                    state = network.state_dict()
                    arrays |= {f"{NETWORK}{key}": tensor.cpu().numpy() for key, tensor in state.items()}
        return arrays

    arrays = cached(key, train_rates)
    value = None
    if validation:
        value = float(arrays["validation"])
    return Training(arrays["units"], Choice("learning rate", float(arrays["rate"]), value), arrays=arrays)


def _epochs(task: LabelledTask) -> Callable[[int], float]:
    return lambda size: task.epochs * size


def _saved(task: LabelledTask, runs: Sequence[Path]) -> Callable[[int], SavedEncoder]:
    return lambda seed: _for_classifier(load_encoder(runs[seed % len(runs)]), task, seed)


def _random(task: LabelledTask) -> Callable[[int], SavedEncoder]:
    return lambda seed: _for_classifier(random_encoder(task.runs[0], task.options.seed, seed), task, seed)


def _for_classifier(encoder: SavedEncoder, task: LabelledTask, seed: int) -> SavedEncoder:
    """The encoder as the classifier takes it; new parts of it, a class token among them, begin at random."""
    settings = dict(task.classifier.encoder)
    if "cls" in task.pool and isinstance(encoder.encoder, ViT) and encoder.encoder.cls is None:
        settings["cls"] = CLS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("parts", task.options.seed, seed))
        return with_settings(encoder, settings)


def _generators(device: torch.device) -> list[torch.device]:
    """Devices beside the CPU whose random numbers a training draws."""
    if device.type == "cuda":
        return [device]
    return []


def _precision(device: torch.device) -> Precision:
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if native:
        return "bf16"
    return "fp32"
