"""Graphs as torch_geometric, OGB and others store them in .pt files."""

import pytest
import torch
from scipy.sparse import coo_array

from core.errors import UserError
from modalities.graph.formats import files
from modalities.graph.formats.geometric import geometric
from modalities.graph.graphs import Graphs, to_dense


@pytest.fixture(autouse=True)
def no_cache():
    files.read.cache_clear()


def chain(nodes: int, **more) -> dict:
    """A path of nodes, links both ways, each node's number as its feature."""
    path = torch.stack([torch.arange(nodes - 1), torch.arange(1, nodes)])
    x = torch.arange(nodes, dtype=torch.float32)[:, None] + 1
    return {"x": x, "edge_index": torch.cat([path, path.flip(0)], 1), **more}


def data_of(values: dict):
    return geometric().data.Data(**values)


def read(tmp_path, content, name="g.pt"):
    torch.save(content, tmp_path / name)
    return files.read(str(tmp_path / name))


def dense(graph: Graphs) -> torch.Tensor:
    return to_dense(graph.x, graph.features) if graph.is_sparse else graph.x


def check_chains(data, counts, labels=None):
    """Each graph is a path with features 1, 2, …: all features, edges and labels are where they belong."""
    assert [graph.counts for graph in data.graphs] == [(count,) for count in counts]
    for graph, count in zip(data.graphs, counts, strict=True):
        assert dense(graph)[:, 0].tolist() == list(range(1, count + 1))
        pairs = {tuple(pair) for pair in graph.edge_index.T.tolist()}
        assert pairs == {(a, b) for a in range(count) for b in range(count) if abs(a - b) < 2}
    if labels is not None:
        assert data.labels.tolist() == labels


COUNTS, LABELS = [3, 5, 2, 4], [1, 0, 2, 1]


def chains() -> list[dict]:
    return [chain(count, y=torch.tensor([label])) for count, label in zip(COUNTS, LABELS, strict=True)]


def collated(graphs):
    """(data, slices) by torch_geometric's own function."""
    dataset = geometric().data.InMemoryDataset
    return dataset.collate([data_of(graph) for graph in graphs])


@pytest.mark.parametrize("form", ["pair", "triple", "four", "Data"])
def test_processed_data_sets(tmp_path, form):
    data, slices = collated(chains())
    kind = geometric().data.Data
    content = {
        "pair": (data.to_dict(), slices),
        "triple": (data.to_dict(), slices, kind),
        "four": (data.to_dict(), slices, {}, kind),
        "Data": (data, slices),
    }[form]
    check_chains(read(tmp_path, content), COUNTS, LABELS)


def test_the_processed_file_of_a_data_set_folder(tmp_path):
    folder = tmp_path / "set" / "processed"
    folder.mkdir(parents=True)
    data, slices = collated(chains())
    torch.save((data.to_dict(), slices, geometric().data.Data), folder / "data.pt")
    torch.save("Compose([])", folder / "pre_transform.pt")
    check_chains(files.read(str(tmp_path / "set")), COUNTS, LABELS)


@pytest.mark.parametrize("slices", [None, "graph"])
def test_a_processed_single_graph(tmp_path, slices):
    graph = data_of(chain(4, y=torch.tensor([0, 1, 1, 0])))
    content = (graph.to_dict(), None, geometric().data.Data) if slices is None else (graph, None)
    found = read(tmp_path, content)
    check_chains(found, [4])
    assert found.nodes.tolist() == [0, 1, 1, 0]


def test_a_batch_with_and_without_its_bounds(tmp_path):
    batch = geometric().data.Batch.from_data_list([data_of(graph) for graph in chains()])
    check_chains(read(tmp_path, batch), COUNTS, LABELS)
    plain = {name: getattr(batch, name) for name in ("x", "edge_index", "y", "batch")}
    check_chains(read(tmp_path, plain, "plain.pt"), COUNTS, LABELS)
    check_chains(read(tmp_path, [batch, data_of(chain(2, y=torch.tensor([0])))], "mixed.pt"), [*COUNTS, 2])


@pytest.mark.filterwarnings("ignore:Sparse")
def test_numpy_and_sparse_features(tmp_path):
    graph = chain(4)
    check_chains(read(tmp_path, data_of(graph | {"x": graph["x"].numpy()}), "numpy.pt"), [4])
    check_chains(read(tmp_path, data_of(graph | {"x": graph["x"].to_sparse()}), "coo.pt"), [4])
    check_chains(read(tmp_path, graph | {"x": graph["x"].to_sparse_csr()}, "csr.pt"), [4])
    check_chains(read(tmp_path, graph | {"x": graph["x"].tolist(), "edge_index": graph["edge_index"].tolist()}), [4])


@pytest.mark.filterwarnings("ignore:Sparse")
def test_adjacency_matrices_are_links(tmp_path):
    edges = torch.tensor([[0, 1], [2, 2]])  # 0 -> 2, 1 -> 2
    adjacency = torch.sparse_coo_tensor(edges.flip(0), torch.ones(2), (3, 3))  # transposed, as ToSparseTensor makes it
    found = read(tmp_path, {"x": torch.ones(3, 1), "adj_t": adjacency.to_sparse_csr()})
    assert found.graphs[0].edge_index.T.tolist() == [[0, 0], [1, 1], [0, 2], [1, 2], [2, 2]]


def test_other_names_of_the_parts(tmp_path):
    graph = chain(3)
    ogb = {"graphs": [{"node_feat": graph["x"].numpy(), "edge_index": graph["edge_index"].numpy(), "num_nodes": 3}] * 2}
    found = read(tmp_path, ogb | {"labels": torch.tensor([[1], [0]])})
    check_chains(found, [3, 3], [1, 0])
    found = read(
        tmp_path, {"feat": graph["x"], "edge_index": graph["edge_index"], "label": torch.tensor([2, 0, 1])}, "b.pt"
    )
    check_chains(found, [3])
    assert found.nodes.tolist() == [2, 0, 1]


@pytest.mark.parametrize("more", [{}, {"train_mask": torch.tensor([True, False, False, False, True])}])
def test_num_nodes_counts_nodes_without_links(tmp_path, more):
    edges = {"edge_index": torch.tensor([[0, 1], [1, 0]]), **more}
    for name, content in (("d", edges | {"num_nodes": 5}), ("p", data_of(edges | {"num_nodes": 5}))):
        found = read(tmp_path, content, f"{name}.pt")
        assert dense(found.graphs[0]).tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [1, 0]]


def test_num_nodes_in_collated_sets_and_against_features(tmp_path):
    graphs = [{"edge_index": torch.tensor([[0], [1]]), "num_nodes": count} for count in (4, 2, 3)]
    assert [graph.counts for graph in read(tmp_path, collated(graphs)).graphs] == [(4,), (2,), (3,)]
    with pytest.raises(UserError, match="num_nodes is 9, but there are features of 3"):
        read(tmp_path, chain(3, num_nodes=9), "bad.pt")
    with pytest.raises(UserError, match="names node 5, but nodes are 0 to 2"):
        read(tmp_path, {"edge_index": torch.tensor([[0], [5]]), "num_nodes": 3}, "out.pt")


def test_masks_name_nodes_without_links(tmp_path):
    mask = torch.tensor([False, False, True, True])
    assert read(tmp_path, {"edge_index": torch.tensor([[0], [1]]), "test_mask": mask}).graphs[0].counts == (4,)


def test_graphs_without_features_share_their_columns(tmp_path):
    star = {"edge_index": torch.tensor([[1, 2, 3], [0, 0, 0]])}
    found = read(tmp_path, [star, {"edge_index": torch.tensor([[0], [1]])}])
    assert [graph.features for graph in found.graphs] == [4, 4]
    assert dense(found.graphs[1]).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


def hetero():
    data = geometric().data.HeteroData()
    data["paper"].x = torch.ones(2, 1)
    data["author", "writes", "paper"].edge_index = torch.tensor([[0], [1]])
    return data


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (hetero, r"HeteroData.*to_homogeneous"),
        (lambda: [hetero(), hetero()], r"graph 0 names .*HeteroData.*to_homogeneous"),
        (
            lambda: geometric().data.TemporalData(src=torch.tensor([0]), dst=torch.tensor([1]), t=torch.tensor([2])),
            r"TemporalData.*src, dst",
        ),
        (lambda: {"matrix": coo_array(([1], ([0], [1])), shape=(2, 2))}, r"no edge_index.*scipy\.sparse.*coo_array"),
        (lambda: torch.ones(3), "no graph but Tensor"),
        (lambda: "text", "no graph but str"),
        (lambda: {"x": torch.ones(2, 1), "edge_index": torch.tensor([[0.5], [1.0]])}, "whole numbers"),
        (lambda: {"x": ["a", "b"], "edge_index": torch.tensor([[0], [1]])}, "x is .*not numbers"),
    ],
)
def test_other_content_is_named_with_the_way_out(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as raised:
        read(tmp_path, make())
    assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value)


def test_parts_that_are_not_read_are_noted(tmp_path):
    found = read(tmp_path, [chain(3, pos=torch.ones(3, 2)), chain(2, edge_weight=torch.ones(2))])
    assert "edge_weight, pos" in found.provenance.notes[0]
