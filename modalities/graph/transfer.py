"""Molecules: an encoder fine-tuned on properties of whole molecules, as transfer learning reports it."""

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.reader import Reader
from core.data.sources import Source
from core.errors import UserError
from core.evaluation.metrics import RocAuc
from core.evaluation.published import Figures, Published, Reported
from core.export import SavedEncoder
from modalities.graph.formats.collection import Collection
from modalities.graph.graphs import Graphs, join
from modalities.graph.nn.molecules import MoleculeGIN
from modalities.graph.reader import collection

SHARES = (0.8, 0.1)  # training and validation
MOLECULES_ENCODED = 256  # at a time
DECAY = 0.3  # of the rate, where it falls


@dataclass(frozen=True, kw_only=True)
class FineTuning(Published):
    """Properties of molecules, by training the encoder too: mean ROC-AUC over tasks, split by scaffold.

    `drop`: dropout of the encoder.
    `decay_every`: epochs after which the rate falls to 0.3 of itself (30 for BACE); None: never.
    """

    epochs: int = 100
    batch_size: int = 32
    lr: float = 1e-3
    drop: float = 0.5
    decay_every: int | None = None
    reported: Reported | None = None

    def __call__(self, encoder: SavedEncoder, reader: Reader, source: Source, seed: int) -> Figures:
        return molecule_transfer(encoder, collection(reader, source), self, seed)


class PropertyHead(nn.Module):
    """An encoder, the mean over each molecule's atoms, and one linear layer.

    Shapes: Graphs of S molecules -> logits (S, T) of `tasks` = T tasks.
    """

    def __init__(self, encoder: SavedEncoder, tasks: int):
        super().__init__()
        self.encoder = encoder.unfreeze()
        self.head = nn.Linear(encoder.embed_dim, tasks)

    def forward(self, molecules: Graphs) -> Tensor:
        return self.head(self.encoder(molecules).pooled)


def molecule_transfer(
    encoder: SavedEncoder, data: Collection, settings: FineTuning | None = None, seed: int = 0
) -> dict[str, float]:
    """Mean ROC-AUC over tasks on test molecules, after the last epoch and at the best epoch on validation.

    Everything is trained, the encoder (a copy) too. Molecules are split by scaffold.
    Raises: UserError where answers or scaffolds are missing, or a part has no task with both answers.
    Source: THUDM/GraphMAE, folder chem.
    """
    settings = settings or FineTuning()
    if not isinstance(encoder.encoder, MoleculeGIN):
        kind = type(encoder.encoder).__name__
        raise UserError(f"Fine-tuning on molecules is for method=graphmae_chem, not {kind}.")
    if data.labels is None or not data.scaffolds:
        raise UserError("Fine-tuning needs answers (1, T) as `y` and a `scaffold` for every molecule.")

    answers = data.labels
    if answers.dim() == 1:
        answers = answers[:, None]
    train, validation, test = scaffold_split(data.scaffolds, SHARES)
    parts = {"validation": validation, "test": test}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PropertyHead(deepcopy(encoder), answers.shape[1]).to(next(encoder.parameters()).device)
        model.encoder.encoder.drop = settings.drop
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, settings.decay_every or settings.epochs, DECAY)

        auc: dict[str, float] = {}
        best, test_at_best = -1.0, 0.0
        for _ in range(settings.epochs):
            _train_epoch(model, optimizer, data.graphs, answers, train, settings.batch_size)
            schedule.step()

            for name, rows in parts.items():
                auc[name] = _roc_auc(model, data.graphs, answers, rows, name)
            if auc["validation"] >= best:
                best, test_at_best = auc["validation"], auc["test"]
    return {"final": auc["test"], "chosen_on_validation": test_at_best}


def scaffold_split(
    scaffolds: Sequence[str],
    shares: tuple[float, float],
) -> tuple[list[int], list[int], list[int]]:
    """Numbers of training, validation and test molecules; those of one scaffold stay together.

    `shares`: of training and validation; the rest is for testing. The largest groups come first, of equal
    ones that whose first molecule comes last; a group goes to the first part that has room for it.
    Source: the published deterministic scaffold split (Hu et al., 2020).
    """
    groups = defaultdict(list)
    for number, name in enumerate(scaffolds):
        groups[name].append(number)
    ordered = sorted(groups.values(), key=lambda group: (len(group), group[0]), reverse=True)

    train_end = shares[0] * len(scaffolds)
    validation_end = sum(shares) * len(scaffolds)
    train, validation, test = [], [], []
    for group in ordered:
        if len(train) + len(group) <= train_end:
            train += group
        elif len(train) + len(validation) + len(group) <= validation_end:
            validation += group
        else:
            test += group
    return train, validation, test


def property_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Mean binary cross entropy over the answers (S, T) that are known: 1 yes, -1 no, 0 unknown.

    In float64, as published.
    """
    is_known = answers != 0
    targets = (answers.double() + 1) / 2
    error = F.binary_cross_entropy_with_logits(logits.double(), targets, reduction="none")
    return torch.where(is_known, error, 0).sum() / is_known.sum().clamp(min=1)


def _train_epoch(
    model: PropertyHead,
    optimizer: torch.optim.Optimizer,
    graphs: Sequence[Graphs],
    answers: Tensor,
    rows: Sequence[int],
    batch_size: int,
) -> None:
    """One pass over the molecules of these rows, in random order."""
    model.train()
    device = model.head.weight.device

    order = torch.tensor(rows)[torch.randperm(len(rows))]
    for part in order.split(batch_size):
        molecules = join([graphs[number] for number in part.tolist()]).to(device)
        optimizer.zero_grad()
        property_loss(model(molecules), answers[part].to(device)).backward()
        optimizer.step()


@torch.no_grad()
def _roc_auc(
    model: PropertyHead,
    graphs: Sequence[Graphs],
    answers: Tensor,
    rows: Sequence[int],
    name: str,
) -> float:
    """Mean over the tasks that have both answers among the molecules of these rows.

    `name`: of the part, for messages. Raises: UserError where no task has both answers.
    """
    model.eval()
    device = model.head.weight.device
    logits = [torch.zeros(0, answers.shape[1])]
    for start in range(0, len(rows), MOLECULES_ENCODED):
        batch = join([graphs[number] for number in rows[start : start + MOLECULES_ENCODED]])
        logits.append(model(batch.to(device)).cpu())

    # The metric takes 1 yes, 0 no, NaN unknown.
    tested = answers[list(rows)].double()
    y = torch.where(tested == 0, torch.nan, (tested > 0).double())
    metric = RocAuc()
    value = metric.value(metric.score(y.numpy(), torch.cat(logits).numpy())[None])

    if np.isnan(value):
        raise UserError(f"The {name} molecules hold no task with both answers; ROC-AUC has no meaning there.")
    return value
