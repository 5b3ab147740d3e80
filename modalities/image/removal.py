"""What a trained classifier relies on, found by removing parts of pictures: removal curves and LIME.

Who answers is any `answer(images, hidden) -> logits`: a `LayerMasking`, or a network to which the parts are painted
over (`painted`), for comparison. Parts are segments: a map (H, W) of numbers 0 … S − 1.

    network = timm.create_model("resnet50", pretrained=True).eval()
    segments = squares((224, 224), 16)
    order = removal_order(segments, "most", saliency(network, images))
    curve = removal_curve(LayerMasking(network), images, labels, segments, order)
    grey = removal_curve(painted(network), images, labels, segments, order)
    print(curve.shares, curve.accuracy, grey.accuracy)

Source: SriramB-98/layer_masking (segment removal, LIME), from the method card's description.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from core.errors import UserError

Answer = Callable[[Tensor, Tensor], Tensor]
SHARES = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class RemovalCurve:
    """By share of segments removed: accuracy, how many answers stay as for the whole picture, and the entropy (nats)
    of the classes that are answered (low where whatever is removed looks like one class)."""

    shares: tuple[float, ...]
    accuracy: tuple[float, ...]
    unchanged: tuple[float, ...]
    entropy: tuple[float, ...]


def squares(size: tuple[int, int], side: int) -> Tensor:
    """Segments (H, W): squares of `side` pixels, row by row. Raises: UserError where they do not fit."""
    if size[0] % side or size[1] % side:
        raise UserError(f"Squares of side={side} do not fill pictures of {size[0]}x{size[1]} pixels.")
    rows, columns = (torch.arange(n) // side for n in size)
    return rows[:, None] * (size[1] // side) + columns


def painted(network: nn.Module, colour: float | Tensor = 0.0) -> Answer:
    """The network as it is, removed pixels painted over: grey by default, where inputs are normalised."""
    return lambda images, hidden: network(torch.where(hidden[:, None], torch.as_tensor(colour).to(images), images))


def saliency(network: nn.Module, images: Tensor) -> Tensor:
    """(B, H, W): how strongly each pixel moves the answer, the gradient of the largest logit, summed over channels."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(images).amax(1).sum(), images)
    return gradient.abs().sum(1)


def mass(segments: Tensor, values: Tensor) -> Tensor:
    """Sum of pixel values (B, H, W) in each segment, (B, S)."""
    flat = segments.flatten()
    return values.new_zeros(len(values), int(flat.max()) + 1).index_add_(1, flat.to(values.device), values.flatten(1))


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
    return mass(segments, salience).argsort(1, descending=first == "most")


def removed(segments: Tensor, order: Tensor, share: float) -> Tensor:
    """(B, H, W) bool: pixels of the first int(share · S) segments."""
    count = int(share * order.shape[1] + 1e-9)  # 0.7 · 10 is seven, whatever floats say
    gone = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], True)
    return gone[:, segments.to(order.device)]


@torch.no_grad()
def removal_curve(
    answer: Answer,
    images: Tensor,
    labels: Tensor,
    segments: Tensor,
    order: Tensor,
    shares: Sequence[float] = SHARES,
    batch: int = 64,
) -> RemovalCurve:
    """Answers as more and more is removed. Shapes: images (B, C, H, W), labels (B,), segments (H, W), order (B, S)."""
    said = torch.stack([_answers(answer, images, removed(segments, order, share), batch) for share in shares])
    whole = _answers(answer, images, torch.zeros_like(images[:, 0], dtype=torch.bool), batch)
    return RemovalCurve(
        tuple(shares),
        tuple((said == labels).double().mean(1).tolist()),
        tuple((said == whole).double().mean(1).tolist()),
        tuple(_entropy(one) for one in said),
    )


@torch.no_grad()
def lime(
    answer: Answer,
    image: Tensor,
    segments: Tensor,
    perturbations: int = 512,
    generator: torch.Generator | None = None,
    batch: int = 64,
) -> Tensor:
    """(S,): what keeping each segment adds to the probability of the class answered for the whole picture (C, H, W).

    A ridge regression on pictures of which each segment is kept with probability ½, the first being whole; weighted by
    √exp(−d² / 0.25²) with the cosine distance d to the whole one.
    """
    count = int(segments.max()) + 1
    kept = torch.rand(perturbations, count, generator=generator) < 0.5
    kept[0] = True
    chances = []
    for part in kept.split(batch):
        hidden = ~part[:, segments.cpu()].to(image.device)
        chances.append(answer(image.expand(len(part), -1, -1, -1), hidden).softmax(1).double().cpu())
    chances = torch.cat(chances)
    kept = kept.double()
    distance = 1 - kept.mean(1).sqrt()  # cosine of a 0/1 row with a row of ones
    return _ridge(kept, chances[:, chances[0].argmax()], (-((distance / 0.25) ** 2)).exp().sqrt())


def found(weights: Tensor, target: Tensor, segments: Tensor, top: int = 20) -> tuple[float, float]:
    """How well LIME's weights (S,) find an object, `target` (H, W) bool.

    The cosine with each segment's centred mass of the object, and the overlap (Jaccard) of the `top` segments with it.
    """
    target, segments = target.cpu(), segments.cpu()
    centred = mass(segments, (target.double() - target.double().mean())[None])[0]
    cosine = torch.cosine_similarity(weights, centred, dim=0)
    chosen = torch.isin(segments, weights.topk(min(top, len(weights))).indices)
    return float(cosine), float((chosen & target).sum() / (chosen | target).sum())


def _answers(answer: Answer, images: Tensor, hidden: Tensor, batch: int) -> Tensor:
    parts = zip(images.split(batch), hidden.split(batch), strict=True)
    return torch.cat([answer(x, h).argmax(1) for x, h in parts])


def _entropy(classes: Tensor) -> float:
    shares = classes.bincount().double() / len(classes)
    return float(-torch.special.xlogy(shares, shares).sum())


def _ridge(x: Tensor, y: Tensor, weight: Tensor, strength: float = 1.0) -> Tensor:
    """Coefficients of a weighted ridge regression with an intercept that is not shrunk."""
    mean = lambda values: (weight @ values) / weight.sum()  # noqa: E731
    x, y = x - mean(x), y - mean(y)
    gram = x.T @ (weight[:, None] * x) + strength * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, x.T @ (weight * y))
