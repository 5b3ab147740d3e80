"""Optimisers, parameter groups and the learning rate, as `optim=` configures them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Literal, Protocol

import timm.optim
import torch
from torch import Tensor, nn

from core.errors import UserError
from core.tokens import Progress


class Trainable(Protocol):
    """A module that names those of its parameters that are not decayed."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def no_weight_decay(self) -> Set[str]: ...


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """The recipe of the updates: the rate's course, decay, clipping, accumulation, averaging.

    Peak rate = `lr`, or base_lr · batch_size / 256. Linear warm-up from `warmup_start` of it, then half a
    cosine down to `min_lr` (an absolute rate), read before every step. Source of the defaults: MAE,
    pre-training (40 warm-up epochs of 800).

    `schedule=epochs` changes the rate once an epoch, to that of the epoch before (the first two have the first rate),
    and its cosine begins with the run, below the warm-up: timm's scheduler as Point-MAE steps it.
    """

    base_lr: float = 1.5e-4  # peak rate for a batch of 256 samples
    lr: float | None = None  # peak rate; None: by base_lr
    min_lr: float = 0.0  # rate at which the cosine ends
    schedule: Literal["cosine", "epochs", "constant"] = "cosine"  # of the rate after the warm-up
    schedule_epochs: float | None = None  # length of the rate's course; None: that of the run
    warmup_epochs: float | None = None  # length of the linear warm-up, in epochs
    warmup_steps: int | None = None  # the same in steps
    warmup_share: float = 0.05  # of the run; used where neither epochs nor steps are given
    warmup_start: float = 0.0  # share of the peak that the first step has
    betas: tuple[float, float] = (0.9, 0.95)  # momenta of the means of gradient and square
    eps: float = 1e-8  # added to the denominator
    weight_decay: float = 0.05  # times the rate, in every step
    weight_decay_end: float | None = None  # where a cosine takes it (I-JEPA); None: constant
    decay_all: bool = False  # False: neither 1-D tensors, biases, nor what the method exempts
    clip: float | None = None  # largest norm of the gradient
    accumulate: int = 1  # parts that a step's batch is cut into
    ema: float | None = None  # momentum of averaged weights, which are then the ones exported

    def __post_init__(self):
        if self.warmup_epochs is not None and self.warmup_steps is not None:
            raise UserError("optim.warmup_epochs and optim.warmup_steps are both set; set one of them to null.")
        if self.schedule not in ("cosine", "epochs", "constant"):
            raise UserError(f"optim.schedule={self.schedule} is unknown; choose cosine, epochs or constant.")
        if self.schedule_epochs is not None and not self.schedule_epochs > 0:
            raise UserError(f"optim.schedule_epochs={self.schedule_epochs} must be above 0, or null.")
        for name in ("base_lr", "lr", "min_lr", "weight_decay", "warmup_steps", "warmup_epochs", "clip", "eps"):
            value = getattr(self, name)
            if value is not None and not value >= 0:  # refuses NaN too
                raise UserError(f"optim.{name}={value} must be 0 or above.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas={list(self.betas)} must be from 0 to below 1.")
        if self.accumulate < 1:
            raise UserError(f"optim.accumulate={self.accumulate} must be at least 1.")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UserError(f"optim.ema={self.ema} must be from 0 to below 1, or null.")

    @abstractmethod
    def over(self, groups: list[dict]) -> torch.optim.Optimizer:
        """The optimiser of these parameter groups."""

    def optimizer(self, method: Trainable) -> torch.optim.Optimizer:
        exempt: Set[str] = frozenset()
        if not self.decay_all:
            exempt = method.no_weight_decay()
        return self.over(parameter_groups(method, self.weight_decay, exempt, self.decay_all))

    def peak(self, batch_size: int) -> float:
        """The rate at the end of the warm-up."""
        if self.lr is not None:
            return self.lr
        return self.base_lr * batch_size / 256

    def warmup(self, progress: Progress) -> float:
        """Length of the warm-up in steps, possibly fractional."""
        if self.warmup_epochs is not None:
            return self.warmup_epochs * progress.steps / progress.epochs
        if self.warmup_steps is not None:
            return self.warmup_steps
        return self.warmup_share * progress.steps

    def rate(self, progress: Progress, batch_size: int) -> float:
        """The learning rate of the step that is about to be taken."""
        peak, floor = self.peak(batch_size), self.min_lr
        if self.schedule == "constant":
            floor = peak
        start = self.warmup_start * peak
        total = self.schedule_epochs or progress.epochs

        if self.schedule == "epochs":
            warmup = self.warmup(progress) * progress.epochs / progress.steps
            before = max(math.floor(progress.epoch) - 1, 0)
            return learning_rate(before, warmup, total, peak, floor, start, cosine_from=0.0)
        if self.warmup_epochs is not None:  # in epochs, as published, to the last bit
            return learning_rate(progress.epoch, self.warmup_epochs, total, peak, floor, start)
        steps = progress.steps
        if self.schedule_epochs is not None:
            steps *= self.schedule_epochs / progress.epochs
        return learning_rate(progress.step, self.warmup(progress), steps, peak, floor, start)

    def set(self, optimizer: torch.optim.Optimizer, progress: Progress, batch_size: int) -> float:
        """Writes the step's rate and decay into the groups and returns the rate."""
        rate, decay = self.rate(progress, batch_size), self.weight_decay
        if self.weight_decay_end is not None:
            decay = half_cosine(progress.step / progress.steps, decay, self.weight_decay_end)

        for group in optimizer.param_groups:
            group["lr"] = rate
            group["weight_decay"] = 0.0
            if group["decayed"]:
                group["weight_decay"] = decay
        return rate

    def clip_gradients(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Norm of all gradients before clipping, (), on the device."""
        parameters = []
        for group in optimizer.param_groups:
            parameters += [p for p in group["params"] if p.grad is not None]

        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        return norm


@dataclass(frozen=True, kw_only=True)
class AdamW(Recipe):
    """Decay apart from the gradient (fused kernel)."""

    def over(self, groups: list[dict]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=0.0, betas=self.betas, eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class Adam(Recipe):
    """Decay as a part of the gradient, L2 (fused kernel). GraphMAE's."""

    def over(self, groups: list[dict]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=0.0, betas=self.betas, eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class Lamb(Recipe):
    """AdamW whose step is rescaled to the size of each decayed weight (You et al., 2020). SparK's."""

    def over(self, groups: list[dict]) -> torch.optim.Optimizer:
        return _Lamb(groups, lr=0.0, betas=self.betas, eps=self.eps, max_grad_norm=None)


class _Lamb(timm.optim.Lamb):  # pyright: ignore[reportPrivateImportUsage]  # public
    """timm's counts the steps of a group; here each weight has the count too, where checkpoints read it."""

    def step(self, closure: Callable | None = None) -> Tensor | None:
        for group in self.param_groups:
            for p in group["params"]:
                if self.state.get(p):  # all weights of a group have taken the same steps
                    group["step"] = self.state[p]["step"].clone()
                    break

        loss = super().step(closure)

        for group in self.param_groups:
            for p in group["params"]:
                if self.state.get(p):
                    self.state[p]["step"] = group["step"].clone()
        return loss


def learning_rate(
    done: float,
    warmup: float,
    total: float,
    peak: float,
    floor: float,
    start: float = 0.0,
    cosine_from: float | None = None,
) -> float:
    """Linear from `start` to `peak` at `warmup`, half a cosine to `floor` at `total`, then that; steps or epochs.

    `cosine_from`: where the cosine has its peak, None: at the end of the warm-up; 0 as in timm's CosineLRScheduler.
    """
    if done < warmup:
        return start + (peak - start) * done / warmup
    if cosine_from is None:
        cosine_from = warmup
    return half_cosine(min(1.0, (done - cosine_from) / max(total - cosine_from, 1e-12)), peak, floor)


def half_cosine(share: float, start: float, end: float) -> float:
    """From `start` at share 0 to `end` at share 1."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))


def parameter_groups(method: Trainable, decay: float, exempt: Set[str], decay_all: bool = False) -> list[dict]:
    """Two groups of named, trainable parameters: decayed and not. `exempt` names more that are not."""
    decayed, plain = [], []
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            is_plain = parameter.ndim <= 1 or name.endswith("bias") or name in exempt
            if is_plain and not decay_all:
                plain.append((name, parameter))
            else:
                decayed.append((name, parameter))

    if not decayed and not plain:
        raise UserError("The method has no trainable parameter.")

    groups = [
        {"params": decayed, "weight_decay": decay, "decayed": True},
        {"params": plain, "weight_decay": 0.0, "decayed": False},
    ]
    return [group for group in groups if group["params"]]
