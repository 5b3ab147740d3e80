"""Sparse execution: rule books say what dense maps compute; when spconv is chosen; spconv itself where it is there."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from modalities.image import sparse
from modalities.image.convnet import ConvNet
from modalities.image.windows import Visible, _Window, only, runs_sparsely, swap
from tests.modalities.image.networks import encoder

KINDS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stem": {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False},
    "halving": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "flat": {"kernel_size": (1, 7), "padding": (0, 3)},
    "unlike": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2)},
}


def swapped(**kind) -> nn.Conv2d:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(3, 4, **kind)).double()
    swap(layer)
    return layer[0]


def visible(sparsely: bool = False, device: str = "cpu") -> Visible:
    return Visible(torch.tensor([[4, 0, 5], [8, 7, 1]], device=device), (3, 4), sparsely)


def by_the_book(layer: nn.Conv2d, stack: Tensor, seen: Visible) -> Tensor:
    """What spconv does with a rule book, a matrix product for each tap."""
    h, w, pairs, counts = sparse.rule_book(layer, seen, stack.shape[2] // seen.count, stack.shape[3])
    rows = stack.permute(0, 2, 3, 1).flatten(0, 2)
    out = rows.new_zeros(len(stack) * seen.count * h * w, layer.out_channels)
    taps = layer.weight.permute(2, 3, 1, 0).flatten(0, 1)  # (K, C, O)
    for (read, written), count, tap in zip(pairs.long().unbind(1), counts, taps, strict=True):
        assert (read[count:] == -1).all() and (written[count:] == -1).all()
        out = out.index_add(0, written[:count], rows[read[:count]] @ tap)
    out = out if layer.bias is None else out + layer.bias
    return out.view(len(stack), seen.count * h, w, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_book_says_what_dense_maps_compute(kind):
    layer, seen = swapped(**KINDS[kind]), visible()
    stack = torch.randn(2, 3, 3 * 8, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    with only(seen):
        dense = layer(stack)
    assert torch.allclose(by_the_book(layer, stack, seen), dense, atol=1e-12)
    # Neighbours count: patches alone would say something else.
    patches = stack.unflatten(2, (3, 8)).transpose(1, 2).flatten(0, 1)
    with only(None):
        alone = layer(patches).unflatten(0, (2, 3)).transpose(1, 2).flatten(2, 3)
    assert not torch.allclose(dense, alone, atol=1e-3)


def test_a_rule_book_is_made_once_for_each_kind():
    seen, one, other = visible(), swapped(**KINDS["3x3"]), swapped(**KINDS["dilated"])
    first = sparse.rule_book(one, seen, 8, 4)
    assert sparse.rule_book(swapped(**KINDS["3x3"]), seen, 8, 4) is first
    assert sparse.rule_book(other, seen, 8, 4) is not first and sparse.rule_book(one, seen, 4, 4) is not first


@pytest.mark.parametrize(
    ("backbone", "all_there"),
    [
        ("resnet10t", True),
        ("resnetv2_18", True),
        ("test_convnext", False),  # depthwise
        ("test_efficientnet", False),
        ("regnetx_002", False),  # groups
        ("test_nfnet", False),  # weights standardised at every call
        ("tf_efficientnet_lite0", False),  # pads by itself
    ],
)
def test_spconv_is_chosen_where_it_has_every_layer(backbone, all_there, monkeypatch):
    """On CUDA, if it is installed; both are pretended here."""
    network = encoder(backbone).network
    monkeypatch.setattr(sparse, "engine", lambda: by_the_book)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on = {kind: torch.empty(1, device="cuda", dtype=kind) for kind in (torch.float32, torch.bfloat16)}
    assert runs_sparsely(network, on[torch.float32]) is all_there
    assert not runs_sparsely(network, on[torch.bfloat16]), "spconv has no bfloat16"
    assert not runs_sparsely(network, torch.empty(1)), "its convolutions on a CPU are no faster"
    monkeypatch.setattr(sparse, "engine", lambda: None)
    assert not runs_sparsely(network, on[torch.float32]), "not installed"


def test_autocast_keeps_dense_maps():
    with FakeTensorMode():
        x = torch.empty(1, device="cuda")
    assert sparse.exact(x)
    torch.set_autocast_enabled("cuda", True)  # the context manager needs CUDA
    try:
        assert not sparse.exact(x)
    finally:
        torch.set_autocast_enabled("cuda", False)


def device_or_skip(name: str) -> str:
    if sparse.engine() is None:
        pytest.skip("spconv is not installed")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return name


@pytest.mark.filterwarnings("ignore")  # spconv's own, at import
@pytest.mark.parametrize("name", ["cpu", "cuda"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_spconv_gives_the_maps_and_gradients_of_dense_maps(backbone, name, monkeypatch):
    device = device_or_skip(name)
    if device == "cpu":
        from spconv.pytorch import ops

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # its wheels race with more
        monkeypatch.setattr(ops, "get_current_stream", lambda: 0)  # asked for even without CUDA
    made = encoder(backbone).to(device)
    try:
        dense, sparsely = (maps_and_gradients(made, one, device) for one in (False, True))
    finally:
        if device == "cpu":
            torch.set_num_threads(threads)
    largest = max(float(g.abs().max()) for g in dense[1].values())
    for a, b in zip(sparsely[0], dense[0], strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    for key, b in dense[1].items():
        assert (sparsely[1][key] - b).abs().max() <= 1e-4 * max(float(b.abs().max()), 1e-3 * largest), key


def maps_and_gradients(made: ConvNet, sparsely: bool, device: str) -> tuple[list[Tensor], dict[str, Tensor]]:
    made.zero_grad()
    seen = visible(sparsely, device)
    x = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0)).to(device)
    with only(seen):
        maps = made.network.forward_intermediates(seen.gather(x), intermediates_only=True)
    sum(one.square().mean() for one in maps).backward()
    assert bool(seen.rules) is sparsely, "which way it went"
    gradients = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    return [one.detach() for one in maps], gradients


def test_every_wide_convolution_is_asked():
    windows = [layer for layer in encoder("resnet10t").network.modules() if isinstance(layer, _Window)]
    assert len(windows) > 8 and all(map(sparse.has, windows))
