"""Layer masking: what is removed has no influence, and what cannot be traced is refused."""

import pytest
import timm
import torch
from torch import nn

from core.errors import UserError
from modalities.image.interpret.layer_masking import LayerMasking, fill


def network(name: str = "test_resnet") -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5).eval()


def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["test_resnet", "seresnet18", "densenet121"])
def test_nothing_removed_is_the_ordinary_network(name):
    plain, x = network(name), pictures()
    with torch.no_grad():
        masked = LayerMasking(plain).eval()(x, torch.zeros(2, 64, 64, dtype=torch.bool))
        assert torch.allclose(masked, plain(x), atol=1e-5)


@pytest.mark.parametrize("rule", ["fill", "zero", "coverage"])
def test_what_is_removed_changes_nothing(rule):
    hidden = torch.zeros(2, 64, 64, dtype=torch.bool)
    hidden[:, 8:40, 16:48] = True
    x = pictures()
    other = torch.where(hidden[:, None], torch.randn_like(x), x)
    masked = LayerMasking(network(), rule).eval()
    with torch.no_grad():
        assert torch.equal(masked(x, hidden), masked(other, hidden))
        if rule != "zero":
            assert not torch.equal(masked(x, hidden), network()(x * ~hidden[:, None]))


def test_one_ring_is_filled_with_the_mean_of_its_kept_neighbours():
    keep = torch.ones(1, 1, 5, 5)
    keep[..., 1:4, 1:4] = 0
    x = fill(torch.full((1, 1, 5, 5), 3.0), keep, 1)
    assert torch.allclose(x[..., 1, 1], torch.tensor(3.0), atol=1e-4) and x[..., 2, 2] == 0


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_networks_that_cannot_be_walked_are_refused():
    with pytest.raises(UserError, match=r"torch\.fx can trace"):
        LayerMasking(Branches())
    with pytest.raises(UserError, match="no rule for"):
        LayerMasking(nn.Sequential(nn.PixelShuffle(1))).eval()(pictures(), torch.zeros(2, 64, 64, dtype=torch.bool))
    with pytest.raises(UserError, match="eval"):
        LayerMasking(network().train())(pictures(), torch.zeros(2, 64, 64, dtype=torch.bool))
