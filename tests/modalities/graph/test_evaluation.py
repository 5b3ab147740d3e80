"""Published evaluations: what they give on data with a known answer, and what they refuse."""

import json

import numpy as np
import pytest
import torch

from benchmarks import graph_results
from core.errors import UserError
from core.evaluation.adam_probe import adam_probe, random_parts
from core.evaluation.svm import svm_folds
from core.export import SavedEncoder
from modalities.graph.evaluation import graph_accuracy, node_accuracy, raw_accuracy, spread, supervised_accuracy
from modalities.graph.files import Collection
from modalities.graph.gnn import GAT
from modalities.graph.graphs import Graphs
from modalities.graph.tokenizer import Nodes


def flags(*spans: range, count: int = 60) -> dict[str, torch.Tensor]:
    each = zip(("train", "validation", "test"), spans, strict=True)
    return {n: torch.zeros(count).index_fill(0, torch.tensor(s, dtype=torch.long), 1).bool() for n, s in each}


@pytest.fixture
def nodes() -> Collection:
    """Two classes that one feature tells apart."""
    y = torch.arange(60) % 2
    x = torch.stack([y.float(), 1 - y.float(), torch.rand(60, generator=torch.Generator().manual_seed(0))], 1)
    edges = torch.stack([torch.arange(58), torch.arange(58) + 2])
    return Collection([Graphs.of(x, edges)], None, y, flags(range(20), range(20, 40), range(40, 60)))


@pytest.fixture
def encoder() -> SavedEncoder:
    torch.manual_seed(0)
    return SavedEncoder(Nodes(3), GAT(3, 8, 1, 2), {"view": "graph"})


def test_probe_of_nodes(nodes, encoder):
    found = node_accuracy(encoder, nodes, 0.1, 0.0, 60)
    assert found == {"final": 1.0, "chosen_on_validation": 1.0}
    assert raw_accuracy(nodes) == 1.0
    settings = {"_target_": "x", "features": 3, "width": 8, "depth": 1, "heads": 2}
    assert supervised_accuracy(nodes, settings, epochs=60) > 0.9


def test_latest_of_the_best_epochs_is_chosen():
    x, y = torch.eye(4)[torch.arange(12) % 4], torch.arange(12) % 2
    found = adam_probe(x, y, flags(range(4), range(4, 8), range(8, 12), count=12), 0.1, 0.0, 30)
    assert found.final == found.chosen == 1.0 and found.chosen_epoch == 29


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ((range(0), range(20, 40), range(40, 60)), "train split has no labelled"),
        ((range(20), range(0), range(40, 60)), "validation split has no labelled"),
        ((range(0, 20, 2), range(20, 40), range(40, 60)), r"Classes \[1\] are tested"),
    ],
)
def test_empty_splits_and_absent_classes_are_refused(nodes, spans, said):
    with pytest.raises(UserError, match=said):
        adam_probe(torch.rand(60, 2), nodes.nodes, flags(*spans), 0.1, 0.0, 1)


def test_random_parts_cover_everything_once():
    parts = random_parts(torch.zeros(50), (0.1, 0.1), 0)
    assert [int(p.sum()) for p in parts.values()] == [5, 5, 40] and bool(
        (sum(p.int() for p in parts.values()) == 1).all()
    )


def test_support_vectors_of_graphs(encoder):
    drawn = torch.Generator().manual_seed(0)
    graphs = [Graphs.of(torch.rand(4, 3, generator=drawn) + 3 * (i % 2), torch.tensor([[0], [1]])) for i in range(40)]
    found = graph_accuracy(encoder, Collection(graphs, torch.arange(40) % 2), "sum")
    assert found["final"] > 0.9 and len(found["folds"]) == 10
    with pytest.raises(UserError, match="smallest class has 5"):
        svm_folds(np.random.rand(25, 2), np.array([0] * 20 + [1] * 5))


def test_records_become_a_table(tmp_path):
    folder = tmp_path / "results" / "graph"
    folder.mkdir(parents=True)
    figures = [{"final": 0.84, "chosen_on_validation": 0.83}, {"final": 0.85, "chosen_on_validation": 0.84}]
    record = {"name": "cora", "published": [84.2, 0.4], "records": [{"command": "x", "figures": f} for f in figures]}
    (folder / "cora.json").write_text(json.dumps(record))
    text = graph_results.render(folder)
    assert "| cora | 2 | 84.50 ± 0.50 |" in text and "83.50 ± 0.50" in text and "| yes |" in text
    assert spread([1.0, 3.0])[:2] == (2.0, 1.0)
