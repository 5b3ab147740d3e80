"""Layer masking: a trained convolutional classifier run as if regions of the picture were not there.

Unlike SparK's, the mask grows along the path: a position stays if anything in its window stays. So it runs
through the traced graph beside the values.
Source: SriramB-98/layer_masking (Balasubramanian and Feizi, 2023), from the method card's description.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, fx, nn

from core.errors import UserError

# Masked before and after: BatchNorm and the sigmoids are not zero at zero.
MASKED_TWICE = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Hardswish, nn.SiLU)
MASKED_TWICE_FUNCTIONS = (F.relu, torch.relu, F.sigmoid, torch.sigmoid, F.hardswish, F.silu)
NOT_MASKED = (nn.GELU, nn.Identity, nn.Dropout)
ADDITIONS = (operator.add, operator.iadd, torch.add)
PRODUCTS = (operator.mul, operator.imul, torch.mul)
MEANS = (F.adaptive_avg_pool2d, torch.mean)
# Layers that stay whole in the graph, and timm's classes derived from them.
LEAVES = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, SelectAdaptivePool2d)


@dataclass(frozen=True)
class Region:
    """Values (B, C, H, W) and the positions that stay: `keep` (B, 1, H, W), 1 or 0."""

    values: Tensor
    keep: Tensor


class LayerMasking(nn.Module):
    """A classifier whose logits do not depend on hidden pixels, nor (much) on the shape of the hidden region.

    `rule`: the values that a convolution reads at removed positions: "fill" (the method), "zero", or
    "coverage" (zeros, divided by the share of the window that stays). The network must be in eval mode; its
    weights are shared, not copied.

    Shapes: images (B, C, H, W), normalised for the network, hidden (B, H, W) bool -> the network's output.
    Raises: UserError where the network cannot be traced or has a layer without a rule.
    """

    def __init__(self, network: nn.Module, rule: Literal["fill", "zero", "coverage"] = "fill"):
        super().__init__()
        try:
            self.graph = fx.GraphModule(network, _Tracer().trace(network))
        except Exception as error:  # tracing fails in many ways
            message = f"Layer masking needs a network that torch.fx can trace; this one fails: {error}"
            raise UserError(message) from None
        self.rule = rule

    def forward(self, images: Tensor, hidden: Tensor) -> Any:
        return self.run(images, hidden)[0]

    def run(self, images: Tensor, hidden: Tensor) -> tuple[Any, dict[str, Any]]:
        """The output, and that of every module of the network, by name: a `Region` or a tensor."""
        if any(isinstance(layer, nn.BatchNorm2d) and layer.training for layer in self.graph.modules()):
            raise UserError("Layer masking is for trained networks: call eval() on it first.")

        keep = (~hidden)[:, None].to(images.dtype)
        interpreter = _Interpreter(self.graph, self.rule)
        return interpreter.run(Region(images * keep, keep)), interpreter.outputs


def fill(values: Tensor, keep: Tensor, times: int) -> Tensor:
    """Removed positions take the mean of their neighbours that stay, ring by ring, `times` rings deep.

    No gradient flows through filled positions. Shapes: (B, C, H, W), (B, 1, H, W) -> (B, C, H, W).
    """
    visible = values * keep

    with torch.no_grad():
        x, mask = visible, keep
        for _ in range(times):
            near = _box_sum(mask)
            x = x + (1 - mask) * _box_sum(x) / (near + 1e-5)
            mask = (mask + near).clamp(0, 1)
        beyond = x * (1 - keep)

    return visible + beyond


# The traced graph -------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


class _Interpreter(fx.Interpreter):
    """Runs the traced graph on regions."""

    extra_traceback = False

    def __init__(self, graph: fx.GraphModule, rule: str):
        super().__init__(graph)
        self.rule = rule
        self.outputs: dict[str, Any] = {}

    def call_module(self, target: str, args: tuple, kwargs: dict) -> Any:
        self.outputs[target] = self._output(target, args, kwargs)
        return self.outputs[target]

    def _output(self, target: str, args: tuple, kwargs: dict) -> Any:
        layer = self.fetch_attr(target)
        if _has_region(args):
            return _apply(layer, args[0], self.rule, target)
        return layer(*args, **kwargs)

    def call_function(self, target: Callable, args: tuple, kwargs: dict) -> Any:
        if not _has_region(args):
            return super().call_function(target, args, kwargs)

        if target in ADDITIONS:
            return _add(*args)
        if target in PRODUCTS:
            return _scale(*args)
        if target is torch.cat:
            return _concatenate(args[0])
        if target in MASKED_TWICE_FUNCTIONS:
            return _pointwise(target, args[0])
        if target in MEANS:
            return _mean(args[0])
        raise _no_rule(getattr(target, "__name__", str(target)))

    def call_method(self, target: str, args: tuple, kwargs: dict) -> Any:
        if not _has_region(args):
            return super().call_method(target, args, kwargs)

        if target in ("add", "add_"):
            return _add(*args)
        if target == "mean":
            return _mean(args[0])
        raise _no_rule(target)


def _has_region(args: tuple) -> bool:
    return any(isinstance(item, Region) for item in _flat(args))


def _flat(args: tuple) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, list | tuple):
            yield from arg
        else:
            yield arg


# Rules ------------------------------------------------------------------------------------------------------


def _apply(layer: nn.Module, x: Region, rule: str, name: str) -> Any:
    if type(layer) is nn.Conv2d:  # timm's derived classes pad by themselves
        return _convolve(layer, x, rule)

    if isinstance(layer, NOT_MASKED):
        return Region(layer(x.values), x.keep)
    if isinstance(layer, MASKED_TWICE):
        return _pointwise(layer, x)

    if isinstance(layer, nn.MaxPool2d):
        keep = layer(x.keep)
        return Region(layer(x.values) * keep, keep)
    if isinstance(layer, nn.AvgPool2d):
        keep = (layer(x.keep) > 0).to(x.keep)
        return Region(layer(x.values) * keep, keep)

    if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
        return _mean(x)
    if isinstance(layer, SelectAdaptivePool2d) and layer.pool_type == "avg":
        return layer.flatten(_mean(x))
    raise _no_rule(f"{name} ({type(layer).__name__})")


def _convolve(layer: nn.Conv2d, x: Region, rule: str) -> Region:
    window = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    keep = F.max_pool2d(x.keep, layer.kernel_size, **window)

    if rule != "coverage":
        times = 0
        if rule == "fill":
            times = layer.kernel_size[-1]
        return Region(layer(fill(x.values, x.keep, times)) * keep, keep)

    height, width = layer.kernel_size
    mean = x.keep.new_full((1, 1, height, width), 1 / (height * width))
    share = F.conv2d(x.keep, mean, **window) + 1e-8
    values = layer(x.values * x.keep) / share
    if layer.bias is not None:
        values = values + layer.bias[:, None, None] * (1 - 1 / share)
    return Region(values * keep, keep)


def _pointwise(layer: Callable[[Tensor], Tensor], x: Region) -> Region:
    return Region(layer(x.values * x.keep) * x.keep, x.keep)


def _mean(x: Region) -> Tensor:
    """Mean over the positions that stay (B, C, 1, 1)."""
    mean = (x.values * x.keep).mean((2, 3), keepdim=True)
    return mean / (x.keep.mean((2, 3), keepdim=True) + 1e-8)


def _add(a: Any, b: Any) -> Region:
    """The sum of two branches stays where both do."""
    if isinstance(a, Region) and isinstance(b, Region):
        keep = a.keep * b.keep
        return Region((a.values + b.values) * keep, keep)

    region, term = _region_first(a, b)
    return Region(region.values + term, region.keep)


def _region_first(a: Any, b: Any) -> tuple[Region, Any]:
    if isinstance(a, Region):
        return a, b
    return b, a


def _scale(a: Any, b: Any) -> Region:
    """Squeeze-excite: a region times factors that hold for all of it."""
    region, factor = _region_first(a, b)
    if isinstance(factor, Region):
        raise _no_rule("a product of two maps")
    return Region(region.values * factor, region.keep)


def _concatenate(parts: Any) -> Region:
    """Joined maps stay where most of them do (DenseNet)."""
    if not all(isinstance(part, Region) for part in parts):
        raise _no_rule("a concatenation with something else than maps")

    keep = (torch.stack([part.keep for part in parts]).mean(0) > 0.5).to(parts[0].keep)
    return Region(torch.cat([part.values for part in parts], 1), keep)


def _box_sum(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, divisor_override=1)


def _no_rule(operation: str) -> UserError:
    return UserError(
        f"Layer masking has no rule for {operation}: use a plain convolutional classifier (ResNet, DenseNet)."
    )
