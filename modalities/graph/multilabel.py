"""A linear probe where a node may have several labels: binary cross entropy, micro-F1."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from core.evaluation.metrics import MicroF1
from core.evaluation.probes import PARTS, ProbeResult, seeded_linear, train_probe

GRAPHS_PER_STEP = 2  # as published for PPI


def multilabel_probe(
    parts: Mapping[str, Sequence[tuple[Tensor, Tensor]]],
    *,
    lr: float,
    weight_decay: float,
    epochs: int,
    seed: int = 0,
) -> ProbeResult:
    """One Adam step for every two training graphs, in fixed order.

    A label is given where its logit is 0 or more.

    `parts`: by "train", "validation", "test", each graph's features (n, D) and labels (n, L) of 0 and 1,
    all known.
    Raises: UserError where a part is missing or empty.
    Source: THUDM/GraphMAE (inductive node classification).
    """
    for name in PARTS:
        if not parts.get(name):
            raise UserError(f"The {name} split has no graph; a probe needs train, validation and test.")

    metric = MicroF1()
    graphs = {name: _joined(parts[name]) for name in PARTS[1:]}
    losses = []
    for start in range(0, len(parts["train"]), GRAPHS_PER_STEP):
        losses.append(partial(_loss, *_joined(parts["train"][start : start + GRAPHS_PER_STEP])))

    def micro_f1(layer: nn.Linear, part: str) -> float:
        x, y = graphs[part]
        return metric.value(metric.score(y.numpy(), layer(x).numpy())[None])

    x, y = graphs["test"]
    layer = seeded_linear(x.shape[1], y.shape[1], seed)
    return train_probe(layer, losses, micro_f1, lr=lr, weight_decay=weight_decay, epochs=epochs)


def _loss(x: Tensor, y: Tensor, layer: nn.Linear) -> Tensor:
    return F.binary_cross_entropy_with_logits(layer(x), y)


def _joined(graphs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Features and labels of several graphs as one."""
    features, labels = zip(*graphs, strict=True)
    return torch.cat(features), torch.cat(labels)
