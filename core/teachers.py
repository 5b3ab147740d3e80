"""Teachers: whatever says something of a batch that the method learns from, or is masked by."""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from core.methods.masked_autoencoder import MaskedAutoencoder, MovingTeacher
from core.tokens import ForwardContext, Progress


class EMATeacher(MovingTeacher):
    """Running means of parts of the method: a ← m·a + (1 − m)·w, between the gradients and the optimiser's step.

    `parts`: where they are, by the name they get in `copies`. Parameters are averaged, buffers stay those of the start.
    From epoch `delay` on; `momentum` 1 keeps the start, 0 makes them lag by one step.
    """

    def __init__(self, parts: Mapping[str, str], momentum: float, delay: float = 0.0):
        super().__init__()
        self.parts, self.momentum, self.delay = dict(parts), momentum, delay
        self.copies = nn.ModuleDict()

    def follow(self, method: MaskedAutoencoder) -> None:
        copies = {name: copy.deepcopy(method.get_submodule(path)) for name, path in self.parts.items()}
        self.copies = nn.ModuleDict(copies).requires_grad_(False)

    @torch.no_grad()
    def before_step(self, method: MaskedAutoencoder, progress: Progress) -> None:
        if progress.epoch < self.delay:
            return
        for name, path in self.parts.items():
            means = dict(self.copies[name].named_parameters())
            weights = dict(method.get_submodule(path).named_parameters())
            torch._foreach_lerp_(list(means.values()), [weights[n] for n in means], 1 - self.momentum)

    @abstractmethod
    def forward(self, ctx: ForwardContext) -> Any: ...
