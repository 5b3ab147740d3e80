"""Losses: one error per unit of weight."""

import pytest
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


def by_hand(prediction, values, squared):
    """Point by point, in double precision."""
    rows = []
    for predicted, points in zip(prediction.flatten(0, 1).double(), values.flatten(0, 1).double(), strict=True):
        distance = torch.cdist(predicted.unflatten(0, (-1, 3)), points, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance.amin(1), distance.amin(0)
        rows.append(sum(d.square().mean() for d in nearest) if squared else sum(d.mean() for d in nearest) / 2)
    return torch.stack(rows).unflatten(0, prediction.shape[:2])


def test_chamfer_of_sets_of_unequal_size():
    prediction, values = torch.randn(2, 4, 15), torch.randn(2, 4, 7, 3)
    for squared in (True, False):
        error = losses.chamfer(prediction, values, squared=squared)
        assert error.shape == (2, 4)
        assert torch.allclose(error.double(), by_hand(prediction, values, squared), atol=1e-6)
    assert torch.equal(losses.chamfer(values.flatten(2), values), torch.zeros(2, 4))


def test_chamfer_gradients_are_those_of_the_plain_formula_and_finite_where_points_coincide():
    values = torch.randn(1, 2, 5, 3)
    for squared in (True, False):
        ours = torch.randn(1, 2, 12, requires_grad=True)
        plain = ours.detach().clone().requires_grad_()
        losses.chamfer(ours, values, squared=squared).sum().backward()
        by_hand(plain, values, squared).sum().backward()
        assert torch.allclose(ours.grad, plain.grad, atol=1e-5)

        same = values.flatten(2).clone().requires_grad_()
        losses.chamfer(same, values, squared=squared).sum().backward()
        assert torch.equal(same.grad, torch.zeros_like(same))


@pytest.mark.parametrize("scale", [0.0, 1e-13, 1.0])
def test_scaled_cosine_has_the_gradients_of_the_official_code_at_zero_too(scale):
    """The official sce_loss: (1 − Σ normalize(x) · normalize(y))^α, with PyTorch's normalize, per row."""
    ours = (scale * torch.randn(5, 7)).requires_grad_()
    theirs, values = ours.detach().clone().requires_grad_(), torch.randn(5, 7)
    losses.scaled_cosine(ours, values).sum().backward()
    normalised = [F.normalize(x, dim=-1) for x in (theirs, values)]
    (1 - (normalised[0] * normalised[1]).sum(-1)).pow(2).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert scale or ours.grad.norm() > 1e11
