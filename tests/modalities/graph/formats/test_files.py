"""Graph files: every form that is read, and what is refused."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from core.errors import UserError
from modalities.graph.formats import files
from modalities.graph.formats.geometric import geometric
from modalities.graph.graphs import Graphs, to_dense
from modalities.graph.reader import GraphReader, GraphSource


@pytest.fixture(autouse=True)
def fresh():
    files.read.cache_clear()


def write(folder, **texts):
    folder.mkdir(exist_ok=True, parents=True)
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    return str(folder)


def dense(graph: Graphs):
    return to_dense(graph.x, graph.features) if graph.is_sparse else graph.x


def test_edge_list_with_features(tmp_path):
    texts = {"edges": "from,to\n0,1\n1,2\n", "features": "1,0\n0,1\n0,0\n", "labels": "node,class\n0,1\n2,0\n"}
    root = write(tmp_path / "g", **texts)
    found = files.read(root)
    assert found.nodes.tolist() == [1, -1, 0] and dense(found.graphs[0]).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert found.graphs[0].edge_index.shape[1] == 4 + 3  # both ways, and loops
    assert files.read(root, directed=True).graphs[0].edge_index.shape[1] == 2 + 3


def test_edge_list_without_features_says_so(tmp_path):
    found = files.read(write(tmp_path / "g", edges="0,1\n0,2\n"))
    assert dense(found.graphs[0]).tolist() == [[1, 0], [0, 1], [0, 1]]  # in-degree, counted as the file has the edges
    assert "no node features" in found.provenance.notes[0]


def test_no_edges_at_all_and_one_node(tmp_path):
    found = files.read(write(tmp_path / "g", edges="", features="1,2\n"))
    assert found.graphs[0].edge_index.tolist() == [[0], [0]]


def test_repeated_edges_and_self_loops_count_once(tmp_path):
    """0-1 thrice, once the other way round, a loop on 0 twice; node 2 is alone."""
    found = files.read(write(tmp_path / "g", edges="0,1\n0,1\n1,0\n0,0\n0,0\n", features="1\n2\n3\n"))
    assert found.graphs[0].edge_index.T.tolist() == [[1, 0], [0, 0], [0, 1], [1, 1], [2, 2]]


def test_nodes_that_only_labels_name_are_there(tmp_path):
    found = files.read(write(tmp_path / "g", edges="0,1\n", labels="3,1\n"))
    assert dense(found.graphs[0]).tolist() == [[1, 0], [0, 1], [1, 0], [1, 0]] and found.nodes.tolist() == [
        -1,
        -1,
        -1,
        1,
    ]


def test_classes_may_have_names(tmp_path):
    labels = "node,class\n0,red\n1,blue\n2,red\n4,-1\n"
    root = write(
        tmp_path / "g", edges="0,1\n", features="1\n2\n3\n4\n5\n", labels=labels, split="0.0,train\n1.0,test\n"
    )
    found = files.read(root)
    assert found.nodes.tolist() == [1, 0, 1, -1, -1] and list(found.classes) == ["blue", "red"]
    (item,) = GraphSource(root).items("test")
    told = GraphReader().token_labels(item)
    assert told.classes.tolist() == found.nodes.tolist() and list(told.names) == ["blue", "red"]
    assert told.splits["test"].tolist() == [False, True, False, False, False]


def test_damaged_feature_arrays_are_refused(tmp_path):
    root = write(tmp_path / "g", edges="0,1\n")
    (tmp_path / "g" / "features.npy").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"features\.npy is no array"):
        files.read(root)


def test_features_are_scaled_as_asked(tmp_path):
    root = write(tmp_path / "g", edges="0,1\n", features="1,3,5\n3,1,5\n0,0,5\n")
    assert dense(files.read(root, scaling="sum").graphs[0]).sum(1).tolist() == pytest.approx([1, 1, 1])
    x = dense(files.read(root, scaling="standard").graphs[0])
    assert torch.allclose(x.mean(0), torch.zeros(3), atol=1e-6) and torch.allclose(
        x[:, :2].std(0, correction=0), torch.ones(2)
    )
    assert x[:, 2].tolist() == [0, 0, 0]


def test_splits_of_a_table(tmp_path):
    found = files.read(write(tmp_path / "g", edges="0,1\n", features="1\n2\n", split="0,train\n1,test\n"))
    assert found.splits["train"].tolist() == [True, False] and not found.splits["validation"].any()


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"edges": "0,5\n", "features": "1\n2\n"}, "names node 5"),
        ({"edges": "0,1\n", "features": "1\nnan\n"}, "NaN or infinite"),
        ({"edges": "0,x\n", "features": "1\n"}, r"by words \(x\).*no column of ids"),
        ({"edges": "0\n1\n", "features": "1\n"}, "two columns"),
        ({"edges": "0,-1\n", "features": "1\n2\n"}, "names node -1"),
        ({"edges": "0,-1\n"}, "names node -1"),
        ({"edges": "0,0.5\n", "features": "1\n2\n"}, "whole numbers"),
        ({"edges": "0,1\n", "features": "1\ninf\n"}, "NaN or infinite"),
        ({"edges": "0,1\n", "features": "1,2\n3\n"}, "not a table of numbers"),
        ({"edges": "0,1\n", "features": "1\n2\n", "labels": "2,0\n"}, r"labels\.csv names node 2"),
        ({"edges": "0,1\n", "features": "1\n2\n", "labels": "0\n"}, r"labels\.csv, line 1: there must be two columns"),
        ({"edges": "0,1\n", "features": "1\n2\n", "labels": "node,class\n0,1\nb,1\n"}, r"labels\.csv names node b"),
        ({"edges": "0,1\n", "features": "1\n2\n", "split": "-1,train\n"}, r"split\.csv names node -1"),
        ({"edges": "0,1\n", "features": "1\n2\n", "split": "0\n"}, r"split\.csv, line 1: there must be two columns"),
        ({"edges": "0,1\n", "features": "1\n2\n", "split": "0,middle\n"}, "middle"),
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


def test_masks_of_another_shape_are_refused(tmp_path):
    graph = {"x": torch.rand(3, 2), "edge_index": torch.zeros(2, 0, dtype=torch.long), "y": torch.tensor([0, 1, 1])}
    torch.save(graph | {"train_mask": torch.ones(3, 10, dtype=torch.bool)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"train mask is of shape \(3, 10\)"):
        files.read(str(tmp_path / "a.pt"))


def test_molecules_keep_class_numbers_bonds_and_scaffolds(tmp_path):
    molecule = {
        "x": torch.tensor([[5, 0], [7, 1]]), "edge_index": torch.tensor([[0, 1], [1, 0]]),
        "edge_attr": torch.tensor([[1, 0], [1, 0]]), "y": torch.tensor([[1.0, -1.0, 0.0]]), "scaffold": "c1",
    }  # fmt: skip
    torch.save([molecule, molecule], tmp_path / "m.pt")
    found = files.read(str(tmp_path / "m.pt"), loop=(4, 0))
    assert found.labels.tolist() == [[1, -1, 0]] * 2 and found.scaffolds == ["c1", "c1"]
    assert found.graphs[0].x.dtype == torch.long
    assert found.graphs[0].edge_attr.tolist() == [[1, 0], [4, 0], [1, 0], [4, 0]]
    reader = GraphReader(loop=[4, 0])
    item = GraphSource(str(tmp_path / "m.pt")).items("train")[0]
    assert item.labels == {"label": (1, 0, -1)} and item.group == "c1"
    assert reader.read(item, True).edge_attr.tolist() == found.graphs[0].edge_attr.tolist()


def ppi(folder, part: str, graphs: list[int], first: int):
    """A part of PPI: graphs that are chains, three labels a node."""
    folder.mkdir(exist_ok=True)
    number = np.repeat(np.arange(first, first + len(graphs)), graphs)
    links = [{"source": i, "target": i + 1} for i in range(len(number) - 1) if number[i] == number[i + 1]]
    tree = {"directed": False, "nodes": [{"id": i} for i in range(len(number))], "links": links}
    (folder / f"{part}_graph.json").write_text(json.dumps(tree))
    arrays = {"graph_id": number, "feats": np.ones((len(number), 2)), "labels": np.eye(3)[number % 3]}
    for name, array in arrays.items():
        np.save(folder / f"{part}_{name}.npy", array)


def test_protein_graphs_are_split_as_distributed(tmp_path):
    for part, graphs, first in (("train", [3, 2], 1), ("valid", [2], 3), ("test", [4], 4)):
        ppi(tmp_path, part, graphs, first)
    found = files.read(str(tmp_path))
    assert [g.counts for g in found.graphs] == [(3,), (2,), (2,), (4,)] and found.nodes.shape == (11, 3)
    assert [found.within(name) for name in ("train", "validation", "test")] == [[0, 1], [2], [3]]
    assert found.graphs[0].edge_index.shape[1] == 4 + 3
    source = GraphSource(str(tmp_path))
    assert [len(source.items(split)) for split in ("train", "test")] == [2, 1] and "does not read" in source.held_out
    (tmp_path / "test_feats.npy").unlink()
    files.read.cache_clear()
    with pytest.raises(UserError, match="part 'test' of PPI"):
        files.read(str(tmp_path))


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


def test_tu_without_labels_uses_degrees(tmp_path):
    found = files.read(tu(tmp_path / "TOY", node_labels=None))
    assert dense(found.graphs[0]).tolist() == [[0, 1], [0, 1]] and dense(found.graphs[1]).tolist() == [[1, 0]]
    assert "one-hot degrees" in found.provenance.notes[0]


@pytest.mark.parametrize("name", ["A", "graph_labels", "node_labels"])
def test_empty_texts_of_tu_are_refused(tmp_path, name):
    root = tu(tmp_path / "TOY")
    (tmp_path / "TOY" / f"TOY_{name}.txt").write_text("")
    with pytest.raises(UserError, match=rf"TOY_{name}\.txt is empty"):
        files.read(root)


@pytest.mark.parametrize("start", [0.3, 0.5, 0.6])
@pytest.mark.parametrize("is_locked", [False, True])
def test_a_damaged_or_locked_zip_of_tu_is_refused(tmp_path, start, is_locked):
    """A stretch of zeros within the packed text, and the flag of a password."""
    with zipfile.ZipFile(tmp_path / "TOY.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("TOY/TOY_A.txt", "".join(f"{i % 7 + 1}, {i * i % 7 + 1}\n" for i in range(400)))
        archive.writestr("TOY/TOY_graph_indicator.txt", "1\n" * 7)
        size = archive.getinfo("TOY/TOY_A.txt").compress_size
    content = bytearray((tmp_path / "TOY.zip").read_bytes())
    if is_locked:
        for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            content[content.index(mark) + offset] |= 1
    else:
        begin = 43 + int(size * start)  # behind the header of 30 bytes and the name
        content[begin : begin + 20] = bytes(20)
    (tmp_path / "TOY.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"the archive .*TOY\.zip cannot be read"):
        files.read(str(tmp_path / "TOY.zip"))


UNREAD = files.UNREAD


def unread(data) -> list[str]:
    return sorted(name for fault in data.provenance.passed_over if fault.reason == UNREAD for name in fault.examples)


@pytest.mark.parametrize("is_zip", [False, True])
def test_files_that_a_tu_data_set_does_not_read_are_counted(tmp_path, is_zip):
    root = tu(tmp_path / "TOY", edge_labels="0\n0\n", node_attributes=ATTRIBUTES)
    (tmp_path / "TOY" / "README.txt").write_text("the data set")
    prefix = ""
    if is_zip:
        prefix, root = "TOY/", str(tmp_path / "TOY.zip")
        with zipfile.ZipFile(root, "w") as archive:
            for path in (tmp_path / "TOY").iterdir():
                archive.write(path, f"TOY/{path.name}")
    expected = ["README.txt", "TOY_edge_labels.txt", "TOY_node_attributes.txt"]
    assert unread(files.read(root)) == [f"{prefix}{name}" for name in expected]
    assert unread(files.read(root, features="both")) == [f"{prefix}{name}" for name in expected[:2]]


def test_files_beside_tables_are_counted(tmp_path):
    texts = {"edges": "0,1\n1,2\n", "features": "1\n2\n3\n", "labels": "0,1\n", "split": "0,train\n"}
    root = write(tmp_path / "g", **texts, embeddings="1,2\n", notes="none\n")
    assert unread(files.read(root)) == ["embeddings.csv", "notes.csv"]


def test_files_beside_the_only_file_of_graphs_are_counted(tmp_path):
    folder = tmp_path / "g"
    (folder / "sub").mkdir(parents=True)
    np.savez(folder / "graph.npz", x=np.ones((2, 1)), edge_index=np.array([[0], [1]]))
    for name in (".DS_Store", "sub/a.txt"):
        (folder / name).write_text("1")
    assert unread(files.read(str(folder))) == [".DS_Store", "sub/a.txt"]
    assert unread(files.read(str(folder / "graph.npz"))) == []


ATTRIBUTES = "0.5, 1\n1.5, 2\n2.5, 3\n"


def test_tu_attributes_are_the_features_where_there_are_no_labels(tmp_path):
    data = files.read(tu(tmp_path / "TOY", node_labels=None, node_attributes=ATTRIBUTES))
    assert [dense(graph).tolist() for graph in data.graphs] == [[[0.5, 1], [1.5, 2]], [[2.5, 3]]]
    assert any("attributes" in note for note in data.provenance.notes)


@pytest.mark.parametrize(
    ("features", "columns"),
    [
        ("auto", [[1, 0], [0, 1], [0, 1]]),
        ("labels", [[1, 0], [0, 1], [0, 1]]),
        ("attributes", [[0.5, 1], [1.5, 2], [2.5, 3]]),
        ("both", [[1, 0, 0.5, 1], [0, 1, 1.5, 2], [0, 1, 2.5, 3]]),
        ("degrees", [[0, 1], [0, 1], [1, 0]]),
    ],
)
def test_tu_features_by_setting(tmp_path, features, columns):
    root = tu(tmp_path / "TOY", node_attributes=ATTRIBUTES)
    data = files.read(root, features=features)
    assert torch.cat([dense(graph) for graph in data.graphs]).tolist() == columns
    assert any("both" in note for note in data.provenance.notes) == (features == "auto")
    source, reader = GraphSource(root, features=features), GraphReader()
    batch = reader.collate([reader.read(item, True) for item in source.items("train")])
    assert dense(batch).tolist() == columns


def test_tu_settings_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match=r"features=attributes: .* has no TOY_node_attributes\.txt"):
        files.read(tu(tmp_path / "TOY"), features="attributes")
    with pytest.raises(UserError, match="is for TU data sets"):
        files.read(write(tmp_path / "g", edges="0,1\n"), features="both")


def test_tu_graphs_without_nodes_are_left_out_and_named(tmp_path):
    """Graphs 2 and 4 of 4: the indicator skips a number, and ends before the last."""
    root = tu(
        tmp_path / "TOY",
        graph_indicator="1\n1\n3\n",
        graph_labels="7\n8\n9\n8\n",
        node_labels=None,
        node_attributes=ATTRIBUTES,
    )
    data = files.read(root)
    assert [graph.counts for graph in data.graphs] == [(2,), (1,)] and data.labels.tolist() == [0, 2]
    (fault,) = data.provenance.passed_over
    assert (fault.reason, fault.count, fault.examples) == ("holds no node", 2, ["000001", "000003"])
    source = GraphSource(root)
    assert [item.key for item in source.items("train")] == ["TOY#000000", "TOY#000002"]
    assert [item.labels for item in source.items("test")] == [{"label": 0}, {"label": 2}]
    assert source.account().samples == {"train": 2, "test": 2}


def test_tu_folds_follow_graphs_that_are_left_out(tmp_path):
    root = tu(tmp_path / "TOY", graph_indicator="1\n1\n3\n", graph_labels="7\n8\n9\n")
    (tmp_path / "TOY" / "10fold_idx").mkdir()
    for number in range(1, 11):
        (tmp_path / "TOY" / "10fold_idx" / f"train_idx-{number}.txt").write_text("0\n1\n")
        (tmp_path / "TOY" / "10fold_idx" / f"test_idx-{number}.txt").write_text("2\n")
    train, test = files.read(root).folds[0]
    assert train.tolist() == [0] and test.tolist() == [1]


@pytest.mark.parametrize(
    ("files_of_labels", "targets"),
    [
        ({"graph_labels": "0.73\n1.2\n"}, {"label": [0.73, 1.2]}),
        ({"graph_labels": None, "graph_attributes": "-1.5\n2\n"}, {"label": [-1.5, 2]}),
        ({"graph_labels": None, "graph_attributes": "0.5,7\n1,8\n"}, {"label 0": [0.5, 1], "label 1": [7, 8]}),
    ],
)
def test_tu_real_labels_are_kept(tmp_path, files_of_labels, targets):
    root = tu(tmp_path / "TOY", **files_of_labels)
    data = files.read(root)
    assert data.labels is None and {name: row.tolist() for name, row in data.targets.items()} == targets
    source = GraphSource(root)
    for name, values in targets.items():
        rows = [item.labels[name] for item in source.items("train")]
        assert [float(source.classes[name][row]) for row in rows] == values
    assert "real numbers" in source.account().labels[next(iter(targets))]


def test_tu_readmes_in_latin_1(tmp_path):
    root = tu(tmp_path / "TOY")
    (tmp_path / "TOY" / "README.txt").write_bytes("Molécules de Müller\n".encode("latin-1"))
    with zipfile.ZipFile(tmp_path / "TOY.zip", "w") as archive:
        for path in (tmp_path / "TOY").iterdir():
            archive.write(path, f"TOY/{path.name}")
    for place in (root, str(tmp_path / "TOY.zip")):
        assert files.read(place).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"A": "1, 9\n"}, "names node 8"),
        ({"A": "1, 3\n"}, "two different graphs"),
        ({"graph_indicator": None}, "lacks"),
        ({"graph_indicator": "2\n1\n1\n"}, "graph by graph"),
        ({"graph_labels": "1\n"}, "has 1 lines for 2 graphs"),
        ({"node_labels": "1\n"}, "has 1 lines for 3 nodes"),
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
