"""Tables of edges and nodes: ids of any kind, columns by their names, features joined by id."""

import gzip
from itertools import pairwise

import pytest
import torch

from core.errors import UserError
from modalities.graph.formats import files
from tests.modalities.graph.formats.read import both, dense, links


@pytest.fixture(autouse=True)
def no_cache():
    files.read.cache_clear()


def write(folder, **texts) -> str:
    """Files by name; `__` stands for a dot."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    "ids",
    [
        ["1000000007", "1000000009", "1000000021"],
        ["1459923049348800512", "1459923049348800513", "1459923049348800514"],  # one float
        ["9223372036854775806", "9223372036854775807", "12"],
        ["alice", "bob", "carol"],
        ["a b", "ümit", "7"],
        ["x1", "x2", "x10"],
        ["1", "2", "3"],
    ],
)
def test_ids_are_numbered_anew_by_a_table(tmp_path, ids):
    text = "".join(f"{a},{b}\n" for a, b in pairwise(ids))
    data = files.read(write(tmp_path / "g", edges__csv=text))
    assert sorted(data.provenance.node_ids) == sorted(ids) and data.graphs[0].counts == (3,)
    assert links(data) == both((ids[0], ids[1]), (ids[1], ids[2]))
    assert any("numbered" in note for note in data.provenance.notes)


def test_small_numbers_are_their_own_ids(tmp_path):
    data = files.read(write(tmp_path / "g", edges__csv="0,1\n4,1\n"))
    assert not data.provenance.node_ids and data.graphs[0].counts == (5,) and links(data) == both((0, 1), (1, 4))


@pytest.mark.parametrize(
    "header",
    [
        "source,target",
        "src,dst",
        "from,to",
        "Source,Target",
        "u,v",
        "FromNodeId,ToNodeId",
        "node_1,node_2",
        "head,tail",
    ],
)
def test_columns_are_known_by_their_names(tmp_path, header):
    first, second = header.split(",")
    text = f"weight,{second},id,{first}\n0.5,b,1,a\n2,c,2,a\n"
    data = files.read(write(tmp_path / "g", edges__csv=text), directed=True)
    assert links(data) == {("a", "b"), ("a", "c")}
    assert any("weight" in note for note in data.provenance.notes)


@pytest.mark.parametrize("mark", [",", "\t", ";", " "])
def test_any_delimiter_and_remarks(tmp_path, mark):
    text = f"# Nodes: 3 Edges: 2\n% another\nann{mark}bea\n\nbea{mark}cid\n"
    for name in ("edges.csv", "links.txt", "graph.edgelist", "x_edges.tsv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(text)
        for root in (tmp_path / name, tmp_path / name / name):
            assert links(files.read(str(root))) == both(("ann", "bea"), ("bea", "cid"))


def test_compressed_tables(tmp_path):
    (tmp_path / "edges.csv.gz").write_bytes(gzip.compress(b"0,1\n1,2\n"))
    assert links(files.read(str(tmp_path))) == both((0, 1), (1, 2))


NODES = {
    "id": "id,f0,f1\n30,3,0\n10,1,0\n20,2,0\n",
    "node_id last": "f0,f1,node_id\n3,0,30\n1,0,10\n2,0,20\n",
    "no header": "30,3,0\n10,1,0\n20,2,0\n",
}


@pytest.mark.parametrize("nodes", NODES.values(), ids=NODES.keys())
def test_features_are_joined_by_id(tmp_path, nodes):
    """The row of node 10 is the second: by position it would get the features of node 30."""
    data = files.read(write(tmp_path / "g", edges__csv="10,20\n20,30\n", features__csv=nodes))
    assert list(data.provenance.node_ids) == ["30", "10", "20"]
    by_id = dict(zip(data.provenance.node_ids, dense(data.graphs[0]).tolist(), strict=True))
    assert by_id == {"10": [1, 0], "20": [2, 0], "30": [3, 0]}
    assert links(data) == both(("10", "20"), ("20", "30"))


def test_labels_and_splits_are_joined_by_id(tmp_path):
    root = write(
        tmp_path / "g",
        edges__csv="src,dst\nann,bea\nbea,cid\n",
        nodes__csv="name,age,town,label\ncid,30,Ulm,x\nann,10,Bonn,y\nbea,20,Trier,x\n",
        split__csv="id,split\nann,train\ncid,test\n",
    )
    data = files.read(root)
    assert list(data.provenance.node_ids) == ["cid", "ann", "bea"] and data.nodes.tolist() == [0, 1, 0]
    assert list(data.classes) == ["x", "y"] and data.splits["test"].tolist() == [True, False, False]
    assert dense(data.graphs[0]).tolist() == [[30], [10], [20]]
    assert any("town" in note for note in data.provenance.notes)
    other = write(tmp_path / "g", labels__csv="node,class\nbea,p\ncid,q\n")
    files.read.cache_clear()
    assert files.read(other).nodes.tolist() == [1, -1, 0]


def test_labels_may_be_real_or_whole_numbers(tmp_path):
    root = write(tmp_path / "g", edges__csv="0,1\n1,2\n", labels__csv="node,y\n0,0.5\n2,1.25\n")
    nodes = files.read(root).nodes
    assert nodes[[0, 2]].tolist() == [0.5, 1.25] and nodes[1].isnan()
    root = write(tmp_path / "h", edges__csv="0,1\n1,2\n", labels__csv="node,y\n0,1.0\n2,0.0\n")
    assert files.read(root).nodes.tolist() == [1, -1, 0]


def test_edges_to_nodes_without_a_row_are_counted(tmp_path):
    text = "a,b\nb,c\na,c\na,zoe\n"
    data = files.read(write(tmp_path / "g", edges__csv=text, nodes__csv="id,f\na,1\nb,2\nc,3\n"))
    (fault,) = data.provenance.passed_over
    assert fault.count == 1 and fault.examples == ["a-zoe"] and data.graphs[0].counts == (3,)
    with pytest.raises(UserError, match="2 of 2 edges name a node"):
        files.read(write(tmp_path / "h", edges__csv="x,y\ny,x\n", nodes__csv="id,f\na,1\nb,2\n"))


def test_repeated_edges_and_loops_are_counted(tmp_path):
    data = files.read(write(tmp_path / "g", edges__csv="0,1\n0,1\n0,1\n1,2\n2,2\n"))
    counts = {fault.reason.split()[2]: fault.count for fault in data.provenance.passed_over}
    assert sorted(fault.count for fault in data.provenance.passed_over) == [1, 2], counts


def test_citation_tables(tmp_path):
    """LINQS: <name>.cites, <name>.content with id, words and class, both without header."""
    content = "31336\t0\t1\tNeural\n1061127\t1\t0\tRules\n1106406\t1\t1\tNeural\n"
    data = files.read(write(tmp_path / "cora", cora__cites="31336\t1061127\n1106406\t31336\n", cora__content=content))
    assert dense(data.graphs[0]).tolist() == [[0, 1], [1, 0], [1, 1]]
    assert data.nodes.tolist() == [0, 1, 0] and list(data.classes) == ["Neural", "Rules"]
    assert links(data) == both(("31336", "1061127"), ("1106406", "31336"))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"edges__csv": "a,b\n", "features__csv": "1\n2\n"}, r"by words \(a\).*no column of ids"),
        ({"edges__csv": "a,b\n", "nodes__csv": "id,f\na,1\na,2\n"}, "lists the id a 2 times"),
        ({"edges__csv": "a,b\nb,\n"}, "line 2: an edge needs the ids of two nodes"),
        ({"edges__csv": "a,b\n", "x_edges__csv": "c,d\n", "y_links__csv": ""}, None),
        ({"p_edges__csv": "a,b\n", "q_edges__csv": "c,d\n"}, r"several tables.*p_edges\.csv, q_edges\.csv"),
        ({"edges__csv": "99999999999999999999,1\n", "features__csv": "1\n2\n"}, "nodes are 0 to 1"),
    ],
)
def test_faults_are_named(tmp_path, texts, message):
    root = write(tmp_path / "g", **texts)
    if message is None:  # the plain name goes before those that end in it
        assert links(files.read(root)) == both(("a", "b"))
        return
    with pytest.raises(UserError, match=message):
        files.read(root)


def test_lists_of_files_are_no_edges(tmp_path):
    for number in range(3):
        torch.save({"x": torch.ones(2, 1), "edge_index": torch.tensor([[0], [1]])}, tmp_path / f"g{number}.pt")
    (tmp_path / "list.txt").write_text("g0.pt 0\ng1.pt 1\n")
    (tmp_path / "list.csv").write_text("file,label\ng0.pt,0\ng1.pt,1\n")
    assert files.find_form(tmp_path / "list.txt") is None and files.find_form(tmp_path / "list.csv") is None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"edges__csv": "0,1\n", "nodes__csv": ""}, r"nodes\.csv lists no node"),
        ({"edges__csv": "0,1\n", "nodes__csv": "id,f,label\n"}, r"nodes\.csv lists no node"),
        ({"edges__csv": "<!DOCTYPE html>\n<html> <body>404\n"}, "a web page or XML, not a table"),
        ({"edges__csv": "source,target\na,b\n", "nodes__csv": "<html>\n<body> </body>\n"}, "a web page or XML"),
        ({"g__edgelist": "\n<html>\n<body> </body>\n"}, "a web page or XML"),
        ({"edges__csv": "0,1\n\0\0,\0\n"}, "zero bytes"),
        ({"edges__tsv": "0\t1\n", "labels__csv": "node,class\n0,\0\n"}, "zero bytes"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, texts, message):
    with pytest.raises(UserError, match=message):
        files.read(write(tmp_path / "g", **texts))


def test_a_table_without_edges_is_noted(tmp_path):
    data = files.read(write(tmp_path / "g", edges__csv="", nodes__csv="id,f\na,1\nb,2\n"))
    assert data.graphs[0].counts == (2,) and "edges.csv lists no edge." in data.provenance.notes


def test_a_damaged_gzip_is_refused(tmp_path):
    root = write(tmp_path / "g")
    content = gzip.compress(b"0,1\n" * 1000)
    (tmp_path / "g" / "edges.csv.gz").write_bytes(content[:20] + bytes(10) + content[30:])
    with pytest.raises(UserError, match="cannot be read"):
        files.read(root)
