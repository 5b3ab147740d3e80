"""Published evaluations: what they give on data with a known answer, and what they refuse."""

import json

import numpy as np
import pytest
import torch

from benchmarks import results_table
from benchmarks.turns import turns
from core.errors import UserError
from core.evaluation.probes import adam_probe, random_parts, svm_folds
from core.export import SavedEncoder
from modalities.graph.evaluation import (
    graph_accuracy,
    node_accuracy,
    node_f1,
    raw_accuracy,
    supervised_accuracy,
)  # fmt: skip
from modalities.graph.formats.collection import Collection
from modalities.graph.graphs import Graphs
from modalities.graph.nn.gnn import GAT
from modalities.graph.nn.molecules import SELF_LOOP, MoleculeGIN
from modalities.graph.tokenizer import Nodes
from modalities.graph.transfer import FineTuning, molecule_transfer, property_loss, scaffold_split
from tests.modalities.graph.chains import molecule


def flags(*spans: range, count: int = 60) -> dict[str, torch.Tensor]:
    each = zip(("train", "validation", "test"), spans, strict=True)
    return {n: torch.zeros(count).index_fill(0, torch.tensor(s, dtype=torch.long), 1).bool() for n, s in each}


@pytest.fixture
def nodes() -> Collection:
    """Two classes that one feature tells apart."""
    y = torch.arange(60) % 2
    x = torch.stack([y.float(), 1 - y.float(), torch.rand(60, generator=torch.Generator().manual_seed(0))], 1)
    edges = torch.stack([torch.arange(58), torch.arange(58) + 2])
    return Collection([Graphs.of(x, edges)], nodes=y, splits=flags(range(20), range(20, 40), range(40, 60)))


@pytest.fixture
def encoder() -> SavedEncoder:
    torch.manual_seed(0)
    return SavedEncoder(Nodes(3), GAT(3, 8, 1, 2), {"view": "graph"})


def test_probe_of_nodes(nodes, encoder):
    found = node_accuracy(encoder, nodes, lr=0.1, weight_decay=0.0, epochs=60)
    assert found == {"final": 1.0, "chosen_on_validation": 1.0}
    assert raw_accuracy(nodes) == 1.0
    settings = {"_target_": "x", "features": 3, "width": 8, "depth": 1, "heads": 2}
    assert supervised_accuracy(nodes, settings, epochs=60) > 0.9


def test_latest_of_the_best_epochs_is_chosen():
    x, y = torch.eye(4)[torch.arange(12) % 4], torch.arange(12) % 2
    found = adam_probe(x, y, flags(range(4), range(4, 8), range(8, 12), count=12), lr=0.1, weight_decay=0.0, epochs=30)
    assert found.final == found.selected == 1.0 and found.selected_epoch == 29


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
        adam_probe(torch.rand(60, 2), nodes.nodes, flags(*spans), lr=0.1, weight_decay=0.0, epochs=1)


def test_random_parts_cover_everything_once():
    parts = random_parts(torch.zeros(50), (0.1, 0.1), 0)
    assert [int(p.sum()) for p in parts.values()] == [5, 5, 40] and bool(
        (sum(p.int() for p in parts.values()) == 1).all()
    )


def test_probe_of_several_labels_a_node(encoder):
    """Two labels, which of them hold is told by two features: the probe finds it, on graphs it has not seen."""
    drawn, graphs, labels = torch.Generator().manual_seed(0), [], []
    for _ in range(6):
        y = (torch.rand(20, 2, generator=drawn) < 0.4).float()
        graphs.append(Graphs.of(torch.cat([y, torch.rand(20, 1, generator=drawn)], 1), torch.zeros(2, 0).long()))
        labels.append(y)
    part = torch.arange(6).repeat_interleave(20)
    splits = {"train": part < 4, "validation": part == 4, "test": part == 5}
    data = Collection(graphs, nodes=torch.cat(labels), splits=splits)
    found = node_f1(encoder, data, lr=0.1, weight_decay=0.0, epochs=80)
    assert found["final"] > 0.95 and found == node_f1(encoder, data, lr=0.1, weight_decay=0.0, epochs=80)
    with pytest.raises(UserError, match="train split has no graph"):
        node_f1(
            encoder,
            Collection(graphs, nodes=data.nodes, splits=splits | {"train": part < 0}),
            lr=0.1,
            weight_decay=0.0,
            epochs=1,
        )
    with pytest.raises(UserError, match="several labels"):
        node_f1(encoder, Collection(graphs, nodes=data.nodes[:, 0], splits=splits), lr=0.1, weight_decay=0.0, epochs=1)


@pytest.fixture
def molecules() -> Collection:
    """The first question: is there an atom of kind 7? The second was rarely asked, the third never answered no."""
    drawn, graphs, answers = np.random.default_rng(0), [], []
    for i in range(120):
        kinds = drawn.choice([5, 6], 6)
        if i % 2:
            kinds[drawn.integers(6)] = 7
        graphs.append(molecule(kinds.tolist()))
        answers.append([1 if i % 2 else -1, (1 if i % 2 else -1) if i % 5 == 0 else 0, 1])
    return Collection(graphs, torch.tensor(answers).float(), scaffolds=[str(i // 3) for i in range(120)])


def test_molecules_are_fine_tuned(molecules):
    torch.manual_seed(0)
    encoder = SavedEncoder(Nodes(2, SELF_LOOP), MoleculeGIN(16, 2), {"view": "graph"})
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = molecule_transfer(encoder, molecules, FineTuning(epochs=12, lr=5e-3, drop=0.1))
    assert found["final"] > 0.9 and found["chosen_on_validation"] > 0.8
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items()), "a copy is trained"
    with pytest.raises(UserError, match="scaffold"):
        molecule_transfer(encoder, Collection(molecules.graphs, molecules.labels))
    alike = Collection(molecules.graphs, torch.ones(120, 1), scaffolds=molecules.scaffolds)
    with pytest.raises(UserError, match="no task with both answers"):
        molecule_transfer(encoder, alike, FineTuning(epochs=1))


def test_unknown_answers_cost_nothing():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    loss = property_loss(logits, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(0.5))) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    loss.backward()
    assert logits.grad[:, 1].tolist() == [0, 0] and (logits.grad[:, 0] != 0).all()
    assert property_loss(logits, torch.zeros(2, 2)).item() == 0


def test_scaffolds_stay_together():
    """Sizes 5, 2, 1, 1, 1 of ten molecules: the first two and one single fill 80 %, then the earliest singles."""
    names = ["b", "a", "a", "a", "a", "a", "b", "c", "d", "e"]
    train, validation, test = scaffold_split(names, (0.8, 0.1))
    assert train == [1, 2, 3, 4, 5, 0, 6, 9] and validation == [8] and test == [7]
    assert scaffold_split(["a"] * 10, (0.8, 0.1)) == ([], [], list(range(10)))


def test_support_vectors_of_graphs(encoder):
    drawn = torch.Generator().manual_seed(0)
    graphs = [Graphs.of(torch.rand(4, 3, generator=drawn) + 3 * (i % 2), torch.tensor([[0], [1]])) for i in range(40)]
    found = graph_accuracy(encoder, Collection(graphs, torch.arange(40) % 2), "sum")
    assert found["final"] > 0.9 and len(found["folds"]) == 10
    with pytest.raises(UserError, match="smallest class has 5"):
        svm_folds(np.random.rand(25, 2), np.array([0] * 20 + [1] * 5))


def test_records_become_a_part_of_the_results(tmp_path):
    folder = tmp_path / "graph"
    folder.mkdir()
    figures = [{"final": 0.84, "chosen_on_validation": 0.83}, {"final": 0.85, "chosen_on_validation": 0.84}]
    figures = [found | {"random init": 0.7} for found in figures]
    records = [{"command": f"train seed={i}", "figures": f} for i, f in enumerate(figures)]
    (folder / "cora.json").write_text(json.dumps({"name": "cora", "published": [84.2, 0.4], "records": records}))
    text = results_table.render(tmp_path)
    assert "| cora | 2 | 84.50 ± 0.50 |" in text and "83.50 ± 0.50" in text and "| yes |" in text
    assert "| 83.50 ± 0.50 | 70.00 ± 0.00 | 84.20 ± 0.40 |" in text
    commands = text.partition("## Commands")[2]
    assert "train seed=0" in commands and "train seed=1" in commands


def test_a_queue_goes_round_by_seeds():
    entries = {"a": {"seeds": 2}, "b": {"seeds": 1}}
    assert [(name, seed) for name, _, seed in turns(entries)] == [("a", 0), ("b", 0), ("a", 1)]
    assert [(name, seed) for name, _, seed in turns(entries, 1)] == [("a", 0), ("b", 0)]
