"""An encoder with a head, trained on the labels of samples or of their tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.sources import Item
from core.evaluation.features import pooled, pooled_width
from core.evaluation.labelled import Label, TokenItems
from core.export import SavedEncoder
from core.interop import ClassifierOptions
from core.tokens import Batch, Progress

SMOOTHING = 0.1  # of class labels
HIDDEN = 256  # units of the head of two hidden layers


@dataclass(frozen=True)
class Output:
    """The part of a forward that training reads."""

    loss: Tensor


class LabelledNetwork(nn.Module):
    """An encoder and a head on its pooled features: raw data of its view -> outputs (B, classes).

    Of other labels an output per question or value. `tokens`: where they carry the labels; outputs are then
    of all tokens. `options.head`: "linear", a norm and a linear layer with small weights, or "mlp", two hidden
    layers. Source: facebookresearch/mae (its fine-tuning on the mean token), Pang-Yatian/Point-MAE.
    """

    def __init__(
        self,
        encoder: SavedEncoder,
        label: Label,
        pool: str,
        tokens: TokenItems | None = None,
        options: ClassifierOptions | None = None,
    ):
        super().__init__()
        self.encoder, self.label, self.tokens = encoder.unfreeze(), label, tokens
        self.pool, self.options = pool, options or ClassifierOptions()
        self.targets: Mapping[str, Tensor] = {}  # of the samples to train on, by key

        width = pooled_width(pool, encoder.embed_dim)
        if self.options.head == "linear":
            self.norm: nn.Module = nn.LayerNorm(width, eps=1e-6)
            self.head: nn.Module = nn.Linear(width, len(label.names))
            nn.init.trunc_normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)
        else:
            self.norm = nn.Identity()
            self.head = mlp_head(width, len(label.names))

        # Values are learned standardised.
        self.register_buffer("mean", torch.zeros(len(label.names)))
        self.register_buffer("scale", torch.ones(len(label.names)))

    def outputs(self, data: Any) -> Tensor:
        return self.head(self.norm(self.features(data)))

    def features(self, data: Any) -> Tensor:
        """Pooled features (B, D), or of all tokens (N, D)."""
        return pooled(self.encoder(data), self.pool)

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
            return F.cross_entropy(outputs, y, ignore_index=-1, label_smoothing=self.smoothing)

        is_known = ~y.isnan()
        if self.label.kind == "answers":
            error = F.binary_cross_entropy_with_logits(outputs, y.nan_to_num(), reduction="none")
        else:
            error = (outputs - (y.nan_to_num() - self.mean) / self.scale).square()
        return (error * is_known).sum() / is_known.sum().clamp(min=1)

    @property
    def smoothing(self) -> float:
        """The share of a label that torch gives to all K classes alike, the true one too.

        ε / (K - 1) for each of the others is ε K / (K - 1) shared out so.
        """
        if self.options.smoothing is None:
            return SMOOTHING
        classes = len(self.label.names)
        return min(1.0, self.options.smoothing * classes / max(classes - 1, 1))

    def predictions(self, data: Any) -> Tensor:
        """Class numbers (B,), answers, 0 or more for yes, or values."""
        outputs = self.outputs(data)
        if self.label.kind == "classes":
            return outputs.argmax(1)
        return outputs.float() * self.scale + self.mean

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of each class, summing to 1 (B, classes), or of a yes to each question.

        Values as they are predicted.
        """
        if self.label.kind == "classes":
            return outputs.float().softmax(1)
        if self.label.kind == "answers":
            return outputs.float().sigmoid()
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
        """Names of parameters that are not decayed although they have more than one dimension."""
        names = [name for name, _ in self.named_parameters()]
        return {name for name in names for ending in self.options.no_weight_decay if fnmatchcase(name, f"*{ending}")}


def mlp_head(width: int, outputs: int) -> nn.Sequential:
    """Twice a linear layer of 256 units, batch norm, ReLU and dropout of a half; then a linear layer.

    Source: Pang-Yatian/Point-MAE (cls_head_finetune).
    """
    layers: list[nn.Module] = []
    for inputs in (width, HIDDEN):
        layers += [nn.Linear(inputs, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, outputs))


def _nan_deviation(y: Tensor) -> Tensor:
    """Standard deviation (L,) of values (S, L) over known ones; 1 where they do not vary."""
    deviation = (y - y.nanmean(0)).square().nanmean(0).sqrt()
    return torch.where(deviation > 0, deviation, 1.0)
