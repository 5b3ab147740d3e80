"""Sums over neighbours: the fast path gives what the plain one gives, gradients included."""

import gc
import weakref

import pytest
import torch

from core.tokens import Layout
from modalities.graph.nn.message_passing import EdgeIndex, edge_softmax, neighbour_sum, plain_weighted_sum, weighted_sum


def links(nodes: int, rows: int, count: int) -> EdgeIndex:
    drawn = torch.Generator().manual_seed(0)
    source = torch.randint(nodes, (count,), generator=drawn)
    return EdgeIndex(source, torch.randint(rows, (count,), generator=drawn), nodes, rows)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_fast_sum_is_the_plain_sum(heads, count):
    plan, x, weight = links(7, 5, count), torch.rand(7, heads, 4).double(), torch.rand(count, heads).double()
    outs = []
    for sum_of in (weighted_sum, plain_weighted_sum):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = sum_of(a, b, plan)
        out.square().sum().backward()
        outs.append((out.detach(), a.grad, b.grad))
    for fast, plain in zip(*outs, strict=True):
        assert torch.allclose(fast, plain, atol=1e-12)


def test_neighbours_are_added():
    x = torch.rand(7, 4)
    plan = links(7, 5, 20)
    assert torch.allclose(neighbour_sum(x, plan), torch.zeros(5, 4).index_add(0, plan.row, x[plan.source]), atol=1e-6)


def test_softmax_sums_to_one_at_every_row_that_has_edges():
    plan = links(6, 6, 12)
    weight = edge_softmax(100 * torch.randn(12, 2), plan)
    total = torch.zeros(6, 2).index_add(0, plan.row, weight)
    assert torch.allclose(total[plan.row], torch.ones(12, 2), atol=1e-5)


def test_plans_are_made_once_and_forgotten_with_their_edges():
    layout = Layout(3, edges=torch.tensor([[1, 0], [0, 2]]))
    plan = EdgeIndex.of(layout)
    plan.plans(2)
    assert EdgeIndex.of(layout) is plan
    known = weakref.ref(plan)
    del plan, layout
    gc.collect()
    assert known() is None


def test_plans_of_an_evaluation_serve_training():
    layout, weight = Layout(3, edges=torch.tensor([[1, 0], [0, 2]])), torch.rand(2, 1, requires_grad=True)
    with torch.inference_mode():
        EdgeIndex.of(layout).plans(1)
    plan = EdgeIndex.of(layout)
    x = torch.rand(3, 1, 4, requires_grad=True)
    (weighted_sum(x, weight, plan).sum() + x[plan.source].square().sum()).backward()
    assert x.grad is not None and weight.grad is not None
