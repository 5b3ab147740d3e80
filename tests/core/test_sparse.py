"""Masked windows in one, two and three dimensions: against dense maps, growing maps, other threads, recomputation."""

import threading
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from core.sparse import (
    AVERAGE_POOLINGS,
    CONVOLUTIONS,
    MAX_POOLINGS,
    MaskedConvolution,
    RuleBook,
    VisiblePatches,
    checkpoint_with_mask,
    mask_windows,
    masked_to,
    reaches_beyond_patch,
    rule_book,
    spconv_is_exact,
    spconv_kernel,
    spconv_supports,
)

GRIDS = {1: (5,), 2: (2, 3), 3: (2, 3, 2)}
PATCHES = {1: (8,), 2: (4, 8), 3: (4, 8, 4)}
INDEX = torch.tensor([[4, 0, 3], [1, 2, 4]])  # three of five cells or more, in another order for each sample
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

KINDS_OF_LAYERS = {axes: (CONVOLUTIONS[axes], MAX_POOLINGS[axes], AVERAGE_POOLINGS[axes]) for axes in (1, 2, 3)}
KINDS = {
    "three wide": {"kernel_size": 3, "padding": 1},
    "stem": {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False},
    "halving": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 2},
    "same": {"kernel_size": 3, "padding": "same"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
}
UNSUPPORTED = ("depthwise", "same", "circular")  # by spconv
ANISOTROPIC = {
    "flat": {"kernel_size": (1, 7), "padding": (0, 3)},
    "unlike": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2)},
    "thin": {"kernel_size": (1, 3, 5), "stride": (1, 2, 1), "padding": (0, 1, 2)},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def visible(axes: int, use_spconv: bool = False) -> VisiblePatches:
    return VisiblePatches(INDEX, GRIDS[axes], use_spconv)


def volume(axes: int, channels: int = 2, seed: int = 0) -> Tensor:
    sides = [cells * size for cells, size in zip(GRIDS[axes], PATCHES[axes], strict=True)]
    return torch.randn(2, channels, *sides, generator=seeded(seed), dtype=torch.double)


def masked(layer: nn.Module) -> nn.Module:
    axes = next(axes for axes, kinds in KINDS_OF_LAYERS.items() if isinstance(layer, kinds))
    network = nn.Sequential(layer).double()
    mask_windows(network, axes)
    return network[0]


def dense_mask(patches: VisiblePatches, sides: Sequence[int]) -> Tensor:
    """(B, 1, *sides): 1 at visible positions, cell by cell."""
    mask = torch.zeros(len(patches.index), 1, *sides, dtype=torch.double)
    for sample, cells in enumerate(patches.index.tolist()):
        for cell in cells:
            mask[(sample, 0, *block(patches.grid, cell, sides))] = 1
    return mask


def cut(x: Tensor, patches: VisiblePatches) -> Tensor:
    """The visible patches of a map as a stack, cut out one by one."""
    stacks = []
    for sample, cells in enumerate(patches.index.tolist()):
        blocks = [x[(sample, slice(None), *block(patches.grid, cell, x.shape[2:]))] for cell in cells]
        stacks.append(torch.cat(blocks, dim=1))
    return torch.stack(stacks)


def block(grid: Sequence[int], cell: int, sides: Sequence[int]) -> list[slice]:
    sizes = [side // cells for side, cells in zip(sides, grid, strict=True)]
    return [slice(i * n, (i + 1) * n) for i, n in zip(np.unravel_index(cell, grid), sizes, strict=True)]


# Stacks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_stack_holds_the_visible_patches_one_after_another(axes):
    patches, x = visible(axes), volume(axes)
    stack = patches.gather(x)
    assert torch.equal(stack, cut(x, patches))
    assert patches.patch_size(stack) == PATCHES[axes]

    mask = dense_mask(patches, x.shape[2:])
    assert torch.equal(patches.scatter(stack), x * mask)
    assert torch.equal(patches.scatter(stack, fill=7.0), torch.where(mask > 0, x, 7.0))

    positions = patches.positions(PATCHES[axes])
    assert torch.equal(x.flatten(2).gather(2, positions[:, None].expand(-1, 2, -1)), stack.flatten(2))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_gradients_of_stacks_and_maps_are_those_of_finite_differences(axes):
    index = torch.tensor([[2, 0]])
    patches = VisiblePatches(index, GRIDS[axes])
    x = torch.randn(1, 2, *(2 * cells for cells in GRIDS[axes]), generator=seeded(), dtype=torch.double)
    assert torch.autograd.gradcheck(patches.gather, x.requires_grad_())
    assert torch.autograd.gradcheck(patches.scatter, patches.gather(x).detach().requires_grad_())


def test_maps_that_the_grid_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="7 positions of 3 patches"):
        visible(2).gather(torch.zeros(2, 1, 4, 7))
    with pytest.raises(ValueError, match="zip"):
        visible(3).gather(torch.zeros(2, 1, 4, 6))


# Windows --------------------------------------------------------------------------------------------------------------


def convolutions(without: Sequence[str] = ()) -> list:
    cases = [(axes, name, kind) for axes, (name, kind) in product((1, 2, 3), KINDS.items()) if name not in without]
    cases += [(len(kind["kernel_size"]), name, kind) for name, kind in ANISOTROPIC.items()]
    return [pytest.param(axes, kind, id=f"{name} {axes}d") for axes, name, kind in cases]


@pytest.mark.parametrize(("axes", "kind"), convolutions())
def test_a_masked_convolution_is_the_dense_one_on_the_masked_volume(axes, kind):
    torch.manual_seed(0)
    layer = masked(CONVOLUTIONS[axes](2, 4, **kind))
    patches, x = visible(axes), volume(axes)
    with masked_to(patches):
        stack = layer(patches.gather(x))

    dense = layer(x * dense_mask(patches, x.shape[2:]))
    assert torch.allclose(stack, cut(dense, patches), atol=1e-12)

    # Hidden positions count as zeros, and visible neighbours of other patches as they are.
    assert not torch.allclose(stack, cut(layer(x), patches), atol=1e-3)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_masked_maximum_leaves_hidden_positions_out(axes):
    layer, patches = masked(MAX_POOLINGS[axes](3, 2, 1)), visible(axes)
    x = volume(axes) - 5  # hidden zeros would win
    with masked_to(patches):
        stack = layer(patches.gather(x))

    windows, in_sight = windows_of(x, patches, kernel=3, stride=2, padding=1)
    expected = windows.masked_fill(~in_sight, -torch.inf).amax(-1)
    assert torch.equal(stack, cut(expected, patches))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_a_masked_mean_counts_hidden_positions_as_it_counts_padding(axes, count_include_pad):
    layer = masked(AVERAGE_POOLINGS[axes](3, 2, 1, count_include_pad=count_include_pad))
    patches, x = visible(axes), volume(axes)
    with masked_to(patches):
        stack = layer(patches.gather(x))

    windows, in_sight = windows_of(x, patches, kernel=3, stride=2, padding=1)
    divisor = 3**axes if count_include_pad else in_sight.sum(-1).clamp(min=1)
    expected = windows.masked_fill(~in_sight, 0).sum(-1) / divisor
    assert torch.allclose(stack, cut(expected, patches), atol=1e-12)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_mean_with_a_divisor_of_its_own_divides_by_it_everywhere(axes):
    layer = masked(AVERAGE_POOLINGS[axes](3, 1, 1, count_include_pad=False, divisor_override=5))
    patches, x = visible(axes), volume(axes)
    with masked_to(patches):
        stack = layer(patches.gather(x))

    windows, in_sight = windows_of(x, patches, kernel=3, stride=1, padding=1)
    expected = windows.masked_fill(~in_sight, 0).sum(-1) / 5
    assert torch.allclose(stack, cut(expected, patches), atol=1e-12)


def windows_of(x: Tensor, patches: VisiblePatches, kernel: int, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """The values of every window (B, C, *out, K), and which of them are visible positions."""
    axes = x.dim() - 2
    mask = dense_mask(patches, x.shape[2:])
    windows = [F.pad(part, (padding,) * (2 * axes)) for part in (x, mask.expand_as(x))]
    for axis in range(axes):
        windows = [part.unfold(2 + axis, kernel, stride) for part in windows]
    values, in_sight = (part.flatten(2 + axes) for part in windows)
    return values, in_sight > 0


def test_only_windows_that_reach_beyond_a_patch_are_masked():
    reaching = [nn.Conv3d(1, 1, 3), nn.Conv2d(1, 1, (1, 3)), nn.Conv1d(1, 1, 2, dilation=2), nn.MaxPool3d(3, 2)]
    reaching += [nn.AvgPool1d(2, 1), nn.Conv2d(1, 1, 2, 2, padding=1)]
    within = [nn.Conv3d(1, 1, 1), nn.Conv2d(1, 1, 2, 2), nn.Conv1d(1, 1, 1, padding="same"), nn.AvgPool3d(2)]
    within += [nn.MaxPool2d((2, 4))]
    assert all(map(reaches_beyond_patch, reaching)) and not any(map(reaches_beyond_patch, within))


def test_layers_of_another_number_of_axes_are_left_alone():
    """Channel attention convolves along channels."""
    layers = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2))
    names = list(layers.state_dict())
    mask_windows(layers, axes=2)
    mask_windows(layers, axes=2)  # a second time changes nothing

    assert [type(layer) for layer in layers][::2] == [nn.Conv1d, nn.MaxPool2d]
    assert type(layers[1]).__bases__ == (MaskedConvolution, nn.Conv2d)
    assert list(layers.state_dict()) == names


# Networks -------------------------------------------------------------------------------------------------------------


def network(axes: int) -> nn.Module:
    """Windows of all three kinds, strides, batch and group norms. Total stride 4."""
    torch.manual_seed(0)
    convolution, norm = CONVOLUTIONS[axes], BATCH_NORM[axes]
    layers = nn.Sequential(
        convolution(2, 6, 3, stride=2, padding=1),
        norm(6),
        nn.ReLU(),
        nn.Sequential(convolution(6, 6, 3, padding=1, groups=6), norm(6), nn.GELU()),
        MAX_POOLINGS[axes](3, 1, 1),
        AVERAGE_POOLINGS[axes](3, 1, 1, count_include_pad=False),
        convolution(6, 6, 2, stride=2),
        nn.GroupNorm(2, 6),
        convolution(6, 4, 3, padding=1),
        norm(4),
    ).double()
    mask_windows(layers, axes)
    return layers


def grown(patches: VisiblePatches, x: Tensor) -> tuple[VisiblePatches, Tensor]:
    """A larger grid: hidden cells full of noise behind every axis."""
    grid = [cells + 1 for cells in patches.grid]
    coordinates = np.unravel_index(patches.index.numpy(), patches.grid)
    index = torch.from_numpy(np.ravel_multi_index(coordinates, grid))

    sides = [side // cells * more for side, cells, more in zip(x.shape[2:], patches.grid, grid, strict=True)]
    larger = torch.randn(*x.shape[:2], *sides, generator=seeded(1), dtype=x.dtype)
    larger[(..., *map(slice, x.shape[2:]))] = x
    return VisiblePatches(index, grid), larger


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_more_hidden_cells_change_no_visible_feature(axes, train):
    patches, x = visible(axes), volume(axes)
    more_patches, larger = grown(patches, x)
    outputs, states = [], []
    for some, data in ((patches, x), (more_patches, larger)):
        layers = network(axes).train(train)
        with masked_to(some):
            outputs.append(layers(some.gather(data)))
        states.append(layers.state_dict())

    assert outputs[0].shape == (2, 4, 3 * PATCHES[axes][0] // 4, *(n // 4 for n in PATCHES[axes][1:]))
    assert torch.allclose(outputs[0], outputs[1], atol=1e-12)
    for key, value in states[0].items():  # running statistics too
        assert torch.allclose(value, states[1][key], atol=1e-12), key

    # The ordinary network on a zeroed volume is the leak that this test must find.
    dense = []
    for some, data in ((patches, x), (more_patches, larger)):
        zeroed = some.scatter(some.gather(data))
        dense.append(some.gather(network(axes).train(train)(zeroed)))
    assert not torch.allclose(dense[0], dense[1], atol=1e-3)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_hidden_content_changes_nothing(axes):
    patches, x = visible(axes), volume(axes)
    noise = volume(axes, seed=3)
    spoilt = torch.where(dense_mask(patches, x.shape[2:]) > 0, x, noise)
    layers = network(axes)
    with masked_to(patches):
        assert torch.equal(layers(patches.gather(x)), layers(patches.gather(spoilt)))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_with_everything_visible_it_is_the_ordinary_network(axes):
    count = int(np.prod(GRIDS[axes]))
    order = [torch.randperm(count, generator=seeded(seed)) for seed in range(2)]
    everything, x = VisiblePatches(torch.stack(order), GRIDS[axes]), volume(axes)

    dense = network(axes)(x)
    with masked_to(everything):
        stack = network(axes)(everything.gather(x))
    assert torch.allclose(everything.scatter(stack), dense, atol=1e-12)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_norms_take_statistics_of_visible_positions_alone(axes):
    patches, x = visible(axes), volume(axes)
    with masked_to(patches):
        stack = BATCH_NORM[axes](2).double()(patches.gather(x))

    rows = x.movedim(1, -1)[dense_mask(patches, x.shape[2:])[:, 0] > 0]  # (positions, C)
    mean, variance = rows.mean(0), rows.var(0, unbiased=False)
    shape = (1, 2) + (1,) * axes
    expected = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
    assert torch.allclose(stack, cut(expected, patches), atol=1e-12)


# The mask of a call ---------------------------------------------------------------------------------------------------


def other_patches(axes: int) -> VisiblePatches:
    return VisiblePatches(torch.tensor([[2, 1, 0], [4, 3, 0]]), GRIDS[axes])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_checkpoint_gives_the_same_outputs_and_gradients(axes):
    """Two calls of different masks, both before any gradient."""
    x = volume(axes)
    masks = visible(axes), other_patches(axes)

    def run(checkpoints: bool) -> tuple[list[Tensor], list[Tensor]]:
        layers = network(axes)
        layers.insert(4, nn.Dropout(0.5))  # draws again what it drew
        torch.manual_seed(1)
        outputs = []
        for patches in masks:
            with masked_to(patches):
                stack = patches.gather(x)
                outputs.append(checkpoint_with_mask(layers, stack) if checkpoints else layers(stack))
        sum(out.square().mean() for out in outputs).backward()
        return outputs, [p.grad for p in layers.parameters()]

    plain, again = run(checkpoints=False), run(checkpoints=True)
    for expected, actual in zip(plain, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


def test_a_checkpoint_computes_again():
    calls = []
    layers = network(2)
    layers.register_forward_pre_hook(lambda *_: calls.append(1))
    patches = visible(2)
    with masked_to(patches):
        out = checkpoint_with_mask(layers, patches.gather(volume(2)))
    assert len(calls) == 1
    out.sum().backward()
    assert len(calls) == 2


def test_a_backward_pass_in_another_thread_has_the_mask_too():
    """As on CUDA, where no context variable of the call is set."""

    def gradients(elsewhere: bool) -> list[Tensor]:
        layers, patches = network(3), visible(3)
        with masked_to(patches):
            loss = checkpoint_with_mask(layers, patches.gather(volume(3))).square().mean()
        if elsewhere:
            thread = threading.Thread(target=loss.backward)
            thread.start()
            thread.join(timeout=60)
        else:
            loss.backward()
        return [p.grad for p in layers.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(gradients(False), gradients(True), strict=True))


def test_nested_calls_have_their_own_masks():
    layer = masked(nn.Conv2d(2, 4, 3, padding=1))
    x = volume(2)
    first, second = visible(2), other_patches(2)

    def run(patches: VisiblePatches) -> Tensor:
        with masked_to(patches):
            return layer(patches.gather(x))

    alone = run(first)
    with masked_to(first):
        inner = run(second)
        with masked_to(None):
            dense = layer(x)
        with pytest.raises(RuntimeError, match="stop"), masked_to(second):
            raise RuntimeError("stop")
        outer = layer(first.gather(x))

    assert torch.equal(outer, alone) and torch.equal(inner, run(second))
    assert torch.equal(dense, layer(x)) and dense.shape[2:] == x.shape[2:]


def test_threads_do_not_mix_their_masks():
    """Both are in the middle of the same network at the same time."""
    layers = network(2).eval()
    x = volume(2)
    masks = visible(2), other_patches(2)
    barrier = threading.Barrier(2)

    def run(patches: VisiblePatches, wait: bool) -> Tensor:
        with masked_to(patches), torch.no_grad():
            stack = patches.gather(x)
            for layer in layers:
                stack = layer(stack)
                if wait:
                    barrier.wait(timeout=60)
        return stack

    alone = [run(patches, wait=False) for patches in masks]
    together: dict[int, Tensor] = {}
    threads = [
        threading.Thread(target=lambda i=i, patches=patches: together.update({i: run(patches, wait=True)}))
        for i, patches in enumerate(masks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(torch.equal(together[i], expected) for i, expected in enumerate(alone))


# Rule books -----------------------------------------------------------------------------------------------------------


def by_the_book(layer: nn.Module, stack: Tensor, patches: VisiblePatches) -> Tensor:
    """spconv's work with a rule book: a matrix product for each tap."""
    book: RuleBook = rule_book(layer, patches, patches.patch_size(stack))
    rows = stack.movedim(1, -1).flatten(0, -2)
    out = rows.new_zeros(len(stack) * patches.count * int(np.prod(book.patch)), layer.out_channels)

    taps = layer.weight.flatten(2).permute(2, 1, 0)  # (K, C, O)
    for (read, written), count, tap in zip(book.pairs.long().unbind(1), book.counts, taps, strict=True):
        assert (read[count:] == -1).all() and (written[count:] == -1).all()
        out = out.index_add(0, written[:count], rows[read[:count]] @ tap)
    out = out if layer.bias is None else out + layer.bias

    return out.view(len(stack), patches.count * book.patch[0], *book.patch[1:], -1).movedim(-1, 1)


@pytest.mark.parametrize(("axes", "kind"), convolutions(without=UNSUPPORTED))
def test_a_rule_book_gives_the_numbers_of_dense_maps(axes, kind):
    torch.manual_seed(0)
    layer = masked(CONVOLUTIONS[axes](2, 4, **kind))
    patches = visible(axes)
    stack = patches.gather(volume(axes))
    with masked_to(patches):
        dense = layer(stack)
    assert torch.allclose(by_the_book(layer, stack, patches), dense, atol=1e-12)


@pytest.mark.filterwarnings("ignore")  # spconv's own, at import
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_spconv_gives_the_numbers_and_gradients_of_dense_maps(axes, monkeypatch):
    if spconv_kernel() is None:
        pytest.skip("spconv is not installed")
    from spconv.pytorch import ops

    monkeypatch.setattr(ops, "get_current_stream", lambda: 0)  # asked for even without CUDA
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its wheels race with more
    try:
        dense, sparse = (output_and_gradients(axes, use_spconv) for use_spconv in (False, True))
    finally:
        torch.set_num_threads(threads)
    for expected, actual in zip(dense, sparse, strict=True):
        assert torch.allclose(actual, expected, atol=1e-5 * float(expected.abs().max()))


def output_and_gradients(axes: int, use_spconv: bool) -> list[Tensor]:
    torch.manual_seed(0)
    layer = masked(CONVOLUTIONS[axes](2, 4, 3, 2, 1)).float()
    patches = visible(axes, use_spconv)
    stack = patches.gather(volume(axes).float()).requires_grad_()
    with masked_to(patches):
        out = layer(stack)
    out.square().mean().backward()
    assert bool(patches.rule_books) is use_spconv
    return [out.detach(), stack.grad, layer.weight.grad, layer.bias.grad]


def test_depthwise_and_derived_convolutions_have_no_rule_book():
    assert isinstance(masked(nn.Conv3d(2, 4, 3)), MaskedConvolution)
    assert spconv_supports(masked(nn.Conv3d(2, 4, 3))) and spconv_supports(masked(nn.Conv1d(2, 4, 3)))
    for kind in UNSUPPORTED:
        assert not spconv_supports(masked(nn.Conv2d(2, 4, **KINDS[kind])))


def test_a_rule_book_is_made_once_for_each_kind():
    patches = visible(2)
    first = rule_book(masked(nn.Conv2d(2, 4, 3, padding=1)), patches, (8, 4))
    assert rule_book(masked(nn.Conv2d(2, 6, 3, padding=1)), patches, (8, 4)) is first
    assert rule_book(masked(nn.Conv2d(2, 4, 3, padding=2, dilation=2)), patches, (8, 4)) is not first
    assert rule_book(masked(nn.Conv2d(2, 4, 3, padding=1)), patches, (4, 4)) is not first


def test_autocast_keeps_dense_maps():
    with FakeTensorMode():
        x = torch.empty(1, device="cuda")
    assert spconv_is_exact(x) and not spconv_is_exact(torch.empty(1))
    torch.set_autocast_enabled("cuda", True)  # the context manager needs CUDA
    try:
        assert not spconv_is_exact(x)
    finally:
        torch.set_autocast_enabled("cuda", False)
