import numpy as np
import torch

from core.evaluation import projection
from core.evaluation.projection import fit_components, scale_overall, standardise, whiten


def sample(rows, width, seed=0):
    """Decaying spectrum in a random basis, shifted."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return torch.randn(rows, width, generator=generator) * 0.9 ** torch.arange(width) @ basis.T * 30 + 100


def test_components_are_those_of_a_singular_value_decomposition():
    x = sample(300, 200)
    found = fit_components(x, 10)  # by the randomised way: 26 of 200 columns
    exact = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close(found.scale, exact.S[:10] / 299**0.5, rtol=1e-3, atol=0)
    overlap = (found.basis.T @ exact.Vh[:6].T).abs()[:6]
    torch.testing.assert_close(overlap, torch.eye(6), atol=0.05, rtol=0)
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(10), atol=1e-5, rtol=0)


def test_bytes_give_what_floats_give(monkeypatch):
    x = sample(90, 40).clamp(0, 255).to(torch.uint8)
    whole = fit_components(x.float(), 8)
    monkeypatch.setattr(projection, "CHUNK", 7)
    parts = fit_components(x, 8)
    torch.testing.assert_close(parts.scale, whole.scale)
    torch.testing.assert_close(parts.project(x).abs(), whole.project(x.float()).abs(), atol=0.1, rtol=1e-3)


def test_directions_without_variance_are_left_out():
    x = torch.randn(50, 3) @ torch.randn(3, 20)
    assert fit_components(x, 10).scale.shape == (3,)
    assert whiten(x.numpy(), np.arange(50)).shape == (50, 3)


def test_whitening_is_fitted_on_the_given_rows_alone():
    x = sample(120, 12).numpy()
    fit = np.arange(80)
    white = whiten(x, fit)
    np.testing.assert_allclose(np.cov(white[fit].T), np.eye(12), atol=0.02)
    changed = x.copy()
    changed[80:] = 1e3
    np.testing.assert_array_equal(whiten(changed, fit)[fit], white[fit])


def test_standardising_kills_constant_features():
    x = np.stack([np.arange(10.0), np.full(10, 0.1)], axis=1).astype(np.float32)
    done = standardise(x, np.arange(10))
    np.testing.assert_allclose(done.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(done.std(0), [1, 0], atol=1e-6)


def test_overall_scale_keeps_angles():
    x = np.array([[3.0, 4.0], [0.0, 5.0]])
    np.testing.assert_allclose(scale_overall(x, np.arange(2)), x / np.sqrt(12.5))
