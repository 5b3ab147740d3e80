"""Losses: `(prediction, values) ->` one error per unit of weight. Reductions are the objective's.

Prediction and values are (B, M, P) unless said otherwise.
"""

import torch.nn.functional as F
from torch import Tensor


def mse(prediction: Tensor, values: Tensor) -> Tensor:
    """Mean squared error of each row, Σ_p (x − y)² / P: (B, M)."""
    return (prediction - values).square().mean(-1)


def l1(prediction: Tensor, values: Tensor) -> Tensor:
    """Mean absolute error of each row, Σ_p |x − y| / P: (B, M)."""
    return (prediction - values).abs().mean(-1)


def scaled_cosine(prediction: Tensor, values: Tensor, gamma: float = 2.0) -> Tensor:
    """(1 − cosine similarity)^γ of each row: (B, M). A length below 1e-12 counts as that. Source: GraphMAE (SCE)."""
    # Not the product of normalised rows, which is the same: that writes both of them down, and again for gradients.
    lengths = prediction.norm(dim=-1).clamp(min=1e-12) * values.norm(dim=-1).clamp(min=1e-12)
    return (1 - (prediction * values).sum(-1) / lengths).pow(gamma)


# Of the stress cases (tests/contracts/stress), whose methods come next: R-MAE, NeRF-MAE, CAE, MultiMAE, …


def squared(prediction: Tensor, values: Tensor) -> Tensor:
    """Squared error of each value (B, M, P): for weights per value (a voxel of a patch, say)."""
    return (prediction - values).square()


def smooth_l1(prediction: Tensor, values: Tensor, beta: float = 1.0) -> Tensor:
    """Mean over a row of d² / 2β where d = |x − y| < β, else d − β / 2: (B, M)."""
    return F.smooth_l1_loss(prediction, values, reduction="none", beta=beta).mean(-1)


def binary_cross_entropy(prediction: Tensor, values: Tensor) -> Tensor:
    """−y · log σ(x) − (1 − y) · log(1 − σ(x)) of logits x and values y in [0, 1], for each value: (B, M, P)."""
    return F.binary_cross_entropy_with_logits(prediction, values, reduction="none")


def cross_entropy(prediction: Tensor, values: Tensor) -> Tensor:
    """−log softmax(x)_id of each row: logits (B, M, vocabulary) and ids (B, M) -> (B, M)."""
    return F.cross_entropy(prediction.movedim(-1, 1), values, reduction="none")
