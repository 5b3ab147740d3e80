"""Principal components: of raw input as a baseline, and for whitening features."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHUNK = 256  # rows turned into floats at a time
OVERSAMPLE, PASSES = 16, 3  # of the randomised range finder (Halko, Martinsson, Tropp, 2011)


@dataclass(frozen=True)
class Components:
    """Leading principal components: mean (P,), orthonormal basis (P, K), scale (K,): deviations, descending."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def project(self, x: Tensor) -> Tensor:
        """Rows of any shape (B, …) with P values -> (B, K), unwhitened."""
        return (x.flatten(1).float() - self.mean.to(x.device)) @ self.basis.to(x.device)


def fit_components(rows: Tensor, count: int, seed: int = 0) -> Components:
    """The `count` leading components (or as many as the data have) of rows (S, P) of any type.

    Exact where P is small, else by a randomised range finder with subspace iteration.
    """
    mean = torch.zeros(rows.shape[1], dtype=torch.float64)
    for part in rows.split(CHUNK):
        mean += part.double().sum(0)
    mean = (mean / len(rows)).float()

    count = min(count, len(rows) - 1, rows.shape[1])
    width = min(count + OVERSAMPLE, rows.shape[1])
    if width == rows.shape[1]:
        basis = torch.eye(width)
    else:
        basis = torch.randn(rows.shape[1], width, generator=torch.Generator().manual_seed(seed))
        for _ in range(PASSES):
            basis = torch.linalg.qr(_covariance_times(rows, mean, basis)).Q

    # The components within the range that was found.
    projected = torch.cat([(part.float() - mean) @ basis for part in rows.split(CHUNK)]).double()
    values, vectors = torch.linalg.eigh(projected.T @ projected / max(len(rows) - 1, 1))
    scale = values.flip(0)[:count].clamp(min=0).sqrt()

    # Directions in which the data do not vary cannot be whitened.
    full = int((scale > 1e-6 * scale[:1]).sum())
    vectors = vectors.flip(1)[:, :full].float()
    return Components(mean, basis @ vectors, scale[:full].float())


def _covariance_times(rows: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """Σ (x - mean)(x - mean)ᵀ basis, a few rows at a time."""
    out = torch.zeros_like(basis)
    for part in rows.split(CHUNK):
        centred = part.float() - mean
        out.addmm_(centred.T, centred @ basis)
    return out


def whiten(features: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """All whitened principal components of features (S, D), descending, fitted on rows `fit` alone.

    The first K columns are the whitening to K components. Features that never differ give one column of
    zeros.
    """
    x = torch.from_numpy(features)
    components = fit_components(x[torch.from_numpy(fit)], features.shape[1])
    if not len(components.scale):
        return np.zeros((len(features), 1), dtype=np.float32)
    return (components.project(x) / components.scale).numpy()


def standardise(features: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Every feature with mean 0 and standard deviation 1 over rows `fit`; constant ones become 0."""
    mean, std = features[fit].mean(0), features[fit].std(0)
    return (features - mean) / np.where(std > 1e-6 * max(std.max(), 1e-30), std, np.inf)


def scale_overall(features: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Divided by one number: the root mean square over rows `fit`.

    Keeps angles and the weight of each direction.
    """
    return features / max(float(np.sqrt(np.square(features[fit], dtype=np.float64).mean())), 1e-30)
