"""Convolution and pooling over the visible patches of a grid, for any number A of spatial axes.

A map (B, C, g₁·p₁, …, g_A·p_A) is a grid of g₁ × … × g_A patches of p₁ × … × p_A positions. Where V patches
of every sample are visible, only these are stored: the *stack* (B, C, V·p₁, p₂, …, p_A), patch after patch.

Layers that work position by position, or take statistics over a sample or the batch (every normalisation,
squeeze-excite, global response), run on a stack unchanged and so use visible positions alone. Layers whose
windows reach beyond a patch get a masked class by `mask_windows`. Within `masked_to(patches)` these scatter the
stack into a map, run there, and gather the visible patches again; elsewhere they are the ordinary layers:

    mask_windows(network, axes=3)
    patches = VisiblePatches(index, grid)
    with masked_to(patches):
        stack = network(patches.gather(volume))

On CUDA, convolutions may run through spconv instead, from a rule book, with the same numbers.
Source: keyu-tian/SparK, which computes the same numbers on dense maps times a mask.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from math import prod
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Layers with windows, by the number of spatial axes.
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MAX_POOLINGS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOLINGS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}

# A layer of one of these classes, or of a library's own class with the same attributes; torch has no common type.
Layer: TypeAlias = Any


# Visible patches --------------------------------------------------------------------------------------------


class VisiblePatches:
    """The visible patches of a grid: flat row-major cells `index` (B, V), the same number V for every sample.

    A network's total stride must divide the patches of the map that goes in.
    `use_spconv`: convolutions run through spconv, which must support all of them (`spconv_applies`).
    """

    def __init__(self, index: Tensor, grid: Sequence[int], use_spconv: bool = False):
        self.index = index
        self.grid = tuple(grid)
        self.use_spconv = use_spconv

        # Computed at the first layer that needs them, by the size of patches and the kind of convolution.
        self.rule_books: dict[tuple, RuleBook] = {}
        self._strip_numbers: dict[tuple[int, ...], Tensor] = {}

    @property
    def count(self) -> int:
        """V."""
        return self.index.shape[1]

    def map_sides(self, patch: Sequence[int]) -> tuple[int, ...]:
        """(g₁·p₁, …, g_A·p_A)."""
        return tuple(cells * size for cells, size in zip(self.grid, patch, strict=True))

    def patch_size(self, stack: Tensor) -> tuple[int, ...]:
        """(p₁, …, p_A) of a stack (B, C, V·p₁, p₂, …, p_A)."""
        return _divide(stack.shape[2], self.count), *stack.shape[3:]

    def scatter(self, stack: Tensor, fill: float = 0.0) -> Tensor:
        """(B, C, V·p₁, p₂, …, p_A) -> (B, C, g₁·p₁, …, g_A·p_A); hidden positions hold `fill`."""
        batch, channels = stack.shape[:2]
        *outer, last = self.patch_size(stack)

        # With channels last, `last` neighbouring positions are one strip of memory, which moves as a whole.
        strips = stack.movedim(1, -1).reshape(batch * self.count * prod(outer), last * channels)
        count = batch * prod(self.grid) * prod(outer)
        strips = _ScatterRows.apply(strips, self._strips(tuple(outer)), count, fill)

        return strips.view(batch, *self.map_sides((*outer, last)), channels).movedim(-1, 1)

    def gather(self, x: Tensor) -> Tensor:
        """(B, C, g₁·p₁, …, g_A·p_A) -> (B, C, V·p₁, p₂, …, p_A), the inverse of `scatter` at visible patches."""
        batch, channels = x.shape[:2]
        *outer, last = [_divide(side, cells) for side, cells in zip(x.shape[2:], self.grid, strict=True)]

        strips = x.movedim(1, -1).reshape(batch * prod(self.grid) * prod(outer), last * channels)
        strips = _GatherRows.apply(strips, self._strips(tuple(outer)))

        first, *rest = (*outer, last)
        return strips.view(batch, self.count * first, *rest, channels).movedim(-1, 1)

    def positions(self, patch: Sequence[int]) -> Tensor:
        """(B, V·p₁·…·p_A): the flat row-major position, on a sample's map, of every position of a stack."""
        number = torch.zeros_like(self.index)
        cells = _unravel(self.index, self.grid)

        for axis, (cell, size) in enumerate(zip(cells, patch, strict=True)):
            cell = cell.view(*cell.shape, *(1,) * axis)
            within = torch.arange(size, device=number.device)
            number = (number * self.grid[axis] + cell)[..., None] * size + within

        return number.flatten(1)

    def _strips(self, outer: tuple[int, ...]) -> Tensor:
        """(B·V·p₁·…,): the numbers of the visible patches' strips among the strips of whole maps.

        A strip is a run along the last axis of a patch; `outer` is a patch's size along the other axes.
        """
        if outer not in self._strip_numbers:
            sample = torch.arange(len(self.index), device=self.index.device)
            number = self.positions((*outer, 1)) + sample[:, None] * (prod(self.grid) * prod(outer))
            self._strip_numbers[outer] = number.flatten()
        return self._strip_numbers[outer]


class _GatherRows(torch.autograd.Function):
    """Rows of a matrix by distinct numbers. The gradient is copied back, much faster than it is added up."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.count, gradient.shape[1]).index_copy_(0, index, gradient), None


class _ScatterRows(torch.autograd.Function):
    """The inverse of `_GatherRows`: a matrix of `count` rows; those that are not in `index` hold `fill`."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, count: int, fill: float) -> Tensor:
        ctx.save_for_backward(index)
        return x.new_full((count, x.shape[1]), fill).index_copy_(0, index, x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (index,) = ctx.saved_tensors
        return gradient.index_select(0, index), None, None, None


def _unravel(flat: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """Flat row-major numbers as one coordinate per axis. (torch.unravel_index copies `sides` to the device.)"""
    coordinates = []
    for side in reversed(sides):
        coordinates.append(flat % side)
        flat = flat // side
    return coordinates[::-1]


def _divide(side: int, patches: int) -> int:
    if side % patches:
        raise ValueError(f"a layer makes {side} positions of {patches} patches")
    return side // patches


# The mask of a call -----------------------------------------------------------------------------------------

# Set for the duration of a network's call: layers hold no mask, so that a copy or a second call sees none.
_PATCHES: ContextVar[VisiblePatches | None] = ContextVar("visible_patches", default=None)


@contextmanager
def masked_to(patches: VisiblePatches | None) -> Iterator[None]:
    """Within, masked layers take stacks of these patches; None: ordinary maps. Holds for this thread only."""
    token = _PATCHES.set(patches)
    try:
        yield
    finally:
        _PATCHES.reset(token)


def checkpoint_with_mask(function: Callable[..., Any], *inputs: Any) -> Any:
    """function(*inputs), whose activations the backward pass computes again under the same mask.

    The mask is in the closure, since the backward pass runs after the call and, on CUDA, in another thread.
    """
    patches = _PATCHES.get()

    def masked(*arguments: Any) -> Any:
        with masked_to(patches):
            return function(*arguments)

    return checkpoint(masked, *inputs, use_reentrant=False)


# Layers with windows ----------------------------------------------------------------------------------------


class MaskedConvolution(nn.Module):
    """A convolution that reads zeros at hidden positions, as it does beyond the border of a map."""

    def forward(self, x: Tensor) -> Tensor:
        patches = _PATCHES.get()
        if patches is None:
            return super().forward(x)
        if patches.use_spconv:
            return spconv_convolution(self, x, patches)
        return patches.gather(super().forward(patches.scatter(x)))


class MaskedMaxPooling(nn.Module):
    """A max pooling that leaves hidden positions out, as it does those beyond the border of a map."""

    def forward(self, x: Tensor) -> Tensor:
        patches = _PATCHES.get()
        if patches is None:
            return super().forward(x)
        return patches.gather(super().forward(patches.scatter(x, fill=-torch.inf)))


class MaskedAveragePooling(nn.Module):
    """An average pooling that counts hidden positions where it counts those beyond the border of a map."""

    count_include_pad: bool  # the pooling's own

    @property
    def divides_by_window(self) -> bool:
        """Whether the divisor is the same for every window."""
        return self.count_include_pad or getattr(self, "divisor_override", None) is not None

    def forward(self, x: Tensor) -> Tensor:
        patches = _PATCHES.get()
        if patches is None:
            return super().forward(x)

        mean = patches.gather(super().forward(patches.scatter(x)))
        if self.divides_by_window:
            return mean

        visible_share = patches.gather(super().forward(patches.scatter(torch.ones_like(x[:, :1]))))
        return mean / visible_share


Rules = Mapping[type[nn.Module], type[nn.Module]]


def mask_windows(network: nn.Module, axes: int, rules: Rules = MappingProxyType({})) -> None:
    """Gives every layer whose windows reach beyond a patch its masked class. Weights and names stay.

    Layers of another number of axes are left alone: channel attention convolves along channels.
    `rules`: masked classes of derived layers, which come before those of torch's own.
    """
    rules = {
        **rules,
        CONVOLUTIONS[axes]: MaskedConvolution,
        MAX_POOLINGS[axes]: MaskedMaxPooling,
        AVERAGE_POOLINGS[axes]: MaskedAveragePooling,
    }

    for layer in network.modules():
        if isinstance(layer, tuple(rules.values())):
            continue
        rule = next((masked for kind, masked in rules.items() if isinstance(layer, kind)), None)
        if rule is not None and reaches_beyond_patch(layer):
            layer.__class__ = mixed_class(rule, type(layer))


@cache
def mixed_class(rule: type[nn.Module], kind: type[nn.Module]) -> type[nn.Module]:
    """The class of layers of a `kind` whose forward is `rule`'s, which calls the kind's own."""
    return type(f"{rule.__name__}_{kind.__name__}", (rule, kind), {})


def reaches_beyond_patch(layer: Layer) -> bool:
    """Whether windows reach beyond their own block of `stride` positions, which lies within a patch."""
    kernel, stride = np.asarray(layer.kernel_size), np.asarray(layer.stride)
    dilation = np.asarray(getattr(layer, "dilation", 1))  # average pooling has none
    span = (kernel - 1) * dilation + 1

    # "same" (and timm's layers that pad by themselves) adds nothing where a window is as long as its stride.
    pads = layer.padding not in ("same", "valid") and np.any(layer.padding)
    return bool(np.any(span > stride) or pads)


# Convolution through spconv ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RuleBook:
    """For every tap of a kernel, the rows of a stack that it reads and the rows of the output it adds to.

    It is built here, since spconv's own strided convolutions have outputs at hidden positions too, wherever a
    window touches a visible one.
    """

    patch: tuple[int, ...]  # size of the output's patches
    pairs: Tensor  # (2, K, rows) int32: rows read and rows written by each of K taps, then −1
    counts: Tensor  # (K,) int32: pairs of each tap


@cache
def spconv_kernel() -> Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor] | None:
    """(features, weight, pairs, counts, rows) -> (rows, O); None where spconv is not installed."""
    try:
        from spconv.core import ConvAlgo  # pyright: ignore[reportMissingImports]  # an extra
        from spconv.pytorch.functional import indice_conv  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None

    def convolve(features: Tensor, weight: Tensor, pairs: Tensor, counts: Tensor, rows: int) -> Tensor:
        return indice_conv(features, weight, pairs, counts, rows, ConvAlgo.Native)

    return convolve


def spconv_applies(network: nn.Module, x: Tensor) -> bool:
    """Whether spconv can replace dense maps: for all of the network's windows, on this device and type."""
    if spconv_kernel() is None or not spconv_is_exact(x):
        return False
    windows = [layer for layer in network.modules() if isinstance(layer, MaskedConvolution)]
    return all(map(spconv_supports, windows))


def spconv_supports(layer: Layer) -> bool:
    """Whether spconv can run a masked convolution: not one of several groups, nor one of a derived class."""
    plain = not set(CONVOLUTIONS.values()).isdisjoint(type(layer).__bases__)
    return plain and layer.groups == 1 and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


def spconv_is_exact(x: Tensor) -> bool:
    """Whether spconv gives the numbers of a dense convolution of `x`; under autocast it makes all float16."""
    return x.is_cuda and x.dtype in (torch.float32, torch.float16) and not torch.is_autocast_enabled("cuda")


def spconv_convolution(layer: Layer, stack: Tensor, patches: VisiblePatches) -> Tensor:
    """(B, C, V·p₁, p₂, …) -> (B, O, V·q₁, q₂, …)."""
    batch, channels = stack.shape[:2]
    book = rule_book(layer, patches, patches.patch_size(stack))
    first, *rest = book.patch

    rows = stack.movedim(1, -1).reshape(-1, channels)
    weight = layer.weight.movedim(1, -1).contiguous()  # spconv's layout, (O, *kernel, C)
    convolve = spconv_kernel()
    assert convolve is not None, "spconv_applies says that it is installed"
    out = convolve(rows, weight, book.pairs, book.counts, batch * patches.count * prod(book.patch))
    if layer.bias is not None:
        out = out + layer.bias

    return out.view(batch, patches.count * first, *rest, -1).movedim(-1, 1)


def rule_book(layer: Layer, patches: VisiblePatches, patch: tuple[int, ...]) -> RuleBook:
    """The rule book of a convolution for patches of this size, made once for each kind of convolution."""
    key = (patch, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    if key not in patches.rule_books:
        out_patch, read = _rows_read(layer, patches, patch)

        # spconv needs the pairs of a tap first, then −1.
        order = (read < 0).int().argsort(dim=1, stable=True)
        read = read.gather(1, order)
        pairs = torch.stack([read, order.masked_fill(read < 0, -1)]).int().contiguous()

        patches.rule_books[key] = RuleBook(patch=out_patch, pairs=pairs, counts=(read >= 0).sum(1).int())
    return patches.rule_books[key]


def _rows_read(layer: Layer, patches: VisiblePatches, patch: Sequence[int]) -> tuple[tuple, Tensor]:
    """Size of the output's patches, and (K, rows): the row that each tap reads for each row of the output.

    −1 stands for positions that are hidden or beyond the border.
    """
    # A map that holds the numbers of the stack's rows.
    batch, device = len(patches.index), patches.index.device
    sides = patches.map_sides(patch)
    positions = patches.positions(patch)
    numbers = torch.full((batch, prod(sides)), -1, device=device)
    numbers.scatter_(1, positions, torch.arange(positions.numel(), device=device).view_as(positions))

    padding = np.repeat(layer.padding[::-1], 2).tolist()  # F.pad begins with the last axis
    numbers = F.pad(numbers.view(batch, *sides), padding, value=-1)
    pitch = numbers.stride()[1:]

    # The corner of every output position's window on that map, flat.
    spans = np.multiply(layer.dilation, np.subtract(layer.kernel_size, 1)) + 1
    out_sides = np.subtract(numbers.shape[1:], spans) // layer.stride + 1
    out_patch = tuple((out_sides // patches.grid).tolist())
    out_positions = patches.positions(out_patch)

    corner = torch.zeros_like(out_positions)
    coordinates = _unravel(out_positions, patches.map_sides(out_patch))
    for coordinate, step in zip(coordinates, np.multiply(layer.stride, pitch).tolist(), strict=True):
        corner += coordinate * step

    # A tap stands at the same distance from every corner.
    numbers, read = numbers.flatten(1), []
    for tap in np.ndindex(*layer.kernel_size):
        offset = int(np.dot(tap, np.multiply(layer.dilation, pitch)))
        read.append(numbers.gather(1, corner + offset).flatten())
    return out_patch, torch.stack(read)
