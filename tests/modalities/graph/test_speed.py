"""What the speed benchmark compares computes the same."""

import torch

from benchmarks.graphmae import difference
from modalities.graph.graphs import Graphs


def test_losses_and_gradients_of_all_sides_are_equal():
    drawn = torch.Generator().manual_seed(0)
    x = torch.rand(60, 40, generator=drawn) * (torch.rand(60, 40, generator=drawn) < 0.08)
    graph = Graphs.of(x, torch.randint(60, (2, 150), generator=drawn))
    assert graph.compact().is_sparse
    for features in (graph, graph.compact()):
        assert difference(features) < 1e-5
