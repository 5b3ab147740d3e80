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
from core.evaluation.published import Figures, Published
from core.export import SavedEncoder
from modalities.graph.formats.collection import Collection
from modalities.graph.graphs import Graphs, join
from modalities.graph.nn.molecules import MoleculeGIN
from modalities.graph.reader import collection

SHARES = (0.8, 0.1)  # training and validation
MOLECULES_ENCODED = 256  # at a time


@dataclass(frozen=True)
class FineTuning(Published):
    """Properties of molecules, by training the encoder too: mean ROC-AUC over tasks, split by scaffold.

    `decay_every`: epochs after which the rate falls to 0.3 of itself (30 for BACE).
    """

    epochs: int = 100
    batch_size: int = 32
    lr: float = 1e-3
    drop: float = 0.5
    decay_every: int | None = None

    def __call__(self, encoder: SavedEncoder, reader: Reader, source: Source, seed: int) -> Figures:
        return molecule_transfer(encoder, collection(reader, source), self, seed)


class PropertyHead(nn.Module):
    """An encoder, the mean over each molecule's atoms, and one linear layer: (S, T) logits."""

    def __init__(self, encoder: SavedEncoder, tasks: int):
        super().__init__()
        self.encoder, self.head = encoder.unfreeze(), nn.Linear(encoder.embed_dim, tasks)

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
        raise UserError(f"Fine-tuning on molecules is for method=graphmae_chem, not {type(encoder.encoder).__name__}.")
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
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, settings.decay_every or settings.epochs, 0.3)

        best, test_at_best, auc = -1.0, 0.0, {}
        for _ in range(settings.epochs):
            _train_epoch(model, optimizer, data.graphs, answers, train, settings.batch_size)
            schedule.step()
            auc = {name: _roc_auc(model, data.graphs, answers, rows, name) for name, rows in parts.items()}
            if auc["validation"] >= best:
                best, test_at_best = auc["validation"], auc["test"]
    return {"final": auc["test"], "chosen_on_validation": test_at_best}


def scaffold_split(
    scaffolds: Sequence[str],
    shares: tuple[float, float],
) -> tuple[list[int], list[int], list[int]]:
    """Numbers of training, validation and test molecules; those of one scaffold stay together.

    The largest groups come first, of equal ones that whose first molecule comes last; a group goes to the
    first part it fits into. Source: the published deterministic scaffold split (Hu et al., 2020).
    """
    groups = defaultdict(list)
    for number, name in enumerate(scaffolds):
        groups[name].append(number)

    ends = (shares[0] * len(scaffolds), sum(shares) * len(scaffolds))
    train, validation, test = [], [], []
    for group in sorted(groups.values(), key=lambda g: (len(g), g[0]), reverse=True):
        if len(train) + len(group) <= ends[0]:
            train += group
        elif len(train) + len(validation) + len(group) <= ends[1]:
            validation += group
        else:
            test += group
    return train, validation, test


def property_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Mean binary cross entropy over known answers (1 yes, -1 no, 0 unknown), (S, T), in float64 as published."""
    is_known = answers != 0
    error = F.binary_cross_entropy_with_logits(logits.double(), (answers.double() + 1) / 2, reduction="none")
    return torch.where(is_known, error, 0).sum() / is_known.sum().clamp(min=1)


def _train_epoch(
    model: PropertyHead,
    optimizer: torch.optim.Optimizer,
    graphs: Sequence[Graphs],
    answers: Tensor,
    rows: Sequence[int],
    batch_size: int,
) -> None:
    model.train()
    device = model.head.weight.device
    order = torch.tensor(rows)[torch.randperm(len(rows))]
    for part in order.split(batch_size):
        optimizer.zero_grad()
        logits = model(join([graphs[i] for i in part.tolist()]).to(device))
        property_loss(logits, answers[part].to(device)).backward()
        optimizer.step()


@torch.no_grad()
def _roc_auc(
    model: PropertyHead,
    graphs: Sequence[Graphs],
    answers: Tensor,
    rows: Sequence[int],
    name: str,
) -> float:
    """Mean over the tasks that have both answers among these molecules."""
    model.eval()
    logits = [torch.zeros(0, answers.shape[1])]
    for start in range(0, len(rows), MOLECULES_ENCODED):
        batch = join([graphs[i] for i in rows[start : start + MOLECULES_ENCODED]])
        logits.append(model(batch.to(model.head.weight.device)).cpu())

    tested = answers[list(rows)].double()
    y = torch.where(tested == 0, torch.nan, (tested > 0).double())
    metric = RocAuc()
    value = metric.value(metric.score(y.numpy(), torch.cat(logits).numpy())[None])
    if np.isnan(value):
        raise UserError(f"The {name} molecules hold no task with both answers; ROC-AUC has no meaning there.")
    return value
