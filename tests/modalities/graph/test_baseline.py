"""Skill on graphs: what the filler says, which nodes count, and how known answers score."""

import numpy as np
import pytest
import torch

from core.config import compose
from core.config.build import build_method
from core.data.sources import Source
from core.evaluation.reconstruction import evaluate_reconstruction
from core.evaluation.settings import LoaderSettings
from core.reconstruction.errors import hidden_rows
from core.tokens import Batch, ForwardContext
from modalities.graph.baseline import NeighbourMean
from modalities.graph.formats import files
from modalities.graph.graphs import Graphs, to_dense
from modalities.graph.reader import GraphReader, GraphSource
from modalities.graph.tokenizer import Nodes

PATH = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])


def filled(graphs: Graphs, *hidden: int) -> torch.Tensor:
    flag = torch.zeros(1, len(graphs.x), dtype=torch.bool)
    flag[0, list(hidden)] = True
    tokenizer = Nodes(graphs.features)
    return NeighbourMean().predict(tokenizer, graphs, tokenizer(graphs), flag).x


def test_hidden_nodes_get_the_mean_of_visible_neighbours():
    x = torch.tensor([[1.0, 0.0], [9.0, 9.0], [3.0, 4.0], [5.0, 6.0]])
    assert filled(Graphs.of(x, PATH), 1).tolist() == [[1, 0], [2, 2], [3, 4], [5, 6]]
    assert filled(Graphs.of(x, PATH), 1, 2).tolist() == [[1, 0], [1, 0], [5, 6], [5, 6]]


def test_without_visible_neighbours_the_graph_then_the_batch_counts():
    x = torch.tensor([[1.0], [9.0], [9.0], [9.0], [3.0], [7.0]])
    graphs = Graphs.of(x, PATH, (4, 1, 1))
    assert filled(graphs, 1, 2, 3).flatten().tolist() == [1, 1, 1, 1, 3, 7]
    assert filled(graphs, 4).flatten().tolist() == [1, 9, 9, 9, 7, 7]
    assert filled(graphs, *range(6)).flatten().tolist() == [0] * 6


def test_bags_are_filled_like_dense_features():
    x = torch.eye(24)[:4]
    graphs = Graphs.of(x, PATH).compact()
    assert graphs.is_sparse
    assert torch.equal(filled(graphs, 1), filled(Graphs.of(x, PATH), 1))


def test_class_numbers_get_the_most_frequent_one():
    x = torch.tensor([[6, 0], [9, 2], [6, 1], [7, 1]])
    star = torch.tensor([[0, 2, 3], [1, 1, 1]])
    assert filled(Graphs.of(x, star), 1)[1].tolist() == [6, 1]


class Given(Source):
    """Graphs that are there already."""

    classes = {}  # noqa: RUF012

    def __init__(self, graphs):
        self.graphs = graphs

    def items(self, split):
        from core.data.sources import Item

        return [Item(f"{i}", "nowhere", member=str(i)) for i in range(len(self.graphs))]


class Look(GraphReader):
    def __init__(self, source):
        super().__init__()
        self.source = source

    def read(self, item, train):
        return self.source.graphs[int(item.member)]


def graph(nodes: int, seed: int) -> Graphs:
    drawn = torch.Generator().manual_seed(seed)
    edges = torch.randint(nodes, (2, 2 * nodes), generator=drawn)
    return Graphs.of(torch.rand(nodes, 6, generator=drawn), torch.cat([edges, edges.flip(0)], 1))


def skill(graphs, answer, monkeypatch, *overrides: str) -> dict:
    torch.manual_seed(0)
    method = build_method(compose(["modality=graph", "size=nano", "method.encoder.width=16", *overrides]))

    def predict(tokens, mask, names=None, ctx=None):
        return {}, {name: answer(ctx, *asked) for name, asked in method.prediction_tasks(mask).items()}

    monkeypatch.setattr(method, "predict", predict)
    source = Given(graphs)
    result = evaluate_reconstruction(
        method, source, LoaderSettings(Look(source), 4), samples=100, seed=0, baseline=NeighbourMean()
    )
    return result | {"total": result["figures"]["features"]["total"]}


def right(ctx, objective, view, query):
    return objective.target(ctx, view, query).values


def by_filler(ctx, objective, view, query):
    """Means over visible neighbours, written anew, node by node."""
    data, hidden = ctx.batch.views[view], hidden_rows(ctx.masks, view)[0]
    x = to_dense(data.x, data.features) if data.is_sparse else data.x
    rows = []
    for node in query.rows.index[0].tolist():
        near = [int(a) for a, b in data.edge_index.T if b == node and not hidden[a] and a != node]
        own = [i for i in range(len(x)) if data.sample[i] == data.sample[node] and not hidden[i]]
        rows.append(x[near or own].mean(0))
    return torch.stack(rows)[None]


def test_right_answers_have_skill_one_and_the_fillers_own_none(monkeypatch):
    graphs = [graph(12 + i, i) for i in range(9)]
    assert skill(graphs, right, monkeypatch)["total"]["skill"]["value"] == 1
    found = skill(graphs, by_filler, monkeypatch)
    assert found["total"]["skill"]["value"] == pytest.approx(0, abs=1e-5)
    assert found["total"]["better_reference"] == "filler" and found["total"]["samples"] == 9
    assert "over samples" in found["protocol"]["interval"]


def test_of_one_graph_the_nodes_are_drawn_again(monkeypatch):
    def half_right(ctx, objective, view, query):
        values = right(ctx, objective, view, query)
        return torch.where(torch.arange(values.shape[1])[:, None] % 2 == 0, values, -values)

    found = skill([graph(60, 0)], half_right, monkeypatch, "method.masker.replace=0.0")
    total = found["total"]
    assert (total["samples"], total["tokens"]) == (1, 30) and "only sample" in found["protocol"]["interval"]
    assert total["skill"]["low"] < total["skill"]["value"] < total["skill"]["high"]
    assert total["error"]["prediction"] == pytest.approx(4.0, rel=1e-5)  # half of them cost (1 + 1)³


def test_nodes_whose_content_is_read_do_not_count():
    """Of 60 nodes 30 are hidden: 28 erased, 1 replaced, 1 left as it is by rounding (replace=0.06)."""
    method = build_method(compose(["modality=graph", "method.masker.replace=0.06", "method.encoder.width=16"]))
    batch = Batch({"graph": graph(60, 0)})
    ctx = ForwardContext(
        batch, method.tokenizer.tokenize_views(batch.views), generator=torch.Generator().manual_seed(0), method=method
    )
    masks = method.draw_mask(ctx)
    source = masks["graph"].content_from[0]
    hidden, counted = masks["graph"].hidden[0], hidden_rows(masks, "graph")[0]
    own = (source == torch.arange(60)) & hidden
    assert int(hidden.sum()) == 30 and int(own.sum()) >= 1
    assert not (counted & own).any() and not counted[source[source >= 0]].any()
    assert int(counted.sum()) >= 30 - int(own.sum()) - 1


def test_sources_say_what_is_held_out(tmp_path):
    (tmp_path / "edges.csv").write_text("0,1\n")
    (tmp_path / "features.csv").write_text("1\n2\n")
    files.read.cache_clear()
    assert "hidden nodes" in GraphSource(str(tmp_path)).held_out
    assert "does not read" in GraphSource(str(tmp_path), holdout=0.5).held_out


def test_world_graphs_are_object_through_and_through(tmp_path):
    from modalities.graph.world import GraphWorld

    item = GraphWorld(str(tmp_path), train=1, test=1, size=16).items("test")[0]
    assert np.load(item.aux["object"]).shape == (16,)
    assert GraphReader().objects(item).tolist() == [True] * 16
