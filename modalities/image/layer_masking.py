"""Layer masking: a trained convolutional classifier run as if regions of the picture were not there.

Unlike SparK's, the mask grows along the path: a position stays if anything it looks at stays. So it is carried beside
the values through the traced graph.
Source: SriramB-98/layer_masking (Balasubramanian and Feizi, 2023), from the method card's description.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, fx, nn

from core.errors import UserError

ZERO_AT_ZERO = (
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.SiLU,
)  # masked before and after; BatchNorm and the sigmoids are not zero there, so that the second counts
UNTOUCHED = (nn.GELU, nn.Identity, nn.Dropout)
ADDITIONS = (operator.add, operator.iadd, torch.add)
PRODUCTS = (operator.mul, operator.imul, torch.mul)


@dataclass(frozen=True)
class Region:
    """Values (B, C, H, W) and where they stand for something: `keep` (B, 1, H, W), 1 or 0."""

    values: Tensor
    keep: Tensor


def fill(values: Tensor, keep: Tensor, times: int) -> Tensor:
    """Removed positions take the mean of their kept neighbours, ring by ring, `times` rings deep.

    No gradient flows through what is filled in. Shapes: (B, C, H, W), (B, 1, H, W) -> (B, C, H, W).
    """
    kept = values * keep
    with torch.no_grad():
        x, mask = kept, keep
        for _ in range(times):
            near = _box_sum(mask)
            x = x + (1 - mask) * _box_sum(x) / (near + 1e-5)
            mask = (mask + near).clamp(0, 1)
        beyond = x * (1 - keep)
    return kept + beyond


class LayerMasking(nn.Module):
    """A classifier whose answer does not depend on hidden pixels, nor (much) on the shape of what is hidden.

    `rule`: what a convolution reads of removed positions: "fill" (the method), "zero", or "coverage" (zeros, divided by
    the share of the window that is kept). The network must be in eval mode; its weights are shared, not copied.
    Shapes: images (B, C, H, W) as the network wants them, hidden (B, H, W) bool -> the network's answer.
    Raises: UserError where the network cannot be traced or has a layer without a rule.
    """

    def __init__(self, network: nn.Module, rule: Literal["fill", "zero", "coverage"] = "fill"):
        super().__init__()
        try:
            self.graph = fx.GraphModule(network, _Tracer().trace(network))
        except Exception as error:  # tracing fails in many ways
            raise UserError(f"Layer masking needs a network that torch.fx can trace; this one fails: {error}") from None
        self.rule = rule

    def forward(self, images: Tensor, hidden: Tensor) -> Any:
        return self.run(images, hidden)[0]

    def run(self, images: Tensor, hidden: Tensor) -> tuple[Any, dict[str, Any]]:
        """The answer, and what every module of the network said, by name: a `Region` or a tensor."""
        if any(isinstance(layer, nn.BatchNorm2d) and layer.training for layer in self.graph.modules()):
            raise UserError("Layer masking is for trained networks: call eval() on it first.")
        keep = (~hidden)[:, None].to(images.dtype)
        walk = _Walk(self.graph, self.rule)
        return walk.run(Region(images * keep, keep)), walk.said


class _Tracer(fx.Tracer):
    """Leaves layers whole that timm derives from PyTorch's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d | nn.AvgPool2d | SelectAdaptivePool2d)
        return whole or super().is_leaf_module(m, module_qualified_name)


class _Walk(fx.Interpreter):
    """Runs the traced graph on regions."""

    extra_traceback = False

    def __init__(self, graph: fx.GraphModule, rule: str):
        super().__init__(graph)
        self.rule, self.said = rule, {}

    def call_module(self, target: str, args: tuple, kwargs: dict) -> Any:
        layer = self.fetch_attr(target)
        self.said[target] = _apply(layer, args[0], self.rule, target) if _has_region(args) else layer(*args, **kwargs)
        return self.said[target]

    def call_function(self, target: Callable, args: tuple, kwargs: dict) -> Any:
        if not _has_region(args):
            return super().call_function(target, args, kwargs)
        if target in ADDITIONS:
            return _add(*args)
        if target in PRODUCTS:
            return _scale(*args)
        if target is torch.cat:
            return _concatenate(args[0])
        if target in (F.relu, torch.relu, F.sigmoid, torch.sigmoid, F.hardswish, F.silu):
            return _pointwise(target, args[0])
        if target in (F.adaptive_avg_pool2d, torch.mean):
            return _pooled(args[0])
        raise _no_rule(getattr(target, "__name__", str(target)))

    def call_method(self, target: str, args: tuple, kwargs: dict) -> Any:
        if not _has_region(args):
            return super().call_method(target, args, kwargs)
        if target in ("add", "add_"):
            return _add(*args)
        if target == "mean":
            return _pooled(args[0])
        raise _no_rule(target)


def _apply(layer: nn.Module, x: Region, rule: str, name: str) -> Any:
    if type(layer) is nn.Conv2d:  # timm's own kinds pad by themselves
        return _convolve(layer, x, rule)
    if isinstance(layer, UNTOUCHED):
        return Region(layer(x.values), x.keep)
    if isinstance(layer, ZERO_AT_ZERO):
        return _pointwise(layer, x)
    if isinstance(layer, nn.MaxPool2d):
        keep = layer(x.keep)
        return Region(layer(x.values) * keep, keep)
    if isinstance(layer, nn.AvgPool2d):
        keep = (layer(x.keep) > 0).to(x.keep)
        return Region(layer(x.values) * keep, keep)
    if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
        return _pooled(x)
    if isinstance(layer, SelectAdaptivePool2d) and layer.pool_type == "avg":
        return layer.flatten(_pooled(x))
    raise _no_rule(f"{name} ({type(layer).__name__})")


def _convolve(layer: nn.Conv2d, x: Region, rule: str) -> Region:
    window = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    keep = F.max_pool2d(x.keep, layer.kernel_size, **window)
    if rule != "coverage":
        times = layer.kernel_size[-1] if rule == "fill" else 0
        return Region(layer(fill(x.values, x.keep, times)) * keep, keep)
    height, width = layer.kernel_size
    share = F.conv2d(x.keep, x.keep.new_full((1, 1, height, width), 1 / (height * width)), **window) + 1e-8
    values = layer(x.values * x.keep) / share
    if layer.bias is not None:
        values = values + layer.bias[:, None, None] * (1 - 1 / share)
    return Region(values * keep, keep)


def _pointwise(layer: Callable[[Tensor], Tensor], x: Region) -> Region:
    return Region(layer(x.values * x.keep) * x.keep, x.keep)


def _pooled(x: Region) -> Tensor:
    """Mean over kept positions (B, C, 1, 1)."""
    mean = (x.values * x.keep).mean((2, 3), keepdim=True)
    return mean / (x.keep.mean((2, 3), keepdim=True) + 1e-8)


def _add(a: Any, b: Any) -> Region:
    """Kept where both branches are."""
    if isinstance(a, Region) and isinstance(b, Region):
        keep = a.keep * b.keep
        return Region((a.values + b.values) * keep, keep)
    region, other = (a, b) if isinstance(a, Region) else (b, a)
    return Region(region.values + other, region.keep)


def _scale(a: Any, b: Any) -> Region:
    """Squeeze-excite: a region times numbers that hold for all of it."""
    region, other = (a, b) if isinstance(a, Region) else (b, a)
    if isinstance(other, Region):
        raise _no_rule("a product of two maps")
    return Region(region.values * other, region.keep)


def _concatenate(parts: Any) -> Region:
    """Kept where most of the joined maps are (DenseNet)."""
    if not all(isinstance(part, Region) for part in parts):
        raise _no_rule("a concatenation with something else than maps")
    keep = (torch.stack([part.keep for part in parts]).mean(0) > 0.5).to(parts[0].keep)
    return Region(torch.cat([part.values for part in parts], 1), keep)


def _box_sum(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, divisor_override=1)


def _has_region(args: tuple) -> bool:
    found = [item for arg in args for item in (arg if isinstance(arg, list | tuple) else [arg])]
    return any(isinstance(item, Region) for item in found)


def _no_rule(what: str) -> UserError:
    return UserError(f"Layer masking has no rule for {what}: use a plain convolutional classifier (ResNet, DenseNet).")
