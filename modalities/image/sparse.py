"""Convolutions over visible positions alone, through spconv on CUDA: the same numbers as dense maps, the same weights.

A rule book says, for every tap of a kernel, which rows of a stack of visible patches it adds to which rows of the
answer. It is built here: spconv's own strided convolutions also answer at hidden positions that touch a visible one.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from modalities.image.windows import Visible


@cache
def engine() -> Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor] | None:
    """(features, weight, pairs, counts, rows) -> (rows, O); None where spconv is not installed."""
    try:
        from spconv.core import ConvAlgo
        from spconv.pytorch.functional import indice_conv
    except ImportError:
        return None
    return lambda *given: indice_conv(*given, ConvAlgo.Native)


def has(layer: nn.Module) -> bool:
    """Whether spconv can do a swapped convolution: none of several groups (depthwise), none that timm made its own."""
    plain = nn.Conv2d in type(layer).__bases__
    return plain and layer.groups == 1 and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


def exact(x: Tensor) -> bool:
    """Whether spconv gives the numbers of a dense convolution of `x`; under autocast it turns all into float16."""
    return x.is_cuda and x.dtype in (torch.float32, torch.float16) and not torch.is_autocast_enabled("cuda")


def convolve(layer: nn.Conv2d, stack: Tensor, visible: "Visible") -> Tensor:
    """A stack (B, C, V·h, w) -> (B, O, V·h', w')."""
    batch, channels, height, w = stack.shape
    h, w, pairs, counts = rule_book(layer, visible, height // visible.count, w)
    features = stack.permute(0, 2, 3, 1).reshape(-1, channels)
    weight = layer.weight.permute(0, 2, 3, 1).contiguous()  # spconv's layout, (O, kh, kw, C)
    found = engine()(features, weight, pairs, counts, batch * visible.count * h * w)
    found = found if layer.bias is None else found + layer.bias
    return found.view(batch, visible.count * h, w, -1).permute(0, 3, 1, 2)


def rule_book(layer: nn.Conv2d, visible: "Visible", h: int, w: int) -> tuple[int, int, Tensor, Tensor]:
    """For patches (h, w): the answer's patches (h', w'), pairs (2, K, rows) int32 of rows read and written by each of
    K taps, and how many there are (K,); behind them stands −1."""
    key = (h, w, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    if key not in visible.rules:
        h, w, read = _read(layer, visible, h, w)
        order = (read < 0).int().argsort(dim=1, stable=True)
        read = read.gather(1, order)
        pairs = torch.stack([read, order.masked_fill(read < 0, -1)])
        visible.rules[key] = h, w, pairs.int().contiguous(), (read >= 0).sum(1).int()
    return visible.rules[key]


def _read(layer: nn.Conv2d, visible: "Visible", h: int, w: int) -> tuple[int, int, Tensor]:
    """(h', w') and (K, rows): which row of the stack a tap reads for a row of the answer; −1 for none."""
    (gh, gw), device = visible.grid, visible.index.device
    places = visible.positions(h, w)
    number = torch.full((len(places), gh * h * gw * w), -1, device=device)
    number.scatter_(1, places, torch.arange(places.numel(), device=device).view_as(places))
    (ky, kx), (sy, sx), (py, px), (dy, dx) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    number = F.pad(number.view(-1, gh * h, gw * w), (px, px, py, py), value=-1)
    h = ((number.shape[1] - dy * (ky - 1) - 1) // sy + 1) // gh
    w = ((number.shape[2] - dx * (kx - 1) - 1) // sx + 1) // gw
    shown = visible.positions(h, w)
    line, column = shown // (gw * w) * sy, shown % (gw * w) * sx
    sample = torch.arange(len(shown), device=device)[:, None]
    taps = [(i * dy, j * dx) for i in range(ky) for j in range(kx)]
    return h, w, torch.stack([number[sample, line + i, column + j].flatten() for i, j in taps])
