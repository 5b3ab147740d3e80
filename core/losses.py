"""Losses: `(prediction, values) ->` one error per unit of weight. Reductions are the objective's.

Prediction and values are (B, M, P) unless said otherwise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mse(prediction: Tensor, values: Tensor) -> Tensor:
    """Mean squared error of each row, Σ_p (x − y)² / P: (B, M)."""
    return (prediction - values).square().mean(-1)


def l1(prediction: Tensor, values: Tensor) -> Tensor:
    """Mean absolute error of each row, Σ_p |x − y| / P: (B, M)."""
    return (prediction - values).abs().mean(-1)


def scaled_cosine(prediction: Tensor, values: Tensor, gamma: float = 2.0) -> Tensor:
    """(1 − cosine similarity)^γ of each row: (B, M). A length below 1e-12 counts as that. Source: GraphMAE (SCE).

    A prediction of exactly 0, as of a fresh decoder where all neighbours are hidden too, has a gradient of
    γ · 1e12, as in the official code.
    """
    # Not the product of normalised rows, which is the same: that writes both of them down, and again for gradients.
    lengths = prediction.norm(dim=-1).clamp(min=1e-12) * values.norm(dim=-1).clamp(min=1e-12)
    return (1 - (prediction * values).sum(-1) / lengths).pow(gamma)


def chamfer(prediction: Tensor, values: Tensor, squared: bool = True) -> Tensor:
    """Chamfer distance of two sets of points in each row: (B, M).

    Squared: mean_p min_s |p − s|² + mean_s min_p |s − p|². Else half the sum of the means of the roots.
    Differences are taken directly, not by a² + b² − 2ab.
    Shapes: prediction (B, M, P · A) or (B, M, P, A), values (B, M, S, A). Source: Pang-Yatian/Point-MAE (cdl2, cdl1).
    """
    predicted = _as_points(prediction, values)
    with torch.no_grad():  # which points are nearest; gradients need their differences alone
        distance = _all_squares(predicted, values)
        to_values, to_predicted = distance.argmin(-1), distance.argmin(-2)

    forward = _squares(predicted, _points(values, to_values))
    backward = _squares(values, _points(predicted, to_predicted))
    if squared:
        return forward.mean(-1) + backward.mean(-1)
    tiny = torch.finfo(forward.dtype).tiny  # the root's slope at 0 is infinite
    return (forward.clamp(min=tiny).sqrt().mean(-1) + backward.clamp(min=tiny).sqrt().mean(-1)) / 2


def to_nearest(prediction: Tensor, values: Tensor) -> Tensor:
    """Squared distance of each point of `values` to the nearest predicted one: (B, M, S).

    Shapes: prediction (B, M, P · A) or (B, M, P, A), values (B, M, S, A).
    """
    return _all_squares(_as_points(prediction, values), values).amin(-2)


def _as_points(prediction: Tensor, values: Tensor) -> Tensor:
    """The prediction as points of as many axes as those of `values`: (B, M, P, A)."""
    return prediction.reshape(*values.shape[:-2], -1, values.shape[-1])


def _all_squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of points (…, P, A) and (…, S, A): (…, P, S)."""
    return _squares(a[..., :, None, :], b[..., None, :, :])


def _points(points: Tensor, index: Tensor) -> Tensor:
    """Of points (…, P, A) those at `index` (…, K): (…, K, A)."""
    return points.gather(-2, index[..., None].expand(*index.shape, points.shape[-1]))


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1)


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
