"""Objectives (head, target, loss, reduction) and the readouts they stand under."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, cast

import torch
from torch import Tensor, nn

from core.decoders import Decoder
from core.encoder import initialise
from core.targets import Target
from core.tokens import Rows


class Head(nn.Linear):
    """The linear layer from decoder width to the target's values.

    `init`: "xavier" uniform with zero biases, or "default", torch's own (point clouds).
    """

    def __init__(self, width: int, out: int, init: Literal["xavier", "default"] = "xavier"):
        super().__init__(width, out)
        if init == "xavier":
            initialise(self)


class Objective(nn.Module):
    """Scores predictions at its queries: head -> prediction, target -> values, loss -> error, reduction -> ().

    `reduction`: "global", Σ(error · weight) / Σ weight over the batch; "sample", the mean of that ratio over samples
    that have any weight. All-zero weight gives 0, and so does a query without rows.
    """

    def __init__(
        self,
        target: Target,
        loss: Callable[[Tensor, Tensor], Tensor],
        head: nn.Module | None = None,
        queries: list[str] | None = None,
        reduction: Literal["global", "sample"] = "global",
        weight: float = 1.0,
    ):
        super().__init__()
        self.target, self.loss, self.head = target, loss, head
        self.queries = tuple(queries or ["main"])
        self.reduction, self.weight = reduction, weight

    def predict(self, features: Tensor) -> Tensor:
        return features if self.head is None else self.head(features)

    def reduce(self, error: Tensor, weight: Tensor | None, rows: Rows | None) -> Tensor:
        """error (B, M) or (B, M, P), weight broadcastable to it, padding left out -> scalar."""
        if rows is not None and rows.valid is not None:
            valid = rows.valid.to(error.dtype).reshape(rows.valid.shape + (1,) * (error.dim() - 2))
            if weight is not None:
                valid = weight * valid
            weight = valid

        if weight is None:
            if not error.numel():
                return error.sum()
            return error.mean()

        weight = weight.expand_as(error)
        # Zero weight times an infinite error must not make the sum NaN.
        error = torch.where(weight == 0, 0, error) * weight
        least = torch.finfo(error.dtype).tiny

        if self.reduction == "global":
            return error.sum() / weight.sum().clamp(min=least)

        error, weight = error.flatten(1).sum(1), weight.flatten(1).sum(1)
        return (error / weight.clamp(min=least)).sum() / (weight > 0).sum().clamp(min=1)


class Readout(nn.Module):
    """One decoding of a latent and the objectives that read it. No decoder: the latent itself, or a tap of it.

    `reads`: the latent's name, where a method has several; `view`: whose tokens are predicted (default the same).
    """

    def __init__(
        self,
        decoder: Decoder | None = None,
        objectives: Mapping[str, Objective] = MappingProxyType({}),
        reads: str | None = None,
        view: str | None = None,
        tap: str | None = None,
    ):
        super().__init__()
        self.decoder = decoder
        self.objectives = cast(dict[str, Objective], nn.ModuleDict(objectives))  # its values have no type of their own
        self.reads, self.view, self.tap = reads, view, tap

    @property
    def taps(self) -> tuple[str, ...]:
        """The block outputs it needs of the encoder besides the final features."""
        if self.decoder is not None:
            return self.decoder.taps
        return () if self.tap is None else (self.tap,)

    def latent_name(self, latents: Mapping) -> str:
        """The name of the latent it reads: `reads`, else the first of them."""
        return self.reads or next(iter(latents))
