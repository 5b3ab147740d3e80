"""Labels: classes where they are whole numbers, else real numbers; of graphs or of nodes."""

import pytest
import torch

from core.errors import UserError
from modalities.graph.formats.targets import graph_labels, read_labels


def of_graphs(*values):
    return read_labels([torch.tensor([value]) for value in values], [5] * len(values), "f.pt")


def test_whole_valued_floats_are_classes():
    for values in ((1.0, 2.0, 0.0), (1, 2, 0)):
        labels = of_graphs(*values)
        assert labels.graphs.tolist() == [1, 2, 0] and not labels.targets
    nodes = read_labels([torch.tensor([[2.0], [0.0], [1.0]])], [3], "f.pt")
    assert nodes.nodes.tolist() == [2, 0, 1] and not nodes.nodes.is_floating_point()


@pytest.mark.parametrize("values", [(0.2, 1.7, 3.9), (0.1, 0.5, 0.9), (1.0, 2.0, 2.5), (-1.5, 0.0, 1e9)])
def test_real_numbers_are_never_cut(values):
    labels = of_graphs(*values)
    assert labels.graphs is None
    assert labels.targets["label"].tolist() == pytest.approx(values, rel=1e-6)
    nodes = read_labels([torch.tensor(values)], [3], "f.pt")
    assert nodes.nodes.tolist() == pytest.approx(values, rel=1e-6)


def test_several_real_numbers_a_graph():
    labels = graph_labels(torch.tensor([[0.5, 1.0], [2.0, 3.0]]))
    assert {name: values.tolist() for name, values in labels.targets.items()} == {
        "label 0": [0.5, 2],
        "label 1": [1, 3],
    }


def test_answers_in_both_conventions():
    """1 yes, -1 no, 0 unknown; or 1 yes, 0 no, NaN unknown."""
    expected = [[1, -1, 0], [-1, 1, 1]]
    assert graph_labels(torch.tensor([[1.0, -1, 0], [-1, 1, 1]])).graphs.tolist() == expected
    assert graph_labels(torch.tensor([[1.0, 0, torch.nan], [0, 1, 1]])).graphs.tolist() == expected


def test_numbers_that_are_no_class_numbers_are_numbered():
    labels = of_graphs(-1, 1, 1, -1)
    assert labels.graphs.tolist() == [0, 1, 1, 0] and list(labels.classes) == ["-1", "1"] and labels.notes
    labels = of_graphs(10**12, 5, 10**12)
    assert labels.graphs.tolist() == [1, 0, 1] and list(labels.classes) == ["5", str(10**12)]
    assert of_graphs(-1, 0, 1).graphs.tolist() == [-1, 0, 1]  # -1: unknown


def test_unlabelled_graphs_are_unknown():
    values = [torch.tensor([1]), None, torch.tensor([0])]
    assert read_labels(values, [4, 4, 4], "f.pt").graphs.tolist() == [1, -1, 0]
    nodes = [torch.tensor([1, 0]), None]
    assert read_labels(nodes, [2, 3], "f.pt").nodes.tolist() == [1, 0, -1, -1, -1]


def test_the_level_is_that_of_all_graphs():
    """Three values for a graph of three nodes are the graph's, where other graphs have three values and more nodes."""
    values = [torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])]
    assert sorted(read_labels(values, [3, 7], "f.pt").targets) == ["label 0", "label 1", "label 2"]
    assert read_labels(values, [3, 3], "f.pt").nodes.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_labels_of_neither_level_are_refused():
    with pytest.raises(UserError, match=r"f\.pt, graph 1: 2 labels for a graph of 5 nodes"):
        read_labels([torch.tensor([1, 0, 2]), torch.tensor([0, 1])], [3, 5], "f.pt")
    with pytest.raises(UserError, match="8 labels for a graph of 56 nodes"):
        read_labels([torch.arange(8)], [56], "f.pt")
