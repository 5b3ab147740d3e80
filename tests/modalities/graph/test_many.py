"""Many files of graphs: where labels come from, which files are left out, and that all are accounted for."""

import json

import networkx
import pytest
import torch

from core.errors import UserError
from modalities.graph.formats import files
from modalities.graph.formats.geometric import geometric
from modalities.graph.graphs import to_dense
from modalities.graph.reader import GraphReader, GraphSource


@pytest.fixture(autouse=True)
def no_cache():
    files.read.cache_clear()


def graph(value: float, nodes: int = 3, **more) -> dict:
    path = torch.stack([torch.arange(nodes - 1), torch.arange(1, nodes)])
    return {"x": torch.full((nodes, 2), value), "edge_index": path, **more}


def save(folder, **graphs):
    folder.mkdir(exist_ok=True, parents=True)
    for name, content in graphs.items():
        torch.save(content, folder / f"{name}.pt")
    return folder


def labels_of(source: GraphSource) -> dict[str, str]:
    """The class name of every graph's label by its key; "" where unknown."""
    items = [*source.items("train"), *source.items("test")]
    names = source.classes["label"]
    return {item.key: names[item.labels["label"]] if item.labels else "" for item in items}


def test_labels_of_the_files_themselves(tmp_path):
    data = geometric().data.Data
    graphs = {f"g{number}": data(**graph(number, y=torch.tensor([number % 2]))) for number in range(6)}
    source = GraphSource(str(save(tmp_path, **graphs)), holdout=0.3)
    assert labels_of(source) == {f"g{number}.pt": str(number % 2) for number in range(6)}
    assert "y" in source.account().labels["label"]


def test_real_labels_of_the_files(tmp_path):
    graphs = {f"g{number}": graph(number, y=torch.tensor([number / 2])) for number in range(6)}
    source = GraphSource(str(save(tmp_path, **graphs)), holdout=0.3)
    assert {key: float(name) for key, name in labels_of(source).items()} == {f"g{n}.pt": n / 2 for n in range(6)}


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("labels.csv", ["graph,label", "g0.pt,toxic", "g1.pt,safe", "g3.pt,toxic"]),
        ("labels.csv", ["g0,toxic", "g1,safe", "g3,toxic"]),
        ("graph_labels.tsv", ["label\tname", "toxic\tg0", "safe\tg1", "toxic\tg3"]),
        ("targets.txt", ["g0 toxic", "g1 safe", "g3 toxic"]),
    ],
)
def test_labels_of_a_table_beside_the_files(tmp_path, table, rows):
    save(tmp_path, **{f"g{number}": graph(number, y=torch.tensor([9])) for number in range(4)})
    (tmp_path / table).write_text("\n".join(rows))
    source = GraphSource(str(tmp_path), holdout=0.3)
    assert labels_of(source) == {"g0.pt": "toxic", "g1.pt": "safe", "g2.pt": "", "g3.pt": "toxic"}
    assert source.account().labels == {"label": table}


def test_files_without_a_graph_are_left_out_and_named(tmp_path):
    save(
        tmp_path,
        a=graph(1.0),
        b=graph(2.0),
        empty=graph(3.0, 1) | {"x": torch.zeros(0, 2), "edge_index": torch.zeros(2, 0)},
    )
    torch.save({"weights": torch.ones(2)}, tmp_path / "weights.pt")
    torch.save("Compose([])", tmp_path / "pre_transform.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "info.json").write_text(json.dumps({"name": "set"}))
    (tmp_path / "notes.md").write_text("…")
    source = GraphSource(str(tmp_path), holdout=0.5)
    account = source.account()
    assert sum(account.samples.values()) == 2
    examples = {example for fault in account.passed_over for example in fault.examples}
    assert {"empty.pt", "weights.pt", "pre_transform.pt", "cut.pt", "info.json"} <= examples
    assert [fault.count for fault in account.passed_over if fault.reason == "holds no node"] == [1]


def test_lists_by_split(tmp_path):
    """As data sets of torch_geometric with a split: a list of graphs in each file."""
    save(tmp_path, train=[graph(1.0), graph(2.0)], val=[graph(3.0)], test=[graph(4.0), graph(5.0)])
    source, reader = GraphSource(str(tmp_path)), GraphReader()
    for split, values in (("train", [1, 2]), ("validation", [3]), ("test", [4, 5])):
        assert [float(reader.read(item, False).x.mean()) for item in source.items(split)] == values
    assert source.account().samples == {"train": 2, "validation": 1, "test": 2}


def test_graphs_without_features_have_the_same_columns(tmp_path):
    star = {"edge_index": torch.tensor([[1, 2, 3], [0, 0, 0]]), "num_nodes": 4}
    save(
        tmp_path,
        a=star,
        b={"edge_index": torch.tensor([[0], [1]])},
        c={"edge_index": torch.zeros(2, 0), "num_nodes": 1},
    )
    source, reader = GraphSource(str(tmp_path), holdout=0.0), GraphReader()
    batch = reader.collate([reader.read(item, True) for item in source.items("train")])
    x = to_dense(batch.x, batch.features) if batch.is_sparse else batch.x
    assert batch.features == 4 and x.argmax(1).tolist() == [3, 0, 0, 0, 0, 1, 0]
    assert any("degrees" in note for note in source.account().notes)


def test_files_of_networkx(tmp_path):
    for number in range(4):
        part = networkx.path_graph(number + 2)
        networkx.set_node_attributes(part, float(number), "f")
        part.graph["label"] = number % 2
        networkx.write_graphml(part, tmp_path / f"g{number}.graphml")
    source, reader = GraphSource(str(tmp_path), holdout=0.0), GraphReader()
    graphs = [reader.read(item, True) for item in source.items("train")]
    assert [part.counts for part in graphs] == [(2,), (3,), (4,), (5,)]
    assert [part.edge_index.shape[1] for part in graphs] == [4, 7, 10, 13]  # both ways, and loops
    assert list(labels_of_all(source)) == ["0", "1", "0", "1"]


def labels_of_all(source):
    return [source.classes["label"][item.labels["label"]] for item in source.items("train")]


def test_nothing_but_other_files_is_refused(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "a.pt")
    torch.save({"weights": torch.ones(2)}, tmp_path / "b.pt")
    with pytest.raises(UserError, match=r"holds no graph\. [ab]\.pt: .*no edge_index"):
        GraphSource(str(tmp_path)).items("train")


def test_real_labels_of_nodes_over_several_files_are_refused(tmp_path):
    save(tmp_path, a=graph(1.0, y=torch.tensor([0.5, 0.1, 0.2])), b=graph(2.0, y=torch.tensor([0.5, 0.4, 0.2])))
    source = GraphSource(str(tmp_path), holdout=0.0)
    with pytest.raises(UserError, match="save the graphs as one list"):
        GraphReader().token_labels(source.items("train")[0])
