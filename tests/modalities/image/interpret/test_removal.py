"""Removal curves and LIME, on a network that was teacher_output to look at one thing: the colour of a square."""

import pytest
import timm
import torch
from torch import Tensor, nn

from core.errors import UserError
from modalities.image.interpret.layer_masking import LayerMasking
from modalities.image.interpret.removal import (
    lime,
    localisation,
    paint_over,
    removal_curve,
    removal_mask,
    removal_order,
    saliency,
    square_segments,
)

SEGMENTS = square_segments((32, 32), 8)
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


def coloured(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a square of one of three colours in one of 16 places: pictures, colours, squares (B, H, W)."""
    drawn = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 32, 32, generator=drawn) * 0.3
    labels = torch.randint(3, (count,), generator=drawn)
    target = torch.randint(16, (count, 1, 1), generator=drawn) == SEGMENTS
    colours = 3 * torch.eye(3)[labels]
    return torch.where(target[:, None], images + colours[..., None, None], images), labels, target


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = timm.create_model("test_resnet", num_classes=3)
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    for step in range(40):
        images, labels, _ = coloured(32, step)
        nn.functional.cross_entropy(made(images), labels).backward()
        optimizer.step(), optimizer.zero_grad()
    made = made.eval()
    images, labels, _ = coloured(64, 1000)
    assert (made(images).argmax(1) == labels).double().mean() > 0.95, "it did not learn"
    return made


@pytest.mark.parametrize("kind", ["masked", "painted"])
def test_the_square_is_what_counts(network, kind):
    images, labels, target = coloured(48, 1001)
    answer = LayerMasking(network).eval() if kind == "masked" else paint_over(network)
    order = {name: removal_order(SEGMENTS, name, target.float(), seeded()) for name in ("most", "least", "random")}
    curves = {name: removal_curve(answer, images, labels, SEGMENTS, one, SHARES) for name, one in order.items()}
    with torch.no_grad():
        plain = (network(images).argmax(1) == labels).double().mean().item()
    for curve in curves.values():
        assert curve.accuracy[0] == plain and curve.unchanged[0] == 1.0
        assert curve.entropy[-1] == 0.0, "nothing left: one class for all"
    assert max(curves["most"].accuracy[1:]) < 0.6, "the square goes first"
    assert sum(curves["least"].accuracy) > sum(curves["random"].accuracy) > sum(curves["most"].accuracy)


def test_a_square_alone_is_enough(network):
    images, labels, target = coloured(48, 1002)
    order = removal_order(SEGMENTS, "least", target.float())
    curve = removal_curve(LayerMasking(network).eval(), images, labels, SEGMENTS, order, (15 / 16,))
    assert curve.accuracy[0] > 0.9


def test_lime_finds_the_square(network):
    images, _, target = coloured(4, 1003)
    answer = LayerMasking(network).eval()
    for image, square in zip(images, target, strict=True):
        weights = lime(answer, image, SEGMENTS, 200, seeded())
        cosine, overlap = localisation(weights, square, SEGMENTS, top=1)
        assert overlap == 1.0 and cosine > 0.8
        elsewhere = localisation(weights, square.roll(16, 0), SEGMENTS, top=1)
        assert elsewhere[1] == 0.0 and elsewhere[0] < 0.3


def test_lime_is_the_regression_it_says():
    """A linear answer: its coefficients come back, shrunk by the ridge alone."""
    add = torch.linspace(-1, 1, 16, dtype=torch.double)

    def answer(images: Tensor, hidden: Tensor) -> Tensor:
        kept = (~hidden[:, ::8, ::8].flatten(1)).double()
        chance = 0.5 + (kept @ add) / 40
        return torch.stack([chance, 1 - chance], 1).log()

    weights = lime(answer, torch.zeros(3, 32, 32), SEGMENTS, 4000, seeded())
    sign = 1 if answer(torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.bool)).argmax() == 0 else -1
    assert torch.allclose(sign * weights, add / 40, atol=2e-3)


def test_the_salient_pixels_are_those_of_the_square(network):
    images, _, target = coloured(16, 1004)
    values = saliency(network, images)
    assert values.shape == target.shape and not images.requires_grad
    inside = torch.stack([one[square].mean() / one.mean() for one, square in zip(values, target, strict=True)])
    assert inside.median() > 1.5


def test_as_many_segments_are_removed_as_published():
    order = removal_order(SEGMENTS, "random", torch.zeros(3, 32, 32), seeded())
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(3, -1))
    assert len(order.unique(dim=0)) == 3
    for share, count in ((0.0, 0), (0.1, 1), (0.5, 8), (0.7, 11), (1.0, 16)):
        hidden = removal_mask(SEGMENTS, order, share)
        assert hidden.flatten(1).sum(1).tolist() == [count * 64] * 3
        for row, one in zip(order, hidden, strict=True):
            assert set(SEGMENTS[one].tolist()) == set(row[:count].tolist())
    ten = square_segments((8, 80), 8)
    hidden = removal_mask(ten, removal_order(ten, "random", torch.zeros(1, 8, 80)), 0.7)
    assert hidden.sum() == 7 * 64, "0.7 · 10 is seven"


def test_orders_and_squares_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match="no order of removal; choose random, most or least"):
        removal_order(SEGMENTS, "some", torch.zeros(1, 32, 32))
    with pytest.raises(UserError, match="side=7 do not fill"):
        square_segments((32, 32), 7)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
