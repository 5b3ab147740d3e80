"""JSON, GraphML, GML and GEXF: nodes with attributes, links by their ids."""

import json
import sys

import networkx
import pytest

from core.errors import UserError
from modalities.graph.formats import files
from tests.modalities.graph.formats.read import both, dense, links


@pytest.fixture(autouse=True)
def no_cache():
    files.read.cache_clear()


def friends(kind=networkx.Graph):
    """Three people in a row; their names are in no order."""
    graph = kind()
    for name, age, group in (("zoe", 30, "red"), ("ann", 10, "blue"), ("bea", 20, "red")):
        graph.add_node(name, age=float(age), height=age / 10, group=group, label=group)
    graph.add_edges_from([("ann", "bea"), ("bea", "zoe")])
    return graph


WRITERS = {
    ".graphml": networkx.write_graphml,
    ".gexf": networkx.write_gexf,
    ".json": lambda graph, path: path.write_text(json.dumps(networkx.node_link_data(graph, edges="links"))),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_graphs_of_networkx(tmp_path, suffix):
    WRITERS[suffix](friends(), tmp_path / f"g{suffix}")
    for root in (tmp_path, tmp_path / f"g{suffix}"):
        data = files.read(str(root))
        assert list(data.provenance.node_ids) == ["zoe", "ann", "bea"]
        assert dense(data.graphs[0])[:, :2].tolist() == [[30, 3], [10, 1], [20, 2]]
        assert links(data) == both(("ann", "bea"), ("bea", "zoe"))
        if suffix != ".gexf":  # whose nodes' labels are their names
            assert data.nodes.tolist() == [1, 0, 1] and list(data.classes) == ["blue", "red"]


def test_gml(tmp_path):
    graph = networkx.Graph()
    graph.add_node("a", size=1.5)
    graph.add_node("b", size=2.5)
    graph.add_edge("a", "b")
    networkx.write_gml(graph, tmp_path / "g.gml")
    data = files.read(str(tmp_path / "g.gml"))
    assert data.graphs[0].counts == (2,) and dense(data.graphs[0]).flatten().tolist() == [1.5, 2.5]


def test_direction(tmp_path):
    graph = friends(networkx.DiGraph)
    networkx.write_graphml(graph, tmp_path / "g.graphml")
    root = str(tmp_path / "g.graphml")
    assert links(files.read(root, directed=True)) == {("ann", "bea"), ("bea", "zoe")}
    assert links(files.read(root)) == both(("ann", "bea"), ("bea", "zoe"))


@pytest.mark.parametrize(
    "tree",
    [
        {"nodes": [{"id": 7, "f": 1}, {"id": 3, "f": 2}], "links": [{"source": 7, "target": 3}]},
        {"nodes": [{"id": 7, "f": 1}, {"id": 3, "f": 2}], "edges": [[7, 3]]},
        {"elements": {"nodes": [{"data": {"id": "7", "f": 1}}, {"data": {"id": "3", "f": 2}}],
                      "edges": [{"data": {"source": "7", "target": "3"}}]}},
    ],
)  # fmt: skip
def test_forms_of_json(tmp_path, tree):
    (tmp_path / "g.json").write_text(json.dumps(tree))
    data = files.read(str(tmp_path / "g.json"))
    assert links(data) == both(("7", "3")) and dense(data.graphs[0]).flatten().tolist() == [1, 2]


def test_a_label_of_the_graph_and_lists_as_features(tmp_path):
    tree = {"graph": {"label": 0.25}, "nodes": [{"id": 0, "x": [1, 2]}, {"id": 1, "x": [3, 4]}], "links": []}
    (tmp_path / "g.json").write_text(json.dumps(tree))
    data = files.read(str(tmp_path / "g.json"))
    assert data.targets["label"].tolist() == [0.25] and dense(data.graphs[0]).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("g.json", "{}", "no nodes and links"), ("g.json", "[1", "cannot be read"), ("g.graphml", "<a", "cannot be read")],
)
def test_damaged_files_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        files.read(str(tmp_path / name))


def test_networkx_is_named_where_it_is_missing(tmp_path, monkeypatch):
    networkx.write_graphml(friends(), tmp_path / "g.graphml")
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(UserError, match="pip install networkx"):
        files.read(str(tmp_path / "g.graphml"))
