"""Which networks of timm can be trained on visible patches alone; others are refused with a reason when built."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from types import FunctionType
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from core.errors import UserError, nearest
from core.sparse import VisiblePatches, masked_to

# One or two of each family; `docs/convnets.md` lists all that were tried.
SUITABLE = (
    "resnet18, resnet50, resnext50_32x4d, seresnet50, resnetv2_50, convnext_tiny, convnextv2_tiny, "
    "efficientnet_b0, tf_efficientnetv2_s, mobilenetv3_large_100, mobilenetv4_conv_small, regnetx_008, "
    "regnety_008, densenet121, vgg16_bn, dla34, ghostnet_100, repvit_m0_9, inception_next_tiny, nf_regnet_b1"
)
# Layers in which every position reads every other one: they need their places, and have no window to mask.
ATTENTION = re.compile(
    r"Attention|NonLocal|(Bottleneck|Halo|Covariance|Volo)Attn|Lambda|LiteMLA|M[hH][sS][aA]|XCA",
)
UNKNOWN_WINDOWS = (
    nn.ConvTranspose2d,
    nn.Unfold,
    nn.Fold,
    nn.LPPool2d,
    nn.FractionalMaxPool2d,
    nn.LocalResponseNorm,
)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

GRID = 2  # side, in patches, of the pictures that networks are tried on
_VERIFIED: set[tuple] = set()  # networks that passed in this process


@dataclass(frozen=True, kw_only=True)
class Scales:
    """The maps of a network that are used, coarsest first: their numbers among all, strides and widths."""

    indices: tuple[int, ...]
    strides: tuple[int, ...]
    widths: tuple[int, ...]


def unsupported(backbone: str, layer: str, reason: str) -> UserError:
    place = ""
    if layer:
        place = f"layer {layer}: "
    return UserError(
        f"method.encoder.backbone={backbone} cannot be trained on visible patches alone: {place}{reason}\n"
        f"Suitable ones, among others: {SUITABLE}."
    )


def create_network(backbone: str, channels: int, stride: int, options: Mapping[str, Any]) -> nn.Module:
    """A network of timm without classifier; of another total stride than 32 by dilation, where it can."""
    if not timm.is_model(backbone):
        suggestion = " or ".join(nearest(backbone, timm.list_models())) or SUITABLE
        raise UserError(
            f"method.encoder.backbone={backbone} is no network of timm {timm.__version__}. Did you mean {suggestion}?"
        )
    settings = {"num_classes": 0, "in_chans": channels, **options}

    if stride < 32:
        try:
            return timm.create_model(backbone, output_stride=stride, **settings)
        except (TypeError, AssertionError, NotImplementedError, ValueError, KeyError, RuntimeError):
            pass  # it has one stride only, which may be the right one

    try:
        return timm.create_model(backbone, **settings)
    except (TypeError, AssertionError, NotImplementedError, ValueError, RuntimeError) as error:
        message = f"method.encoder.backbone={backbone} is not made of these options {options}: {error}"
        raise UserError(message) from None


# By the layers that are called ------------------------------------------------------------------------------


def inspect_network(network: nn.Module, backbone: str, channels: int, stride: int) -> Scales:
    """The scales of a network, after a check of every layer that is called; all other layers are frozen.

    Works on the meta device. Raises: UserError that names the backbone, the layer and the reason.
    """
    if not isinstance(vars(type(network)).get("forward_intermediates"), FunctionType):
        raise unsupported(backbone, "", "it does not give its maps (timm's forward_intermediates).")

    parameter = next(network.parameters())
    picture = parameter.new_zeros(1, channels, GRID * stride, GRID * stride)
    try:
        with _record_calls(network) as layers, torch.no_grad():
            maps = _intermediates(network.eval(), picture, backbone)
    except UserError:
        _refuse_attention(network.named_modules(), backbone)  # the better reason, where it is one
        raise
    network.train()

    _refuse_attention(layers.items(), backbone)
    for name, layer in layers.items():
        if isinstance(layer, UNKNOWN_WINDOWS):
            raise unsupported(backbone, name, f"{type(layer).__name__} has no rule for hidden neighbours.")

    _freeze_all_but(set(layers.values()), network)
    return _scales(maps, picture.shape[-1], backbone, stride)


def _refuse_attention(layers: Iterable[tuple[str, nn.Module]], backbone: str) -> None:
    for name, layer in layers:
        if ATTENTION.search(type(layer).__name__):
            raise unsupported(backbone, name, f"{type(layer).__name__} lets positions attend to each other.")


def _freeze_all_but(layers: set[nn.Module], network: nn.Module) -> None:
    """Layers that nothing calls are exported as they are."""
    for layer in network.modules():
        if layers.isdisjoint(layer.modules()):
            layer.requires_grad_(False)


def _scales(maps: Sequence[Tensor], side: int, backbone: str, stride: int) -> Scales:
    last_of_stride: dict[int, tuple[int, int]] = {}
    for index, x in enumerate(maps):
        if x.dim() != 4 or x.shape[2] != x.shape[3] or side % x.shape[2]:
            reason = f"{tuple(x.shape[1:])} for {side} pixels is no grid of patches."
            raise unsupported(backbone, f"(map {index})", reason)
        last_of_stride[side // x.shape[2]] = (index, x.shape[1])

    coarsest = max(last_of_stride)
    if coarsest != stride:
        raise unsupported(backbone, "", f"its total stride is {coarsest}, method.encoder.stride is {stride}.")

    strides = [s for s in sorted(last_of_stride, reverse=True) if s >= min(4, coarsest)]
    for coarse, fine in pairwise(strides):
        if coarse != 2 * fine:
            reason = f"its maps have strides {sorted(last_of_stride)}, which do not halve."
            raise unsupported(backbone, "", reason)

    indices, widths = zip(*(last_of_stride[s] for s in strides), strict=True)
    return Scales(indices=indices, strides=tuple(strides), widths=widths)


# By their numbers -------------------------------------------------------------------------------------------


def verify_equivalence(
    network: nn.Module, backbone: str, channels: int, stride: int, options: Mapping[str, Any]
) -> None:
    """Tries a copy, all weights at work, in double precision: only masked windows may reach beyond a patch.

    With all patches visible, in any order, it must be the ordinary network; more hidden patches must change
    nothing.
    Raises: UserError that names the first layer whose output differs.
    """
    key = (backbone, channels, stride, repr(sorted(options.items())))
    if key in _VERIFIED or next(network.parameters()).is_meta:
        return

    twin = deepcopy(network).double()
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(2, channels, GRID * stride, GRID * stride, generator=generator, dtype=torch.double)
    with torch.no_grad():
        for p in twin.parameters():
            if p.dim() < 2 or not p.any():  # gains of zero would hide the output of a branch
                p.copy_(torch.rand(p.shape, generator=generator, dtype=torch.double) + 0.5)

    for batch_statistics in (False, True):
        for layer in twin.modules():
            layer.train(batch_statistics and isinstance(layer, BATCH_NORMS))
        _compare_orders(twin, backbone, picture)
        _compare_sizes(twin, backbone, picture)
    _VERIFIED.add(key)


def _compare_orders(twin: nn.Module, backbone: str, picture: Tensor) -> None:
    """All patches, in another order for each sample, against the ordinary network."""
    patches = VisiblePatches(torch.tensor([[2, 0, 3, 1], [1, 2, 0, 3]]), (GRID, GRID))
    maps = _outputs(twin, picture, None, backbone)
    stacks = _outputs(twin, patches.gather(picture), patches, backbone)

    for name, x in maps.items():
        if _is_map(x, GRID) and _is_stack(stacks[name], x, patches):
            reason = "it mixes positions by no window that is known."
            _check_equal(patches.gather(x), stacks[name], backbone, name, reason)


def _compare_sizes(twin: nn.Module, backbone: str, picture: Tensor) -> None:
    """The same visible patches on a grid with one more row and column."""
    index, larger = torch.tensor([[0, 3], [2, 1]]), GRID + 1
    on_small = VisiblePatches(index, (GRID, GRID))
    on_large = VisiblePatches(index // GRID * larger + index % GRID, (larger, larger))

    stack = on_small.gather(picture)
    small = _outputs(twin, stack, on_small, backbone)
    large = _outputs(twin, stack, on_large, backbone)

    for name, x in small.items():
        if x.shape == large[name].shape:
            reason = "it treats the border of a picture unlike hidden patches."
            _check_equal(x, large[name], backbone, name, reason)


def _check_equal(a: Tensor, b: Tensor, backbone: str, layer: str, reason: str) -> None:
    if not torch.allclose(a, b, rtol=0, atol=1e-6 * float(a.abs().max().clamp(min=1e-12))):
        raise unsupported(backbone, layer, reason)


def _is_map(x: Tensor, grid: int) -> bool:
    return x.dim() == 4 and x.shape[2] == x.shape[3] and x.shape[2] % grid == 0


def _is_stack(stack: Tensor, x: Tensor, patches: VisiblePatches) -> bool:
    h, w = x.shape[2] // patches.grid[0], x.shape[3] // patches.grid[1]
    return tuple(stack.shape[1:]) == (x.shape[1], patches.count * h, w)


# Running a network under watch ------------------------------------------------------------------------------


def _intermediates(network: nn.Module, x: Tensor, backbone: str) -> list[Tensor]:
    try:
        return list(network.forward_intermediates(x, intermediates_only=True))
    except UserError:
        raise
    except Exception as error:  # networks fail in any way on sizes that they were not made for
        lines = str(error).splitlines()
        cause = lines[0] if lines else type(error).__name__
        raise unsupported(backbone, "", f"its strides do not suit a grid of patches ({cause}).") from None


def _outputs(network: nn.Module, x: Tensor, patches: VisiblePatches | None, backbone: str) -> dict[str, Tensor]:
    """The first output of every layer, in the order in which they finish; the maps last."""
    outputs: dict[str, Tensor] = {}

    def record(name: str) -> Callable:
        def hook(layer: nn.Module, inputs: tuple, output: Any) -> None:
            if isinstance(output, Tensor) and name not in outputs:
                outputs[name] = output.clone()  # some activations work in place

        return hook

    handles = [layer.register_forward_hook(record(name)) for name, layer in network.named_modules() if name]
    with _removing(handles), torch.no_grad(), masked_to(patches):
        maps = _intermediates(network, x, backbone)

    return outputs | {f"(map {i})": x for i, x in enumerate(maps)}


@contextmanager
def _record_calls(network: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """A dict that fills with the layers that are called within, by name."""
    layers: dict[str, nn.Module] = {}

    def record(name: str) -> Callable:
        def hook(layer: nn.Module, inputs: tuple) -> None:
            layers[name] = layer

        return hook

    handles = [layer.register_forward_pre_hook(record(name)) for name, layer in network.named_modules()]
    with _removing(handles):
        yield layers


@contextmanager
def _removing(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Removes hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
