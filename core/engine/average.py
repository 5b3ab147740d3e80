"""Exponential moving average of the trained weights."""

import torch
from torch import Tensor, nn

from core.teachers import move_means


class WeightEMA:
    """Running mean of every trainable parameter: a ← m·a + (1 − m)·w after each step; off when `momentum` is None."""

    def __init__(self, method: nn.Module, momentum: float | None):
        self.momentum = momentum
        self.weights: dict[str, Tensor] = {}
        self._parameters: list[Tensor] = []
        if momentum is None:
            return

        for name, parameter in method.named_parameters():
            if parameter.requires_grad:
                self.weights[name] = parameter.detach().clone()
                self._parameters.append(parameter)

    @torch.no_grad()
    def update(self) -> None:
        if self.momentum is not None and self.weights:
            move_means(self.weights.values(), self._parameters, self.momentum)

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        for name, mean in self.weights.items():
            mean.copy_(weights[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Puts the means into the method, once training is over."""
        for parameter, mean in zip(self._parameters, self.weights.values(), strict=True):
            parameter.copy_(mean)
