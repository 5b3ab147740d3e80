"""A linear probe where a node may have several labels: binary cross entropy, micro-F1."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from core.evaluation.adam_probe import PARTS, ProbeResult

TOGETHER = 2  # graphs of one step, as published for PPI


def multilabel_probe(
    parts: Mapping[str, Sequence[tuple[Tensor, Tensor]]], lr: float, weight_decay: float, epochs: int, seed: int = 0
) -> ProbeResult:
    """One Adam step for every two training graphs, in fixed order; a label is given where its logit is 0 or more.

    `parts`: by "train", "validation", "test", each graph's features (n, D) and labels (n, T) of 0 and 1, all known.
    Raises: UserError where a part is missing or empty.
    Source: THUDM/GraphMAE (inductive node classification).
    """
    for name in PARTS:
        if not parts.get(name):
            raise UserError(f"The {name} split has no graph; a probe needs train, validation and test.")
    joined = {name: _joined(parts[name], len(parts[name])) for name in PARTS[1:]}
    steps = _joined(parts["train"], TOGETHER)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(steps[0][0].shape[1], steps[0][1].shape[1])
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr, weight_decay=weight_decay)
    best, chosen, epoch_of_best, test = -1.0, 0.0, 0, 0.0
    for epoch in range(epochs):
        for x, y in steps:
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(layer(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            validation, test = (micro_f1(layer(x) >= 0, y > 0) for ((x, y),) in joined.values())
        if validation >= best:
            best, chosen, epoch_of_best = validation, test, epoch
    return ProbeResult(test, chosen, epoch_of_best, best)


def micro_f1(given: Tensor, right: Tensor) -> float:
    """F1 over all labels of all nodes together, both bool; 0 where nothing is given and nothing right."""
    hits = int((given & right).sum())
    return 2 * hits / max(int(given.sum()) + int(right.sum()), 1)


def _joined(graphs: Sequence[tuple[Tensor, Tensor]], together: int) -> list[tuple[Tensor, Tensor]]:
    groups = [graphs[start : start + together] for start in range(0, len(graphs), together)]
    return [(torch.cat([x for x, _ in group]), torch.cat([y for _, y in group])) for group in groups]
