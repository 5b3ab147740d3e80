"""Reductions of errors, heads and readouts."""

from types import SimpleNamespace

import pytest
import torch

from core.decoders import Decoder
from core.losses import mse
from core.objectives import Head, Objective, Readout
from core.tokens import Rows

ERROR = torch.tensor([[1.0, 2, 3], [4, 5, 6]])


def objective(reduction: str = "global") -> Objective:
    return Objective(SimpleNamespace(), mse, reduction=reduction)


@pytest.mark.parametrize("reduction", ["global", "sample"])
def test_without_weights_it_is_the_mean(reduction):
    assert objective(reduction).reduce(ERROR, None, None) == 3.5
    assert objective(reduction).reduce(ERROR, None, Rows.all(2, 3)) == 3.5


def test_global_and_per_sample_ratios_differ():
    weight = torch.tensor([[1.0, 0, 0], [1, 1, 1]])
    assert objective("global").reduce(ERROR, weight, None) == (1 + 4 + 5 + 6) / 4
    assert objective("sample").reduce(ERROR, weight, None) == (1 + 5) / 2


@pytest.mark.parametrize("reduction", ["global", "sample"])
def test_padding_does_not_count(reduction):
    rows = Rows(torch.zeros(2, 3, dtype=torch.long), torch.tensor([[True, False, False], [True] * 3]))
    by_weight = objective(reduction).reduce(ERROR, rows.valid.float(), None)
    assert objective(reduction).reduce(ERROR, None, rows) == by_weight
    weight = torch.tensor([[1.0, 1, 1], [0, 1, 1]])
    both = objective(reduction).reduce(ERROR, weight, rows)
    assert both == objective(reduction).reduce(ERROR, weight * rows.valid, None)


def test_weights_per_value():
    error = torch.arange(12.0).view(2, 3, 2)
    weight = torch.zeros(2, 3, 2)
    weight[0, 1, 1], weight[1, 2, 0] = 2, 1
    assert objective().reduce(error, weight, None) == (2 * error[0, 1, 1] + error[1, 2, 0]) / 3
    per_row = torch.tensor([[[1.0], [0], [0]], [[0], [0], [1]]])
    assert objective().reduce(error, per_row, None) == error[[0, 1], [0, 2]].mean()
    rows = Rows(torch.zeros(2, 3, dtype=torch.long), torch.tensor([[True, False, False], [False, False, True]]))
    assert objective().reduce(error, None, rows) == error[[0, 1], [0, 2]].mean()


@pytest.mark.parametrize("reduction", ["global", "sample"])
@pytest.mark.parametrize("poison", [1.0, torch.inf, torch.nan])
def test_no_weight_at_all_gives_zero_and_no_gradient(reduction, poison):
    error = (ERROR * poison).requires_grad_()
    loss = objective(reduction).reduce(error, torch.zeros(2, 3), None)
    loss.backward()
    assert loss == 0 and (error.grad == 0).all()


@pytest.mark.parametrize("reduction", ["global", "sample"])
def test_errors_without_weight_may_be_infinite(reduction):
    error = torch.tensor([[1.0, torch.inf], [torch.nan, 3.0]])
    assert objective(reduction).reduce(error, torch.tensor([[1.0, 0], [0, 1]]), None) == 2


def test_samples_without_weight_are_left_out_of_the_mean():
    """MultiMAE: a modality of which a sample hides nothing."""
    weight = torch.tensor([[0.0, 0, 0], [1, 1, 0]])
    assert objective("sample").reduce(ERROR, weight, None) == 4.5


@pytest.mark.parametrize("reduction", ["global", "sample"])
def test_a_place_without_rows_gives_zero(reduction):
    error = torch.zeros(2, 0, requires_grad=True)
    loss = objective(reduction).reduce(error, None, Rows(torch.zeros(2, 0, dtype=torch.long)))
    loss.backward()
    assert loss == 0


def test_heads_may_start_as_torch_starts_them():
    """Uniform within 1 / √width, biases too."""
    torch.manual_seed(0)
    head = Head(64, 512, init="default")
    for values in (head.weight, head.bias):
        assert values.abs().max() <= 1 / 8 and abs(values.std() - 1 / 8 / 3**0.5) < 0.005


def test_heads_start_xavier():
    head = Head(64, 32)
    assert (head.bias == 0).all() and abs(head.weight.std() / (2 / 96) ** 0.5 - 1) < 0.1
    assert torch.equal(objective().predict(ERROR), ERROR), "no head: the features themselves"


def test_objectives_stand_under_what_they_read():
    one = objective()
    assert one.queries == ("main",) and Objective(SimpleNamespace(), mse, queries=["a", "b"]).queries == ("a", "b")
    assert Readout(None, {"x": one}).taps == () and Readout(None, {"x": one}, tap="block0").taps == ("block0",)


class Tapping(Decoder):
    dim, taps = 4, ("block1", "block2")

    def forward(self, latent, layout, places, others):
        return {}


def test_a_decoder_says_what_it_taps():
    assert Readout(Tapping(), {}).taps == ("block1", "block2")
