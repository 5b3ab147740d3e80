"""Networks of timm through spconv: when it is chosen, and its numbers where it is installed."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from core import sparse
from core.sparse import MaskedConvolution, VisiblePatches, masked_to, spconv_applies, spconv_supports
from modalities.image.nn.convnet import ConvNet
from tests.modalities.image.networks import encoder


def visible(use_spconv: bool = False, device: str = "cpu") -> VisiblePatches:
    return VisiblePatches(torch.tensor([[4, 0, 5], [8, 7, 1]], device=device), (3, 4), use_spconv)


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
    monkeypatch.setattr(sparse, "spconv_kernel", lambda: print)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on = {kind: torch.empty(1, device="cuda", dtype=kind) for kind in (torch.float32, torch.bfloat16)}
    assert spconv_applies(network, on[torch.float32]) is all_there
    assert not spconv_applies(network, on[torch.bfloat16]), "spconv has no bfloat16"
    assert not spconv_applies(network, torch.empty(1)), "its convolutions on a CPU are no faster"
    monkeypatch.setattr(sparse, "spconv_kernel", lambda: None)
    assert not spconv_applies(network, on[torch.float32]), "not installed"


def test_every_wide_convolution_is_asked():
    windows = [layer for layer in encoder("resnet10t").network.modules() if isinstance(layer, MaskedConvolution)]
    assert len(windows) > 8 and all(map(spconv_supports, windows))


def device_or_skip(name: str) -> str:
    if sparse.spconv_kernel() is None:
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
        dense, sparsely = (maps_and_gradients(made, use_spconv, device) for use_spconv in (False, True))
    finally:
        if device == "cpu":
            torch.set_num_threads(threads)
    largest = max(float(g.abs().max()) for g in dense[1].values())
    for a, b in zip(sparsely[0], dense[0], strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    for key, b in dense[1].items():
        assert (sparsely[1][key] - b).abs().max() <= 1e-4 * max(float(b.abs().max()), 1e-3 * largest), key


def maps_and_gradients(made: ConvNet, use_spconv: bool, device: str) -> tuple[list[Tensor], dict[str, Tensor]]:
    made.zero_grad()
    patches = visible(use_spconv, device)
    x = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0)).to(device)
    with masked_to(patches):
        maps = made.network.forward_intermediates(patches.gather(x), intermediates_only=True)
    sum(x.square().mean() for x in maps).backward()
    assert bool(patches.rule_books) is use_spconv, "which way it went"
    gradients = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    return [x.detach() for x in maps], gradients
