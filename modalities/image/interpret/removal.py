"""The parts of pictures that a trained classifier relies on: removal curves and LIME.

A classifier is any `classify(images, hidden) -> logits`: a `LayerMasking`, or a network with the removed
parts painted over (`paint_over`), for comparison. Parts are segments: a map (H, W) of numbers 0 … S − 1.

    network = timm.create_model("resnet50", pretrained=True).eval()
    segments = square_segments((224, 224), 16)
    order = removal_order(segments, "most", saliency(network, images))
    curve = removal_curve(LayerMasking(network), images, labels, segments, order)
    grey = removal_curve(paint_over(network), images, labels, segments, order)
    print(curve.shares, curve.accuracy, grey.accuracy)

Source: SriramB-98/layer_masking (segment removal, LIME), from the method card's description.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from core.errors import UserError

Classifier = Callable[[Tensor, Tensor], Tensor]
SHARES = tuple(i / 10 for i in range(11))


@dataclass(frozen=True, kw_only=True)
class RemovalCurve:
    """By share of segments removed: accuracy, the share of predictions that stay as for the whole picture, and
    the entropy (nats) of the predicted classes (low where all such pictures look like one class)."""

    shares: tuple[float, ...]
    accuracy: tuple[float, ...]
    unchanged: tuple[float, ...]
    entropy: tuple[float, ...]


# Segments ---------------------------------------------------------------------------------------------------


def square_segments(size: tuple[int, int], side: int) -> Tensor:
    """Segments (H, W): squares of `side` pixels, row by row. Raises: UserError where they do not fit."""
    if size[0] % side or size[1] % side:
        raise UserError(f"Squares of side={side} do not fill pictures of {size[0]}x{size[1]} pixels.")
    rows, columns = (torch.arange(n) // side for n in size)
    return rows[:, None] * (size[1] // side) + columns


def segment_sums(segments: Tensor, values: Tensor) -> Tensor:
    """Sum of pixel values (B, H, W) in each segment, (B, S)."""
    flat = segments.flatten()
    sums = values.new_zeros(len(values), int(flat.max()) + 1)
    return sums.index_add_(1, flat.to(values.device), values.flatten(1))


def saliency(network: nn.Module, images: Tensor) -> Tensor:
    """(B, H, W): the gradient of the largest logit at each pixel, absolute, summed over channels."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(images).amax(1).sum(), images)
    return gradient.abs().sum(1)


def removal_order(
    segments: Tensor,
    first: Literal["random", "most", "least"],
    salience: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(B, S): segments in the order of removal, the most or least salient first; `salience` (B, H, W)."""
    if first == "random":
        count = int(segments.max()) + 1
        return torch.rand(len(salience), count, generator=generator).argsort(1).to(salience.device)
    if first not in ("most", "least"):
        raise UserError(f"first={first} is no order of removal; choose random, most or least.")
    return segment_sums(segments, salience).argsort(1, descending=first == "most")


def removal_mask(segments: Tensor, order: Tensor, share: float) -> Tensor:
    """(B, H, W) bool: pixels of the first int(share · S) segments."""
    count = int(share * order.shape[1] + 1e-9)  # 0.7 · 10 is seven, whatever floats give
    hidden = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], True)
    return hidden[:, segments.to(order.device)]


# Classifiers ------------------------------------------------------------------------------------------------


def paint_over(network: nn.Module, colour: float | Tensor = 0.0) -> Classifier:
    """The network as it is, removed pixels painted over: grey by default, where inputs are normalised."""

    def classify(images: Tensor, hidden: Tensor) -> Tensor:
        paint = torch.as_tensor(colour).to(images)
        return network(torch.where(hidden[:, None], paint, images))

    return classify


@torch.no_grad()
def removal_curve(
    classify: Classifier,
    images: Tensor,
    labels: Tensor,
    segments: Tensor,
    order: Tensor,
    shares: Sequence[float] = SHARES,
    batch: int = 64,
) -> RemovalCurve:
    """Predictions as ever more is removed.

    Shapes: images (B, C, H, W), labels (B,), segments (H, W), order (B, S).
    """
    masks = [removal_mask(segments, order, share) for share in shares]
    classes = torch.stack([_predicted_classes(classify, images, hidden, batch) for hidden in masks])

    nothing = torch.zeros_like(images[:, 0], dtype=torch.bool)
    of_whole = _predicted_classes(classify, images, nothing, batch)

    return RemovalCurve(
        shares=tuple(shares),
        accuracy=tuple((classes == labels).double().mean(1).tolist()),
        unchanged=tuple((classes == of_whole).double().mean(1).tolist()),
        entropy=tuple(map(_entropy, classes)),
    )


def _predicted_classes(classify: Classifier, images: Tensor, hidden: Tensor, batch: int) -> Tensor:
    parts = zip(images.split(batch), hidden.split(batch), strict=True)
    return torch.cat([classify(x, h).argmax(1) for x, h in parts])


def _entropy(classes: Tensor) -> float:
    shares = classes.bincount().double() / len(classes)
    return float(-torch.special.xlogy(shares, shares).sum())


# LIME -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def lime(
    classify: Classifier,
    image: Tensor,
    segments: Tensor,
    perturbations: int = 512,
    generator: torch.Generator | None = None,
    batch: int = 64,
) -> Tensor:
    """(S,): the gain of each segment for the probability of the class predicted for the whole picture.

    A ridge regression on pictures in which each segment stays with probability ½, the first being whole;
    weighted by √exp(−d² / 0.25²) with the cosine distance d to the whole one. `image` is (C, H, W).
    """
    count = int(segments.max()) + 1
    keep = torch.rand(perturbations, count, generator=generator) < 0.5
    keep[0] = True

    probabilities = []
    for part in keep.split(batch):
        hidden = ~part[:, segments.cpu()].to(image.device)
        logits = classify(image.expand(len(part), -1, -1, -1), hidden)
        probabilities.append(logits.softmax(1).double().cpu())
    probabilities = torch.cat(probabilities)

    keep = keep.double()
    distance = 1 - keep.mean(1).sqrt()  # cosine of a 0/1 row with a row of ones
    weight = (-((distance / 0.25) ** 2)).exp().sqrt()
    return _ridge(keep, probabilities[:, probabilities[0].argmax()], weight)


def localisation(weights: Tensor, target: Tensor, segments: Tensor, top: int = 20) -> tuple[float, float]:
    """Agreement of LIME's weights (S,) with an object, `target` (H, W) bool.

    The cosine with each segment's centred mass of the object, and the overlap (Jaccard) of the `top` segments
    with it.
    """
    target, segments = target.cpu(), segments.cpu()
    centred = segment_sums(segments, (target.double() - target.double().mean())[None])[0]
    cosine = torch.cosine_similarity(weights, centred, dim=0)

    best = torch.isin(segments, weights.topk(min(top, len(weights))).indices)
    return float(cosine), float((best & target).sum() / (best | target).sum())


def _ridge(x: Tensor, y: Tensor, weight: Tensor, strength: float = 1.0) -> Tensor:
    """Coefficients of a weighted ridge regression with an intercept that is not shrunk."""
    x = x - (weight @ x) / weight.sum()
    y = y - (weight @ y) / weight.sum()
    gram = x.T @ (weight[:, None] * x) + strength * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, x.T @ (weight * y))
