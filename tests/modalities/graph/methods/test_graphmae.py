"""GraphMAE's masks: nodes of a whole batch, codes hidden again, dropped edges."""

import pytest
import torch

from core.seeding import METHOD, PlacedGenerator, mix, seed_part
from core.tokens import ForwardContext
from modalities.graph.methods.graphmae import NodeMasker, drop_edges
from tests.modalities.graph.masking import mask, tokens


def test_counts_are_the_published_ones():
    """Cora: 1354 hidden, 1286 erased, 67 with other features, one untouched."""
    found = mask(NodeMasker(0.5, replace=0.05), tokens(2708))
    source = found.content_from[0]
    hidden = found.hidden[0]
    own = source == torch.arange(2708)
    assert int(hidden.sum()) == 1354 and int((source < 0).sum()) == 1286
    assert int((hidden & ~own & (source >= 0)).sum()) in (66, 67)  # a node may be given its own features
    assert own[~hidden].all() and found.visible.count == 1354
    place = found.queries["main"]
    assert torch.equal(place.rows.index, place.remask.index)


@pytest.mark.parametrize("counts", [(1,), (2,), (1, 1, 1)])
def test_tiny_graphs_have_something_to_predict(counts):
    found = mask(NodeMasker(0.4, replace=0.3), tokens(*counts))
    assert int(found.hidden.sum()) == max(1, int(0.4 * sum(counts)))


def test_random_remasks_are_drawn_from_all_nodes():
    found = mask(NodeMasker(0.5, remask="random", decodings=3, remask_ratio=0.4, latent=True), tokens(10))
    assert list(found.queries) == ["main/0", "main/1", "main/2", "latent"]
    erased = [found.queries[f"main/{i}"].remask.index[0] for i in range(3)]
    assert all(len(e) == 4 for e in erased) and not torch.equal(erased[0].sort().values, erased[1].sort().values)
    assert found.queries["latent"].rows.count == 10


@pytest.mark.parametrize("loops", ["doubled", "single"])
def test_dropped_edges(loops):
    layout = tokens(6, links=40)["graph"].layout
    keep = torch.ones(layout.edges.shape[1], dtype=torch.bool)
    found = drop_edges(layout, keep, loops)
    own = found.edges[0] == found.edges[1]
    assert int(own.sum()) == (12 if loops == "doubled" else 6)
    assert bool((found.edges[1].diff() >= 0).all())
    assert drop_edges(layout, ~keep, loops).edges.shape[1] == 6


def test_only_the_encoder_sees_fewer_edges():
    found = tokens(6, links=40)
    drawn = mask(NodeMasker(0.5, drop_edges=0.5), found)
    assert drawn.layout.edges.shape != found["graph"].layout.edges.shape


def test_ranks_draw_apart_and_the_first_as_one_process_does():
    """Equal numbers of nodes on every rank, which should not hide the same ones."""
    nodes, masker = tokens(20, links=40), NodeMasker(0.5, replace=0.2, drop_edges=0.3)

    def draws(rank, size):
        generator = PlacedGenerator()
        generator.rank, generator.size = rank, size
        seed_part(generator, seed=3, step=7, rank=rank, part=0)
        return masker.draw(nodes, generator, ForwardContext(None, nodes))["graph"]

    alone, first, second = draws(0, 1), draws(0, 2), draws(1, 2)
    assert all(torch.equal(alone[name], first[name]) for name in alone)
    assert not any(torch.equal(first[name], second[name]) for name in first)

    plain = torch.Generator().manual_seed(mix(3, METHOD, 7, 0, 0))
    assert torch.equal(alone["nodes"], torch.randperm(20, generator=plain)), "curves of earlier runs stay"
