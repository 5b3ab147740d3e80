"""Convolutional networks on visible patches alone: they stand one above another, windows see hidden ones as zeros.

A map (B, C, gh·s, gw·s) of which V patches are visible is kept as a *stack* (B, C, V·s, s). Whatever works position by
position, or takes statistics over a sample or the batch (every normalisation, squeeze-excite, global response), then
runs on visible positions only, unchanged. Layers whose windows reach beyond a patch are swapped: they put the patches
back in their places, work there, and take the visible ones again.
Convolutions may instead run through spconv (`sparse`), with the same numbers.
Source: keyu-tian/SparK, whose dense maps times a mask give the same numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from threading import RLock
from typing import Any

import torch
import torch.utils.checkpoint
from timm.layers import AvgPool2dSame
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from modalities.image import sparse


class _Take(torch.autograd.Function):
    """Rows of a matrix by distinct numbers. The gradient is put back without adding up, which is much faster."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return g.new_zeros(ctx.count, g.shape[1]).index_copy_(0, index, g), None


class _Put(torch.autograd.Function):
    """The inverse of `_Take`: rows that are not named hold `fill`."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, count: int, fill: float) -> Tensor:
        ctx.save_for_backward(index)
        return x.new_full((count, x.shape[1]), fill).index_copy_(0, index, x)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None, None]:
        (index,) = ctx.saved_tensors
        return g.index_select(0, index), None, None, None


class Visible:
    """Which patches of a grid are visible: `index` (B, V), flat and row-major, the same number for every sample.

    `sparsely`: convolutions run through spconv, which must have them all.
    """

    def __init__(self, index: Tensor, grid: tuple[int, int], sparsely: bool = False):
        self.index, self.grid, self.sparsely = index, grid, sparsely
        self.rules: dict[tuple, tuple] = {}  # of `sparse`, by the kind of convolution
        self._strips: dict[int, Tensor] = {}

    @property
    def count(self) -> int:
        return self.index.shape[1]

    def spread(self, stack: Tensor, fill: float = 0.0) -> Tensor:
        """A stack (B, C, V·h, w) as a map (B, C, gh·h, gw·w); hidden places hold `fill`."""
        batch, channels, height, w = stack.shape
        h, (rows, columns) = _share(height, self.count), self.grid
        strips = stack.permute(0, 2, 3, 1).reshape(batch * height, w * channels)
        whole = _Put.apply(strips, self.strips(h), batch * rows * h * columns, fill)
        return whole.view(batch, rows * h, columns * w, channels).permute(0, 3, 1, 2)

    def gather(self, x: Tensor) -> Tensor:
        """The visible patches of a map (B, C, gh·h, gw·w) as a stack (B, C, V·h, w)."""
        batch, channels, height, width = x.shape
        h, w = _share(height, self.grid[0]), _share(width, self.grid[1])
        strips = x.permute(0, 2, 3, 1).reshape(batch * height * self.grid[1], w * channels)
        taken = _Take.apply(strips, self.strips(h))
        return taken.view(batch, self.count * h, w, channels).permute(0, 3, 1, 2)

    def strips(self, h: int) -> Tensor:
        """(B·V·h,): the numbers of the visible patches' rows among (sample, grid row, row within, grid column)."""
        if h not in self._strips:
            line, column = self.index // self.grid[1], self.index % self.grid[1]
            sample = torch.arange(len(self.index), device=self.index.device)[:, None, None]
            within = torch.arange(h, device=self.index.device)
            number = (sample * self.grid[0] + line[..., None]) * h + within
            self._strips[h] = (number * self.grid[1] + column[..., None]).flatten()
        return self._strips[h]

    def positions(self, h: int, w: int) -> Tensor:
        """(B, V·h·w): flat row-major numbers, on the map of patches (h, w), of the stack's positions in order."""
        line, column = self.index // self.grid[1], self.index % self.grid[1]
        y = line[..., None] * h + torch.arange(h, device=self.index.device)
        x = column[..., None] * w + torch.arange(w, device=self.index.device)
        return (y[..., None] * (self.grid[1] * w) + x[:, :, None]).flatten(1)


def _share(side: int, patches: int) -> int:
    if side % patches:
        raise ValueError(f"a layer makes {side} rows or columns of {patches} patches")
    return side // patches


# Set for the duration of an encoder's call only: layers hold no mask, so that a copy or a second call sees none.
_VISIBLE: ContextVar[Visible | None] = ContextVar("visible", default=None)


@contextmanager
def only(visible: Visible | None) -> Iterator[None]:
    """Within, maps are stacks of these patches; None: ordinary maps."""
    token = _VISIBLE.set(visible)
    try:
        yield
    finally:
        _VISIBLE.reset(token)


_PATCHING = RLock()


@contextmanager
def carried(network: nn.Module) -> Iterator[None]:
    """Within, what timm's blocks will compute again in the backward pass takes the mask along.

    They ask for it by set_grad_checkpointing, and call torch.utils.checkpoint.checkpoint, which knows no context.
    """
    if not any(getattr(layer, "grad_checkpointing", False) for layer in network.modules()):
        yield
        return
    with _PATCHING:
        plain = torch.utils.checkpoint.checkpoint
        torch.utils.checkpoint.checkpoint = _carrying(plain)
        try:
            yield
        finally:
            torch.utils.checkpoint.checkpoint = plain


def _carrying(checkpoint: Callable) -> Callable:
    @wraps(checkpoint)
    def carrying(function: Callable, *args: Any, **kwargs: Any) -> Any:
        visible = _VISIBLE.get()

        def again(*given: Any, **more: Any) -> Any:
            with only(visible):
                return function(*given, **more)

        return checkpoint(again, *args, **kwargs)

    return carrying


class _Window(nn.Module):
    """A convolution that reads hidden neighbours as zeros, as it does what lies outside the picture."""

    def forward(self, x: Tensor) -> Tensor:
        visible = _VISIBLE.get()
        if visible is None:
            return super().forward(x)
        if visible.sparsely:
            return sparse.convolve(self, x, visible)
        return visible.gather(super().forward(visible.spread(x)))


class _Maximum(nn.Module):
    """A max pooling that leaves hidden neighbours out, as it does what lies outside the picture."""

    def forward(self, x: Tensor) -> Tensor:
        visible = _VISIBLE.get()
        if visible is None:
            return super().forward(x)
        return visible.gather(super().forward(visible.spread(x, -torch.inf)))


class _Mean(nn.Module):
    """An average pooling that counts hidden neighbours exactly where it counts what lies outside the picture."""

    def forward(self, x: Tensor) -> Tensor:
        visible = _VISIBLE.get()
        if visible is None:
            return super().forward(x)
        mean = visible.gather(super().forward(visible.spread(x)))
        if self.count_include_pad or isinstance(self, AvgPool2dSame):  # that one adds zeros itself, which then count
            return mean
        return mean / visible.gather(super().forward(visible.spread(torch.ones_like(x[:, :1]))))


@cache
def _swapped(rule: type[nn.Module], kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Visible{kind.__name__}", (rule, kind), {})


def swap(network: nn.Module) -> None:
    """Gives every layer whose windows reach beyond a patch its class for visible patches. Weights and names stay."""
    for layer in network.modules():
        rule = rule_for(layer)
        if rule is not None and reaches(layer):
            layer.__class__ = _swapped(rule, type(layer))


def runs_sparsely(network: nn.Module, x: Tensor) -> bool:
    """Whether spconv takes the place of dense maps: it has all of the network's windows, on this device and type."""
    windows = (layer for layer in network.modules() if isinstance(layer, _Window))
    return sparse.exact(x) and sparse.engine() is not None and all(map(sparse.has, windows))


def rule_for(layer: nn.Module) -> type[nn.Module] | None:
    """How a layer of windows deals with hidden neighbours; None for layers of other kinds."""
    if isinstance(layer, _Window | _Maximum | _Mean):
        return None
    rules = ((nn.Conv2d, _Window), (nn.MaxPool2d, _Maximum), (nn.AvgPool2d, _Mean))
    return next((rule for kind, rule in rules if isinstance(layer, kind)), None)


def reaches(layer: _ConvNd | _MaxPoolNd | _AvgPoolNd) -> bool:
    """Whether a window reaches beyond its own block of `stride` positions (which lies within a patch)."""
    dilation = (1, 1) if isinstance(layer, _AvgPoolNd) else _two(layer.dilation)
    spans = [(k - 1) * d + 1 for k, d in zip(_two(layer.kernel_size), dilation, strict=True)]
    beyond = any(span > step for span, step in zip(spans, _two(layer.stride), strict=True))
    # Some of timm's layers pad by themselves; where a window is as long as its stride, there is nothing to pad.
    return beyond or (layer.padding != "same" and any(_two(layer.padding)))


def _two(x: int | tuple[int, ...]) -> tuple[int, ...]:
    return (x, x) if isinstance(x, int) else tuple(x)
