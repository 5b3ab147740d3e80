"""Teachers: modules that map a forward's context to targets or scores and are not trained by its loss."""

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.tokens import ForwardContext, Progress


class MovingTeacher(nn.Module):
    """A teacher that changes while the method trains (an average of its weights, say); saved with it, for resuming."""

    def follow(self, method: nn.Module) -> None:
        """Called when the method's other parts are complete, and again when other weights were loaded into them."""

    def before_step(self, method: nn.Module, progress: Progress) -> None: ...

    def after_step(self, method: nn.Module, progress: Progress) -> None: ...


class EMATeacher(MovingTeacher):
    """Running means of parts of the method: a ← m·a + (1 − m)·w, between the gradients and the optimiser's step.

    `parts`: paths of the parts by the names they get in `copies`. Parameters are averaged, buffers stay those of the
    start. From epoch `delay` on; `momentum` 1 keeps the start, 0 makes the copies lag by one step.
    """

    def __init__(self, parts: Mapping[str, str], momentum: float, delay: float = 0.0):
        super().__init__()
        self.parts, self.momentum, self.delay = dict(parts), momentum, delay
        self.copies = nn.ModuleDict()

    def follow(self, method: nn.Module) -> None:
        copies = nn.ModuleDict()
        for name, path in self.parts.items():
            copies[name] = copy.deepcopy(method.get_submodule(path))
        self.copies = copies.requires_grad_(False)

    @torch.no_grad()
    def before_step(self, method: nn.Module, progress: Progress) -> None:
        if progress.epoch < self.delay:
            return

        for name, path in self.parts.items():
            means = dict(self.copies[name].named_parameters())
            weights = dict(method.get_submodule(path).named_parameters())
            move_means(means.values(), [weights[key] for key in means], self.momentum)

    @abstractmethod
    def forward(self, ctx: ForwardContext) -> Any: ...


def weights_hash(teacher: nn.Module) -> str | None:
    """SHA-256 of a teacher's tensors, with their names, types and shapes; None for one without any."""
    tensors = teacher.state_dict()
    if not tensors:
        return None

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def move_means(means: Iterable[Tensor], weights: Iterable[Tensor], momentum: float) -> None:
    """One step of a running mean, in place: a ← m·a + (1 − m)·w."""
    # One fused kernel per device; torch has no public name for it.
    torch._foreach_lerp_(list(means), list(weights), 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]
