"""Dropout and PReLU on a CPU: what torch's own give."""

import pytest
import torch
from torch import nn

from modalities.graph.nn.elementwise import PReLU, dropout


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.75])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_takes_its_share_and_keeps_the_mean(share, dtype):
    out = dropout(torch.ones(999, 1001, dtype=dtype), share, True)
    count, taken = out.numel(), out == 0
    assert abs(int(taken.sum()) - share * count) < 5 * (count * share * (1 - share)) ** 0.5
    assert torch.allclose(out[~taken], torch.tensor(1 / (1 - share), dtype=dtype), rtol=1e-4)
    for axis in (0, 1):  # no row or column is favoured
        part = taken.double().mean(axis)
        assert float((part - share).abs().max()) < 6 * (share * (1 - share) / 999) ** 0.5


def test_dropout_is_the_same_for_the_same_seed_and_in_the_gradient():
    x, outs = torch.rand(7, 3).requires_grad_(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(dropout(x, 0.5, True))
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])
    (grad,) = torch.autograd.grad(outs[0].sum(), x)
    assert torch.equal(grad * x, outs[0])


@pytest.mark.parametrize(("share", "training", "left"), [(0.0, True, 1.0), (0.7, False, 1.0), (1.0, True, 0.0)])
def test_all_or_nothing(share, training, left):
    assert torch.equal(dropout(torch.ones(4, 5), share, training), torch.full((4, 5), left))


def test_empty_and_odd_shapes():
    assert dropout(torch.ones(0, 3), 0.5, True).shape == (0, 3)
    assert dropout(torch.ones(5), 0.5, True).shape == (5,)


def test_prelu_is_that_of_torch():
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 0.0
    found = []
    for layer in (PReLU(), nn.PReLU()):
        layer, inside = layer.double(), x.clone().requires_grad_()
        out = layer(inside)
        out.pow(3).sum().backward()
        found.append((out.detach(), inside.grad, layer.weight.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
