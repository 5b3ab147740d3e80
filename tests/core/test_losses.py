"""Losses: one error per unit of weight."""

import torch
import torch.nn.functional as F

from core import losses

A = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
B = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))


def test_errors_of_rows():
    assert torch.allclose(losses.mse(A, B), (A - B).pow(2).sum(-1) / 3)
    small, large = (A - B).abs().pow(2) / 2, (A - B).abs() - 0.5
    assert torch.allclose(losses.smooth_l1(A, B), torch.where((A - B).abs() < 1, small, large).mean(-1))
    assert torch.allclose(losses.smooth_l1(A, B, beta=0.5).mean(), F.smooth_l1_loss(A, B, beta=0.5))


def test_absolute_errors_of_rows():
    expected = ((A - B)[..., 0].abs() + (A - B)[..., 1].abs() + (A - B)[..., 2].abs()) / 3
    assert torch.allclose(losses.l1(A, B), expected)


def test_errors_of_values():
    assert torch.equal(losses.squared(A, B), (A - B).square())
    p = A.sigmoid()
    expected = -(B.sigmoid() * p.log() + (1 - B.sigmoid()) * (1 - p).log())
    assert torch.allclose(losses.binary_cross_entropy(A, B.sigmoid()), expected, atol=1e-6)


def test_angles():
    dots = (A * B).sum(-1) / A.norm(dim=-1) / B.norm(dim=-1)
    assert torch.allclose(losses.scaled_cosine(A, B, gamma=3.0), (1 - dots).pow(3), atol=1e-5)
    assert torch.allclose(losses.scaled_cosine(A, 7 * B), losses.scaled_cosine(3 * A, B), atol=1e-5)


def test_an_all_zero_truth_costs_one_and_pulls_nowhere():
    """GraphMAE: rows without features."""
    prediction = A.clone().requires_grad_()
    error = losses.scaled_cosine(prediction, torch.zeros_like(A))
    error.sum().backward()
    assert torch.equal(error, torch.ones(2, 4)) and (prediction.grad == 0).all()


def test_ids():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1, 2, 3], [4, 4, 0, 1]])
    expected = -logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    assert torch.allclose(losses.cross_entropy(logits, ids), expected, atol=1e-6)
