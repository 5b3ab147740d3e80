"""A linear probe trained by Adam on all features at once, as graph papers report it: last epoch, and chosen epoch."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class ProbeResult:
    """Test accuracy after the last epoch, and at the latest epoch whose validation accuracy is the highest.

    The two are named apart because the second depends on a validation set; a table says which it shows.
    """

    final: float
    chosen: float
    chosen_epoch: int
    validation: float  # the highest


def adam_probe(
    x: Tensor, y: Tensor, parts: Mapping[str, Tensor], lr: float, weight_decay: float, epochs: int, seed: int = 0
) -> ProbeResult:
    """Multinomial logistic regression by full-batch Adam with L2 decay.

    x (N, D), y (N,) with -1 unknown, parts: (N,) bool for train, validation, test. The features are taken as they are.
    Raises: UserError where a part is empty or test classes are missing in training.
    Source: THUDM/GraphMAE (node classification).
    """
    check_parts(y, parts)
    classes = int(y.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(x.shape[1], classes).to(x.device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr, weight_decay=weight_decay)
    rows = {name: (flag & (y >= 0)).nonzero()[:, 0] for name, flag in parts.items()}
    best, chosen, epoch_of_best, test = -1.0, 0.0, 0, 0.0
    for epoch in range(epochs):
        optimizer.zero_grad()
        F.cross_entropy(layer(x[rows["train"]]), y[rows["train"]]).backward()
        optimizer.step()
        with torch.no_grad():
            validation, test = (_accuracy(layer(x[rows[name]]), y[rows[name]]) for name in ("validation", "test"))
        if validation >= best:
            best, chosen, epoch_of_best = validation, test, epoch
    return ProbeResult(test, chosen, epoch_of_best, best)


def check_parts(y: Tensor, parts: Mapping[str, Tensor]) -> None:
    """Raises UserError naming the part that is missing or empty, or the classes that training lacks."""
    for name in PARTS:
        if name not in parts or not bool((parts[name] & (y >= 0)).any()):
            raise UserError(f"The {name} split has no labelled sample; a probe needs train, validation and test.")
    known = set(y[parts["train"]].tolist())
    lacking = sorted(set(y[parts["test"]].tolist()) - known - {-1})
    if lacking:
        raise UserError(f"Classes {lacking} are tested but have no training sample: split the data anew.")


def random_parts(y: Tensor, shares: tuple[float, float], seed: int) -> dict[str, Tensor]:
    """Train, validation and test flags (N,) at random: `shares` for the first two, the rest is the third."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    ends = (int(len(y) * shares[0]), int(len(y) * sum(shares)))
    spans = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]
    return {n: torch.zeros(len(y), dtype=torch.bool).index_fill(0, s, True) for n, s in zip(PARTS, spans, strict=True)}


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(1) == y).double().mean())
