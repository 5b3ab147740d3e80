"""Which networks of timm can be trained on visible patches alone; the others are refused with a reason, when built."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from core.errors import UserError, nearest
from modalities.image.windows import Visible, only

# One or two of each family; `docs/convnets.md` lists all that were tried.
SUITABLE = (
    "resnet18, resnet50, resnext50_32x4d, seresnet50, resnetv2_50, convnext_tiny, convnextv2_tiny, efficientnet_b0, "
    "tf_efficientnetv2_s, mobilenetv3_large_100, mobilenetv4_conv_small, regnetx_008, regnety_008, densenet121, "
    "vgg16_bn, dla34, ghostnet_100, repvit_m0_9, inception_next_tiny, nf_regnet_b1"
)
# Positions that look at each other by content: they need their places, and no window to swap says where those are.
ATTENTION = re.compile(r"Attention|NonLocal|(Bottleneck|Halo|Covariance|Volo)Attn|Lambda|LiteMLA|M[hH][sS][aA]|XCA")
UNKNOWN_WINDOWS = (nn.ConvTranspose2d, nn.Unfold, nn.Fold, nn.LPPool2d, nn.FractionalMaxPool2d, nn.LocalResponseNorm)
_PROVED: set[tuple] = set()  # what was tried in this process already
GRID = 2  # of the pictures that are tried, in patches


@dataclass(frozen=True)
class Scales:
    """The maps of a network that are used, coarsest first: which of its intermediates, their strides and widths."""

    indices: tuple[int, ...]
    strides: tuple[int, ...]
    widths: tuple[int, ...]


def refuse(backbone: str, layer: str, reason: str) -> UserError:
    where = f"layer {layer}: " if layer else ""
    return UserError(
        f"method.encoder.backbone={backbone} cannot be trained on visible patches alone: {where}{reason}\n"
        f"Suitable ones, among others: {SUITABLE}."
    )


def create(backbone: str, channels: int, stride: int, options: Mapping[str, Any]) -> nn.Module:
    """A network of timm without classifier; of another total stride than 32 by dilation, where it can."""
    if not timm.is_model(backbone):
        near = " or ".join(nearest(backbone, timm.list_models())) or SUITABLE
        raise UserError(
            f"method.encoder.backbone={backbone} is no network of timm {timm.__version__}. Did you mean {near}?"
        )
    settings = {"num_classes": 0, "in_chans": channels, **options}
    try:
        if stride < 32:
            return timm.create_model(backbone, output_stride=stride, **settings)
    except (TypeError, AssertionError, NotImplementedError, ValueError, KeyError, RuntimeError):
        pass  # it knows one stride only, which may be the right one
    try:
        return timm.create_model(backbone, **settings)
    except (TypeError, AssertionError, NotImplementedError, ValueError, RuntimeError) as error:
        raise UserError(f"method.encoder.backbone={backbone} is not made of these options {options}: {error}") from None


def survey(network: nn.Module, backbone: str, channels: int, stride: int) -> Scales:
    """Looks at every layer that is used, and at the maps; freezes what lies behind them. Works without data (meta).

    Raises: UserError that names the backbone, the layer and the reason.
    """
    if not isinstance(vars(type(network)).get("forward_intermediates"), type(survey)):
        raise refuse(backbone, "", "it does not give its maps (timm's forward_intermediates).")
    parameter = next(network.parameters())
    picture = parameter.new_zeros(1, channels, GRID * stride, GRID * stride)
    try:
        with _called(network) as layers, torch.no_grad():
            maps = _maps(network.eval(), picture, backbone)
    except UserError:
        _refuse_attention(network.named_modules(), backbone)  # the better reason, where it is one
        raise
    network.train()
    _refuse_attention(layers.items(), backbone)
    for name, layer in layers.items():
        if isinstance(layer, UNKNOWN_WINDOWS):
            raise refuse(backbone, name, f"{type(layer).__name__} has no rule for hidden neighbours.")
    used = set(layers.values())
    for layer in network.modules():
        if layer not in used and not any(inner in used for inner in layer.modules()):
            layer.requires_grad_(False)  # exported as it is
    return _scales(maps, picture.shape[-1], backbone, stride)


def _refuse_attention(layers: Iterable[tuple[str, nn.Module]], backbone: str) -> None:
    for name, layer in layers:
        if ATTENTION.search(type(layer).__name__):
            raise refuse(backbone, name, f"{type(layer).__name__} lets positions attend to each other.")


def prove(network: nn.Module, backbone: str, channels: int, stride: int, options: Mapping[str, Any]) -> None:
    """Tries a copy with all weights at work: nothing but the swapped windows may look beyond a patch.

    All patches visible, in whatever order, it must be the ordinary network; more hidden ones around change nothing.
    """
    tried = (backbone, channels, stride, repr(sorted(options.items())))
    if tried in _PROVED or next(network.parameters()).is_meta:
        return
    twin = deepcopy(network).double()
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(2, channels, GRID * stride, GRID * stride, generator=generator, dtype=torch.double)
    with torch.no_grad():
        for p in twin.parameters():
            if p.dim() < 2 or not p.any():  # gains of zero would hide what a branch does
                p.copy_(torch.rand(p.shape, generator=generator, dtype=torch.double) + 0.5)
    for learns in (False, True):
        for layer in twin.modules():
            layer.train(learns and isinstance(layer, nn.modules.batchnorm._BatchNorm))
        _compare_orders(twin, backbone, picture)
        _compare_sizes(twin, backbone, picture)
    _PROVED.add(tried)


def _compare_orders(twin: nn.Module, backbone: str, picture: Tensor) -> None:
    everything = Visible(torch.tensor([[2, 0, 3, 1], [1, 2, 0, 3]]), (GRID, GRID))
    plain = _outputs(twin, picture, None, backbone)
    stacked = _outputs(twin, everything.gather(picture), everything, backbone)
    for name, x in plain.items():
        if _is_map(x, GRID) and _is_stack(stacked[name], x, everything):
            _same(everything.gather(x), stacked[name], backbone, name, "it mixes positions by no window that is known.")


def _compare_sizes(twin: nn.Module, backbone: str, picture: Tensor) -> None:
    few, larger = torch.tensor([[0, 3], [2, 1]]), GRID + 1
    small = Visible(few, (GRID, GRID))
    large = Visible(few // GRID * larger + few % GRID, (larger, larger))
    x = small.gather(picture)
    first, second = (_outputs(twin, x, visible, backbone) for visible in (small, large))
    for name, one in first.items():
        if one.shape == second[name].shape:
            _same(one, second[name], backbone, name, "it treats the border of a picture unlike hidden patches.")


def _same(a: Tensor, b: Tensor, backbone: str, layer: str, reason: str) -> None:
    if not torch.allclose(a, b, rtol=0, atol=1e-6 * float(a.abs().max().clamp(min=1e-12))):
        raise refuse(backbone, layer, reason)


def _outputs(network: nn.Module, x: Tensor, visible: Visible | None, backbone: str) -> dict[str, Tensor]:
    """What every layer says, in the order in which they finish; the maps last."""
    found: dict[str, Tensor] = {}

    def note(name: str):
        def hook(layer, inputs, output):
            if isinstance(output, Tensor) and name not in found:
                found[name] = output.clone()  # some activations work in place

        return hook

    handles = (layer.register_forward_hook(note(name)) for name, layer in network.named_modules() if name)
    with _hooks(handles), torch.no_grad(), only(visible):
        maps = _maps(network, x, backbone)
    return found | {f"(map {i})": one for i, one in enumerate(maps)}


def _maps(network: nn.Module, x: Tensor, backbone: str) -> list[Tensor]:
    try:
        return list(network.forward_intermediates(x, intermediates_only=True))
    except UserError:
        raise
    except Exception as error:  # networks fail in any way on sizes that they were not made for
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refuse(backbone, "", f"its strides do not suit a grid of patches ({said}).") from None


@contextmanager
def _called(network: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """Fills in the layers that are called meanwhile, by name."""
    seen: dict[str, nn.Module] = {}

    def note(name: str):
        def hook(layer, inputs):
            seen[name] = layer

        return hook

    with _hooks(layer.register_forward_pre_hook(note(name)) for name, layer in network.named_modules()):
        yield seen


@contextmanager
def _hooks(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _scales(maps: Sequence[Tensor], side: int, backbone: str, stride: int) -> Scales:
    found: dict[int, tuple[int, int]] = {}  # of every stride the last map
    for index, x in enumerate(maps):
        if x.dim() != 4 or x.shape[2] != x.shape[3] or side % x.shape[2]:
            raise refuse(backbone, f"(map {index})", f"{tuple(x.shape[1:])} for {side} pixels is no grid of patches.")
        found[side // x.shape[2]] = (index, x.shape[1])
    coarsest = max(found)
    if coarsest != stride:
        raise refuse(backbone, "", f"its total stride is {coarsest}, method.encoder.stride is {stride}.")
    strides = [s for s in sorted(found, reverse=True) if s >= min(4, coarsest)]
    for coarse, fine in pairwise(strides):
        if coarse != 2 * fine:
            raise refuse(backbone, "", f"its maps have strides {sorted(found)}, which do not halve.")
    return Scales(tuple(found[s][0] for s in strides), tuple(strides), tuple(found[s][1] for s in strides))


def _is_map(x: Tensor, grid: int) -> bool:
    return x.dim() == 4 and x.shape[2] == x.shape[3] and x.shape[2] % grid == 0


def _is_stack(stack: Tensor, x: Tensor, visible: Visible) -> bool:
    h, w = x.shape[2] // visible.grid[0], x.shape[3] // visible.grid[1]
    return tuple(stack.shape[1:]) == (x.shape[1], visible.count * h, w)
