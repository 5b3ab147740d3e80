"""What a graph is put into: order of edges, self-loops, bags of features, joining, and what is refused."""

import pytest
import torch

from core.errors import UserError
from core.tokens import Rows
from modalities.graph.geometric import geometric
from modalities.graph.graphs import Graphs, in_order, join, of_pyg, to_dense, to_sparse
from modalities.graph.tokenizer import Nodes


def edges(*pairs):
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T


def test_edges_are_sorted_once_each_with_one_loop_per_node():
    found, attr = in_order(edges((2, 0), (1, 0), (1, 0), (0, 0), (0, 1)), 3, torch.tensor([5, 6, 7, 8, 9]), None)
    assert found.T.tolist() == [[1, 0], [2, 0], [0, 0], [0, 1], [1, 1], [2, 2]]
    assert attr.tolist() == [6, 5, 0, 9, 0, 0]  # of a repeated edge the first counts; loops say nothing
    assert torch.equal(in_order(found, 3)[0], found)


def test_loops_say_what_they_are_told():
    _, attr = in_order(edges((0, 1)), 2, torch.tensor([[1, 2]]), (4, 0))
    assert attr.tolist() == [[4, 0], [1, 2], [4, 0]]


@pytest.mark.parametrize("links", [edges(), edges((0, 0)), edges((0, 1), (1, 0))])
def test_isolated_nodes_and_no_edges_at_all(links):
    graphs = Graphs.of(torch.ones(3, 2), links)
    loops = graphs.edge_index[0] == graphs.edge_index[1]
    assert int(loops.sum()) == 3 and torch.equal(graphs.edge_index[1].sort().values, graphs.edge_index[1])


def test_directed_edges_stay_directed():
    graphs = Graphs.of(torch.ones(2, 1), edges((0, 1)))
    assert graphs.edge_index.T.tolist() == [[0, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("x", "links", "said"),
    [
        (torch.ones(2, 1), edges((0, 2)), "names node 2, but nodes are 0 to 1"),
        (torch.ones(2, 1), edges((-1, 0)), "names node -1"),
        (torch.tensor([[1.0], [torch.nan]]), edges(), "Node 1 has a feature that is NaN"),
        (torch.ones(2), edges(), "must be a table"),
        (torch.ones(2, 1), torch.ones(2, 3), "must be whole numbers"),
        (torch.ones(2, 1), torch.ones(3, 2, dtype=torch.long), "of shape \\(2, E\\)"),
    ],
)
def test_what_is_wrong_is_said(x, links, said):
    with pytest.raises(UserError, match=said):
        Graphs.of(x, links)


def test_edges_between_graphs_and_wrong_counts_are_refused():
    with pytest.raises(UserError, match="two different graphs"):
        Graphs.of(torch.ones(2, 1), edges((0, 1)), (1, 1))
    with pytest.raises(UserError, match="3 nodes, but there are features of 2"):
        Graphs.of(torch.ones(2, 1), edges(), (2, 1))


def test_bags_hold_what_the_rows_hold():
    x = torch.rand(5, 40) * (torch.rand(5, 40) < 0.1)
    assert torch.equal(to_dense(to_sparse(x), 40), x)
    graphs = Graphs.of(x, edges((0, 1))).compact()
    assert graphs.is_sparse and graphs.features == 40
    assert not Graphs.of(torch.rand(5, 4), edges()).compact().is_sparse


def test_joined_graphs_keep_edges_apart_and_in_order():
    sparse = Graphs.of(torch.eye(9)[:3], edges((0, 1))).compact()
    dense = Graphs.of(torch.rand(2, 9), edges((1, 0)))
    both = join([sparse, dense])
    assert both.counts == (3, 2) and both.sample.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(both.edge_index, in_order(both.edge_index, 5)[0])
    assert torch.equal(
        to_dense(both.x, 9), torch.cat([torch.eye(9)[:3], to_dense(to_sparse(to_dense(both.x, 9)[3:]), 9)])
    )
    with pytest.raises(UserError, match="features per node"):
        join([sparse, Graphs.of(torch.ones(1, 3), edges())])


def test_torch_geometric_objects_are_taken():
    data_classes = geometric().data
    data = data_classes.Data(x=torch.rand(3, 4), edge_index=edges((0, 1), (1, 0)))
    batch = data_classes.Batch.from_data_list([data, data_classes.Data(x=torch.rand(1, 4), edge_index=edges())])
    tokens = Nodes(4)(batch)
    assert tokens.content.shape == (1, 4, 4) and tokens.layout.counts == (3, 1)
    assert torch.equal(tokens.layout.edges, join([of_pyg(data), Graphs.of(torch.rand(1, 4), edges())]).edge_index)
    with pytest.raises(UserError, match="no node features"):
        of_pyg(data_classes.Data(edge_index=edges((0, 0))))


def test_another_width_is_named():
    with pytest.raises(UserError, match=r"Set modality\.features=3"):
        Nodes(4)(Graphs.of(torch.ones(2, 3), edges()))


def test_layout_takes_rows():
    """Edges of packed rows are renumbered, as `Layout.take` promises."""
    tokens = Nodes(1)(Graphs.of(torch.ones(4, 1), edges((0, 1), (2, 3)), (2, 2)))
    taken = tokens.layout.gather(Rows(torch.tensor([[1, 2, 3]])))
    assert taken.counts == (1, 2) and taken.edges.T.tolist() == [[0, 0], [1, 1], [1, 2], [2, 2]]
