"""Graph files: every form that is read, and what is refused."""

import pickle
import zipfile

import numpy as np
import pytest
import torch

from core.errors import UserError
from modalities.graph import files
from modalities.graph.data import GraphReader, GraphSource
from modalities.graph.geometric import geometric
from modalities.graph.graphs import Graphs, to_dense


@pytest.fixture(autouse=True)
def fresh():
    files.read.cache_clear()


def write(folder, **texts):
    folder.mkdir(exist_ok=True, parents=True)
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    return str(folder)


def dense(graph: Graphs):
    return to_dense(graph.x, graph.features) if graph.is_bag else graph.x


def test_edge_list_with_features(tmp_path):
    texts = {"edges": "from,to\n0,1\n1,2\n", "features": "1,0\n0,1\n0,0\n", "labels": "node,class\n0,1\n2,0\n"}
    root = write(tmp_path / "g", **texts)
    found = files.read(root)
    assert found.nodes.tolist() == [1, -1, 0] and dense(found.graphs[0]).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert found.graphs[0].edge_index.shape[1] == 4 + 3  # both ways, and loops
    assert files.read(root, directed=True).graphs[0].edge_index.shape[1] == 2 + 3


def test_edge_list_without_features_says_so(tmp_path, capsys):
    found = files.read(write(tmp_path / "g", edges="0,1\n0,2\n"))
    assert dense(found.graphs[0]).tolist() == [[1, 0], [0, 1], [0, 1]]  # in-degree, counted as the file has the edges
    assert "no node features" in capsys.readouterr().err


def test_no_edges_at_all_and_one_node(tmp_path):
    found = files.read(write(tmp_path / "g", edges="", features="1,2\n"))
    assert found.graphs[0].edge_index.tolist() == [[0], [0]]


def test_splits_of_a_table(tmp_path):
    found = files.read(write(tmp_path / "g", edges="0,1\n", features="1\n2\n", split="0,train\n1,test\n"))
    assert found.splits["train"].tolist() == [True, False] and not found.splits["validation"].any()


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"edges": "0,5\n", "features": "1\n2\n"}, "names node 5"),
        ({"edges": "0,1\n", "features": "1\nnan\n"}, "NaN or infinite"),
        ({"edges": "0,x\n", "features": "1\n"}, "not a table of numbers"),
        ({"edges": "0\n1\n", "features": "1\n"}, "two columns"),
    ],
)
def test_bad_tables_are_refused(tmp_path, texts, said):
    with pytest.raises(UserError, match=said):
        files.read(write(tmp_path / "g", **texts))


def test_amazon_form_is_made_symmetric(tmp_path):
    arrays = {
        "adj_data": np.ones(1), "adj_indices": np.array([1]), "adj_indptr": np.array([0, 1, 1]), "adj_shape": [2, 2],
        "attr_data": np.ones(1), "attr_indices": np.array([2]), "attr_indptr": np.array([0, 0, 1]),
        "attr_shape": np.array([2, 3]), "labels": np.array([0, 4]),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    found = files.read(str(tmp_path / "a.npz"))
    assert dense(found.graphs[0]).tolist() == [[0, 0, 0], [0, 0, 1]] and found.nodes.tolist() == [0, 4]
    assert found.graphs[0].edge_index.T.tolist() == [[1, 0], [0, 0], [0, 1], [1, 1]]


def test_npz_with_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object), edge_index=np.zeros((2, 0), np.int64))
    with pytest.raises(UserError, match="cannot be read"):
        files.read(str(tmp_path / "a.npz"))


def test_pt_files(tmp_path):
    graph = {"x": torch.rand(2, 3), "edge_index": torch.tensor([[0], [1]]), "y": torch.tensor([1])}
    torch.save([graph, graph], tmp_path / "many.pt")
    found = files.read(str(tmp_path / "many.pt"))
    assert len(found.graphs) == 2 and found.labels.tolist() == [1, 1]
    torch.save({"weights": torch.rand(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="holds no graph"):
        files.read(str(tmp_path / "other.pt"))
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(print))
    with pytest.raises(UserError, match="cannot be read"):
        files.read(str(tmp_path / "bad.pt"))


def test_pt_of_torch_geometric(tmp_path):
    data_classes = geometric().data
    data = data_classes.Data(x=torch.rand(3, 2), edge_index=torch.tensor([[0], [1]]), y=torch.tensor([0, 1, 1]))
    data.train_mask = torch.tensor([True, False, False])
    torch.save(data, tmp_path / "d.pt")
    found = files.read(str(tmp_path / "d.pt"))
    assert found.nodes.tolist() == [0, 1, 1] and found.splits["train"].tolist() == [True, False, False]


def tu(folder, **more):
    texts = {"A": "1, 2\n2, 1\n", "graph_indicator": "1\n1\n2\n", "graph_labels": "1\n-1\n", "node_labels": "0\n3\n3\n"}
    folder.mkdir()
    for name, text in {**texts, **more}.items():
        if text is not None:
            (folder / f"TOY_{name}.txt").write_text(text)
    return str(folder)


def test_tu_folder_and_zip(tmp_path):
    root = tu(tmp_path / "TOY")
    with zipfile.ZipFile(tmp_path / "TOY.zip", "w") as archive:
        for path in (tmp_path / "TOY").iterdir():
            archive.write(path, f"TOY/{path.name}")
    for place in (root, str(tmp_path / "TOY.zip")):
        found = files.read(place)
        assert [g.counts for g in found.graphs] == [(2,), (1,)] and found.labels.tolist() == [1, 0]
        assert dense(found.graphs[0]).tolist() == [[1, 0], [0, 1]]


def test_tu_without_labels_uses_degrees(tmp_path, capsys):
    found = files.read(tu(tmp_path / "TOY", node_labels=None))
    assert dense(found.graphs[0]).tolist() == [[0, 1], [0, 1]] and dense(found.graphs[1]).tolist() == [[1, 0]]
    assert "one-hot degrees" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"A": "1, 9\n"}, "names node 8"),
        ({"A": "1, 3\n"}, "two different graphs"),
        ({"graph_indicator": None}, "lacks"),
        ({"graph_indicator": "2\n1\n1\n"}, "graph by graph"),
    ],
)
def test_bad_tu_sets_are_refused(tmp_path, more, said):
    with pytest.raises(UserError, match=said):
        files.read(tu(tmp_path / "TOY", **more))


def test_unknown_places_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        files.read(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no graphs of a known form"):
        files.read(str(tmp_path))


class Evil:
    def __reduce__(self):
        return (print, ("never",))


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), b"\x80\x02nonsense", b""])
def test_planetoid_pickles_are_not_trusted(tmp_path, content):
    for part in ("x", "tx", "allx", "y", "ty", "ally", "graph"):
        (tmp_path / f"ind.toy.{part}").write_bytes(content)
    with pytest.raises(UserError, match="is refused"):
        files.read(str(tmp_path))


def test_source_and_reader(tmp_path):
    root = tu(tmp_path / "TOY")
    source, reader = GraphSource(root), GraphReader()
    items = source.items("train")
    assert [item.labels for item in items] == [{"label": 1}, {"label": 0}] and source.classes == {"label": ["0", "1"]}
    batch = reader.collate([reader.read(item, True) for item in items])
    assert batch.counts == (2, 1)
    assert len(GraphSource(root, holdout=0.5).items("test")) == 1
    with pytest.raises(UserError, match="holdout"):
        GraphSource(root, holdout=0.9)


def test_one_graph_of_two_leaves_no_empty_part(tmp_path):
    root = write(tmp_path / "g", edges="0,1\n", features="1\n2\n")
    with pytest.raises(UserError, match="no graph for 'test'"):
        GraphSource(root, holdout=0.5).items("test")
