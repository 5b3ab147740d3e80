"""task=finetune, and the baseline that a win needs: supervised training from scratch at equal compute.

Equal compute: the forward and backward FLOPs of pre-training (steps x samples x FLOPs of one, counted) are
turned into samples of the labelled network and come on top of those of fine-tuning. So "supervised, equal
compute" sees epochs x S + FLOPs of pre-training / FLOPs of the network per sample, of S training samples,
at most `MOST_EPOCHS` times each; the record says how many that were. All contenders have the same head,
augmentation, recipe, choice of rates and validation part; trying out rates is counted for none of them, and
costs the supervised one the most.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import load
from core.config.build import build_method
from core.data.dataset import Samples
from core.data.loader import Loader, evaluation_batches
from core.data.sources import Item
from core.engine import flops
from core.engine.clock import Clock
from core.engine.optim import AdamW
from core.engine.precision import DryRun, Precision, autocast
from core.errors import UserError
from core.evaluation.cache import cached
from core.evaluation.compare import CONSTANT, RANDOM, SUPERVISED, compare, constant_scores, random_encoder
from core.evaluation.features import extract, extractor, fingerprints, pooled
from core.evaluation.labelled import (
    Fold,
    Label,
    LabelledData,
    LabelSplit,
    TokenItems,
    cache_key,
    draw_shots,
    pick,
)
from core.evaluation.probes import Choice, Scores, validation_parts
from core.evaluation.settings import LabelledTask, LoaderSettings, Pool
from core.export import SavedEncoder, load_encoder
from core.files import read_json
from core.seeding import deterministic, mix
from core.tokens import Batch, Progress

RATES = (2e-3, 6e-4, 2e-4)  # tried at the first seed; the others take what it chose
DEFAULT_RATE = 6e-4  # where there are too few samples to choose
VALIDATION = 0.1  # of the training samples, for the rate and the moment to stop
MOST_EPOCHS = 300.0  # more than that is learned by heart
RECIPE = {"betas": (0.9, 0.999), "weight_decay": 0.05, "warmup_share": 0.1, "clip": 1.0}
SMOOTHING = 0.1  # of class labels
LOOKS = 5  # at the validation part, evenly over a training; the weights of the best of them are kept
COUNTED_SAMPLES = 8  # of the batch whose FLOPs are counted; their number changes nothing beyond rounding
TRAINED = Progress(1, 1, 1.0, 1.0)  # the end of training, for masks and targets that follow a schedule


@dataclass(frozen=True)
class Output:
    """The part of a forward that training reads."""

    loss: Tensor


class LabelledNetwork(nn.Module):
    """An encoder, a norm of its pooled features, a linear layer: raw data of its view -> outputs (B, classes).

    Of other labels an output per question or value. `tokens`: where they carry the labels; outputs are then
    of all tokens. Source: the head of facebookresearch/mae's fine-tuning (a norm of the mean token, small
    weights, no bias).
    """

    def __init__(
        self, encoder: SavedEncoder, label: Label, pool: Pool | Literal["token"], tokens: TokenItems | None = None
    ):
        super().__init__()
        self.encoder, self.label, self.tokens = encoder.unfreeze(), label, tokens
        self.pool: Pool | Literal["token"] = pool
        self.targets: Mapping[str, Tensor] = {}  # of the samples to train on, by key
        self.norm = nn.LayerNorm(encoder.embed_dim, eps=1e-6)
        self.head = nn.Linear(encoder.embed_dim, len(label.names))
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

        # Values are learned standardised.
        self.register_buffer("mean", torch.zeros(len(label.names)))
        self.register_buffer("scale", torch.ones(len(label.names)))

    def outputs(self, data: Any) -> Tensor:
        return self.head(self.norm(pooled(self.encoder(data), self.pool)))

    def forward(
        self, batch: Batch, progress: Progress | None = None, generator: torch.Generator | None = None
    ) -> Output:
        """The loss of a labelled batch; called as methods are, so that the engine can count it."""
        outputs = self.outputs(batch.views[self.encoder.view])
        y = torch.cat([self.targets[key] for key in batch.keys]).to(outputs.device)
        y = y.repeat_interleave(len(outputs) // len(y), 0)  # several views of a sample stand side by side
        return Output(self.loss(outputs, y))

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross entropy of classes, binary one of known answers, squared error of standardised values."""
        if self.label.kind == "classes":
            return F.cross_entropy(outputs, y, ignore_index=-1, label_smoothing=SMOOTHING)

        is_known = ~y.isnan()
        if self.label.kind == "answers":
            error = F.binary_cross_entropy_with_logits(outputs, y.nan_to_num(), reduction="none")
        else:
            error = (outputs - (y.nan_to_num() - self.mean) / self.scale).square()
        return (error * is_known).sum() / is_known.sum().clamp(min=1)

    def predictions(self, data: Any) -> Tensor:
        """Class numbers (B,), answers, 0 or more for yes, or values."""
        outputs = self.outputs(data)
        if self.label.kind == "classes":
            return outputs.argmax(1)
        return outputs.float() * self.scale + self.mean

    def set_targets(self, items: Sequence[Item]) -> Sequence[Item]:
        """Trains on these items from now on; returns the samples to read, which they are or are tokens of."""
        y = self._target(items)
        if self.label.kind == "values":
            self.mean, self.scale = y.nanmean(0), _nan_deviation(y)

        if self.tokens is None:
            self.targets = dict(zip(map(attrgetter("key"), items), y.split(1), strict=True))
            return items

        # Tokens of the same samples that are not among the items have no label.
        samples, flags = self.tokens.select(items)
        self.targets = {}
        for key, selected in flags.items():
            target = self._target(self.tokens.by_sample[key])
            target[~selected] = torch.tensor(self.label.unknown, dtype=target.dtype)
            self.targets[key] = target
        return samples

    def _target(self, items: Sequence[Item]) -> Tensor:
        y = torch.from_numpy(self.label.values(items))
        if self.label.kind == "classes":
            return y
        return y.float()

    def no_weight_decay(self) -> set[str]:
        return set()


def fit(
    network: LabelledNetwork,
    items: Sequence[Item],
    validation: Sequence[Item],
    loader: LoaderSettings,
    *,
    rate: float,
    samples: float,
    seed: int,
) -> float | None:
    """Trains in place on `samples` augmented samples.

    Returns the best figure on `validation`, keeping its weights.

    `items`, `validation`: samples, or tokens. Without `validation` the last weights stay and None is
    returned. AdamW, linear warm-up, half a cosine to 0; the result depends on the network, the items and
    the seed alone.
    """
    fitted = network.set_targets(items)
    device, size = torch.device(loader.device), min(loader.batch_size, len(fitted))
    stream = Loader(Samples(fitted, loader.reader, seed), size, seed, loader.workers)
    recipe = AdamW(lr=rate, **RECIPE)
    clock = Clock(max(1, round(samples / size)), stream.steps_per_epoch)
    looks = set()
    if validation:
        looks = {round(clock.steps * (i + 1) / LOOKS) - 1 for i in range(LOOKS)}

    metric, y = network.label.metric, network.label.values(validation)
    optimizer, best, weights = recipe.optimizer(network.to(device)), None, None
    with torch.random.fork_rng(_generators(device)), deterministic(True):
        torch.manual_seed(mix("fit", seed))  # dropout
        for step, batch in zip(range(clock.steps), stream, strict=False):
            network.train()
            recipe.set(optimizer, clock.at(step), size)
            with autocast(_precision(device), device):
                loss = network(batch.to(device)).loss
            loss.backward()
            recipe.clip_gradients(optimizer)
            optimizer.step()
            optimizer.zero_grad()

            if step in looks:
                value = metric.value(metric.score(y, predict(network, validation, loader))[None])
                if best is None or metric.utility(value) >= metric.utility(best):
                    best = value
                    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    if weights is not None:
        network.load_state_dict(weights)
    return best


@torch.no_grad()  # not inference mode: tensors that modules keep from it could not be trained through
def predict(network: LabelledNetwork, items: Sequence[Item], loader: LoaderSettings) -> np.ndarray:
    """Predictions (S,) or (S, L) for items that can all be read; of tokens, in the order of their samples."""
    network.eval()
    device, samples, flags = torch.device(loader.device), items, None
    if network.tokens is not None:
        samples, flags = network.tokens.select(items)

    predictions = []
    for batch in evaluation_batches(samples, loader.reader, loader.batch_size, loader.workers):
        with autocast(_precision(device), device):
            predictions.append(network.predictions(batch.to(device).views[loader.reader.view]).cpu())

    joined = torch.cat(predictions)
    if flags is not None:
        joined = joined[torch.cat(list(flags.values()))]
    return joined.numpy()


@dataclass(frozen=True)
class Contender:
    """A training: its first encoder, by seed, and how many samples it sees, by the training set's size."""

    name: str
    begin: Callable[[int], SavedEncoder]
    samples: Callable[[int], float] = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One label of a task: everything that contenders share. `items`: those that could be read."""

    task: LabelledTask
    data: LabelledData
    split: LabelSplit
    items: Sequence[Item]

    @property
    def pool(self) -> Pool | Literal["token"]:
        return self.data.pool(self.task)

    def network(self, encoder: SavedEncoder, seed: int) -> LabelledNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix("head", self.task.options.seed, seed))
            return LabelledNetwork(encoder, self.split.label, self.pool, self.data.tokens)

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
        return cache_key(self.task, self.data) | {"label": self.split.label.name}


def evaluate_finetune(task: LabelledTask, data: LabelledData) -> dict:
    """Figures of whole networks.

    Raises: UserError where there are too few labels, or a run is not finished.
    """
    table = extract({}, data.samples, task.loader, data.tokens)  # which samples can be read
    splits = data.splits(table.items, task.options)
    contests = contests_of(task, data, splits, table.items)

    trained = Contender("trained", _saved(task.runs), samples=_epochs(task))
    untrained = Contender(RANDOM, _random(task), samples=_epochs(task))
    rival = Contender("compare_to", _saved(task.rivals), samples=_epochs(task))
    supervised, supervised_text = supervised_scores(task, contests)

    ours, baselines, rivals = {}, {}, {}
    for name, contest in contests.items():
        ours[name] = {"chosen": compete(trained, contest)}
        baselines[name] = {
            CONSTANT[contest.split.label.kind]: constant_scores(contest.split),
            RANDOM: compete(untrained, contest).units,
            SUPERVISED: supervised[name],
        }
        if task.rivals:
            rivals[name] = compete(rival, contest).units

    protocol = {
        "probe": "the whole network and a linear head on its pooled features, trained on augmented samples: "
        f"{task.epochs:g} epochs of AdamW, warm-up and half a cosine",
        "selection": f"rate (of {len(RATES)}, by the first seed) and moment to stop on a validation part "
        f"({VALIDATION:.0%}) of the training samples, which is not trained on",
        RANDOM: "the same network untrained, fine-tuned alike",
        SUPERVISED: supervised_text,
    }
    figures = {"ours": ours, "baselines": baselines, "rivals": rivals}
    return compare(task, data, table, splits, **figures, protocol=protocol)


def contests_of(
    task: LabelledTask, data: LabelledData, splits: Mapping[str, LabelSplit], items: Sequence[Item]
) -> dict[str, Contest]:
    """A contest for every label, by its name."""
    contests = {}
    for name, split in splits.items():
        contests[name] = Contest(task=task, data=data, split=split, items=items)
    return contests


def supervised_scores(task: LabelledTask, contests: Mapping[str, Contest]) -> tuple[dict[str, np.ndarray], str]:
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
    units, choices = [], []
    rates: dict[int, float] = {}  # by fold
    for seed in range(contest.split.options.seeds):
        by_fold = []
        for number, fold in enumerate(contest.split.folds):
            candidates = RATES
            if number in rates:
                candidates = (rates[number],)
            scores, choice = _train(contender, contest, fold, seed, candidates)
            assert choice.setting is not None, "a training chooses a rate"
            rates[number] = choice.setting
            by_fold.append(scores)
            choices.append(choice)
        units.append(contest.split.metric.join(by_fold))
    return Scores(np.stack(units), choices)


def pretraining_flops(run: Path, samples: Sequence[Item], loader: LoaderSettings) -> float:
    """FLOPs of a finished run: steps × batch size × forward and backward of the method per sample.

    Counted on training samples of the evaluation, read as in training; compute that `init=` brought along
    is not counted. Raises UserError where the run is not finished.
    """
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
    contender: Contender, contest: Contest, fold: Fold, seed: int, rates: Sequence[float]
) -> tuple[np.ndarray, Choice]:
    """Scores (T, …) after the training whose rate validation prefers.

    From the cache where it was done before.
    """
    task, split = contest.task, contest.split
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
    }

    def train_rates() -> dict[str, np.ndarray]:
        best, arrays = None, {}
        for rate in rates:
            network = contest.network(contender.begin(seed), seed)
            recipe = {"rate": rate, "samples": samples, "seed": mix(seed, 1)}
            value = fit(network, fitting, validation, task.loader, **recipe)
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
        return arrays

    arrays = cached(key, train_rates)
    value = None
    if validation:
        value = float(arrays["validation"])
    return arrays["units"], Choice("learning rate", float(arrays["rate"]), value)


def _nan_deviation(y: Tensor) -> Tensor:
    """Standard deviation (L,) of values (S, L) over known ones; 1 where they do not vary."""
    deviation = (y - y.nanmean(0)).square().nanmean(0).sqrt()
    return torch.where(deviation > 0, deviation, 1.0)


def _epochs(task: LabelledTask) -> Callable[[int], float]:
    return lambda size: task.epochs * size


def _saved(runs: Sequence[Path]) -> Callable[[int], SavedEncoder]:
    return lambda seed: load_encoder(runs[seed % len(runs)])


def _random(task: LabelledTask) -> Callable[[int], SavedEncoder]:
    return lambda seed: random_encoder(task.runs[0], task.options.seed, seed)


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
