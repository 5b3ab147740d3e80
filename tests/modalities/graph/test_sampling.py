"""Sampled subgraphs and the transformer's encodings."""

import numpy as np
import pytest
import torch

from core import seeding
from core.config import compose
from core.config.build import build, build_method
from core.errors import BadSample, UserError
from core.tokens import Batch
from modalities.graph.graphs import Graphs
from modalities.graph.nn.transformer import random_walk
from modalities.graph.sampling import SampledReader, SampledSource, edges_between, sample_nodes, write
from modalities.graph.tokenizer import Nodes


@pytest.fixture
def folder(tmp_path):
    """A star of ten nodes round node 0, and a chain 10 - 11 - 12."""
    edges = [(0, i) for i in range(1, 10)] + [(10, 11), (11, 12)]
    both = np.array(edges + [(b, a) for a, b in edges]).T
    write(tmp_path, both, np.arange(26, dtype=np.float32).reshape(13, 2))
    return str(tmp_path)


def test_subgraphs_hold_a_root_and_at_most_so_many_neighbours(folder):
    items, reader = SampledSource(folder).items("train"), SampledReader((3, 3))
    with seeding.seeded(0):
        star, chain = reader.read(items[0], True), reader.read(items[10], True)
    assert len(star.x) == 4 and star.x[0].tolist() == [0.0, 1.0] and star.roots.tolist() == [0]
    assert sorted(chain.x[:, 0].tolist()) == [20.0, 22.0, 24.0] and chain.edge_index.shape[1] == 4 + 3
    both = reader.collate([star, chain])
    assert both.roots.tolist() == [0, 4] and both.counts == (4, 3)


def test_the_same_seed_draws_the_same(folder):
    item, reader = SampledSource(folder).items("train")[0], SampledReader((3,))
    drawn = []
    for seed in (1, 1, 2):
        with seeding.seeded(seed):
            drawn.append(reader.read(item, True).x)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(reader.read(item, False).x, reader.read(item, False).x)


def test_links_are_those_of_the_graph():
    indptr, indices = np.array([0, 1, 3, 4]), np.array([1, 0, 2, 1])
    assert edges_between(indptr, indices, np.array([2, 1])).T.tolist() == [[1, 0], [0, 1]]


@pytest.fixture
def adjacency():
    """Twenty nodes; [a, b]: b sends to a. Node 0 hears of all others, node 19 of none."""
    found = np.random.default_rng(0).random((20, 20)) < 0.15
    found[0], found[19] = True, False
    np.fill_diagonal(found, False)
    return found


@pytest.mark.parametrize("fanout", [(3,), (3, 2), (50, 50, 50)])
def test_what_is_reached_and_linked_is_what_the_matrix_says(adjacency, fanout):
    indptr = np.concatenate([[0], adjacency.sum(1).cumsum()])
    indices = adjacency.nonzero()[1]
    for root in range(20):
        nodes = sample_nodes(indptr, indices, root, fanout, np.random.default_rng(root))
        near = np.eye(20, dtype=bool)[root]
        assert nodes[0] == root and len(np.unique(nodes)) == len(nodes)
        first = nodes[1 : 1 + min(fanout[0], adjacency[root].sum())]
        assert adjacency[root][first].all() and len(first) == min(fanout[0], adjacency[root].sum())
        for _ in fanout:
            near = near | adjacency[near].any(0)
        assert near[nodes].all() and (len(nodes) == near.sum() or max(fanout) < 50)
        linked = np.zeros((len(nodes), len(nodes)), bool)
        sender, receiver = edges_between(indptr, indices, nodes)
        linked[receiver, sender] = True
        assert (linked == adjacency[np.ix_(nodes, nodes)]).all()


def test_every_neighbour_is_drawn_in_time(adjacency):
    indptr, indices = np.concatenate([[0], adjacency.sum(1).cumsum()]), adjacency.nonzero()[1]
    drawn = [sample_nodes(indptr, indices, 0, (4,), np.random.default_rng(seed))[1:] for seed in range(200)]
    assert set(np.concatenate(drawn)) == set(range(1, 20))


def test_roots_are_listed_or_all_and_made_when_asked_for(tmp_path, folder):
    every = SampledSource(folder).items("train")
    assert [item.member for item in every] == [str(node) for node in range(13)]
    assert [item.key for item in every[11:]] == ["000000011", "000000012"]
    np.save(tmp_path / "roots.npy", np.array([4, 2]))
    assert [item.member for item in SampledSource(folder).items("test")] == ["4", "2"]


def test_missing_arrays_are_named(tmp_path, folder):
    with pytest.raises(UserError, match=r"lacks indptr\.npy"):
        SampledSource(str(tmp_path / "none")).items("train")
    item = SampledSource(folder).items("train")[0]
    (tmp_path / "features.npy").unlink()
    with pytest.raises(BadSample):
        SampledReader().read(item, True)


def test_graphmae2_predicts_latents_at_roots(folder):
    settings = ["modality=graph", "method=graphmae2", "data=graph_sampled", f"data.root={folder}"]
    config = compose([*settings, "modality.features=2", "method.encoder.width=8", "size=nano"])
    method, reader = build_method(config), build(config["modality"]["reader"])
    items = SampledSource(folder).items("train")
    out = method(Batch({"graph": reader.collate([reader.read(item, False) for item in items[:3]])}))
    assert out.predictions["latent"].shape == (1, 3, 8) and torch.isfinite(out.loss)


def test_walks_return_as_powers_of_the_transition_matrix_say():
    graph = Graphs.of(torch.rand(7, 2), torch.tensor([[0, 1, 2, 4, 5], [1, 2, 0, 5, 4]]), (4, 3))
    layout = Nodes(2)(graph).layout
    step = torch.zeros(7, 7)
    step[layout.edges[1], layout.edges[0]] = 1
    step /= step.sum(1, keepdim=True)
    expected = torch.stack([torch.linalg.matrix_power(step, k).diagonal() for k in (1, 2, 3)], 1)
    assert torch.allclose(random_walk(layout, 3), expected, atol=1e-6)
