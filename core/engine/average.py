"""Exponential moving average of the trained weights."""

import torch
from torch import Tensor, nn


class WeightEMA:
    """Running mean of every trainable parameter: a ← m·a + (1 − m)·w after each step; off when `momentum` is None."""

    def __init__(self, method: nn.Module, momentum: float | None):
        self.momentum = momentum
        trained = {} if momentum is None else {n: p for n, p in method.named_parameters() if p.requires_grad}
        self.weights = {name: p.detach().clone() for name, p in trained.items()}
        self._trained = list(trained.values())

    @torch.no_grad()
    def update(self) -> None:
        if self.weights:
            torch._foreach_lerp_(list(self.weights.values()), self._trained, 1 - self.momentum)

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        for name, mean in self.weights.items():
            mean.copy_(weights[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Puts the means into the method, once training is over."""
        for parameter, mean in zip(self._trained, self.weights.values(), strict=True):
            parameter.copy_(mean)
