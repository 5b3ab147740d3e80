"""Data sets of the Open Graph Benchmark, as their csv files lie on the disk."""

import gzip

import numpy as np
import pytest

from core.errors import UserError
from modalities.graph.formats import files
from modalities.graph.reader import GraphSource
from tests.modalities.graph.formats.read import dense


@pytest.fixture(autouse=True)
def no_cache():
    files.read.cache_clear()


def write(folder, **texts):
    """Tables by name, "-" written as "_", in `raw`; "split_train" in split/time."""
    (folder / "raw").mkdir(parents=True)
    (folder / "split" / "time").mkdir(parents=True)
    for name, text in texts.items():
        place = folder / "raw"
        if name.startswith("split_"):
            place, name = folder / "split" / "time", name.removeprefix("split_")
        (place / f"{name.replace('_', '-')}.csv.gz").write_bytes(gzip.compress(text.encode()))
    return str(folder)


def test_one_graph_with_labels_of_nodes(tmp_path):
    root = write(
        tmp_path / "arxiv", edge="0,1\n2,1\n", num_node_list="3\n", num_edge_list="2\n", node_feat="1,2\n3,4\n5,6\n",
        node_label="1\n0\n1\n", split_train="0\n", split_valid="1\n", split_test="2\n",
    )  # fmt: skip
    data = files.read(root)
    assert dense(data.graphs[0]).tolist() == [[1, 2], [3, 4], [5, 6]] and data.nodes.tolist() == [1, 0, 1]
    assert data.graphs[0].edge_index.shape[1] == 2 * 2 + 3 and data.splits["test"].tolist() == [False, False, True]
    assert files.read(root, directed=True).graphs[0].edge_index.shape[1] == 2 + 3
    assert data.provenance.split == "split/time"


def test_many_graphs_with_answers_and_a_split_of_graphs(tmp_path):
    root = write(
        tmp_path / "mol", edge="0,1\n1,0\n0,1\n", num_node_list="2\n3\n1\n", num_edge_list="2\n1\n0\n",
        node_feat="1\n2\n3\n4\n5\n6\n", graph_label="1,\n0,1\n0,0\n", split_train="0\n1\n", split_valid="",
        split_test="2\n",
    )  # fmt: skip
    data = files.read(root)
    assert [graph.counts for graph in data.graphs] == [(2,), (3,), (1,)]
    assert data.labels.tolist() == [[1, 0], [-1, 1], [-1, -1]]
    source = GraphSource(root)
    assert [len(source.items(split)) for split in ("train", "test")] == [2, 1]
    assert source.account().split_by == "split/time"


def test_missing_and_damaged_tables_are_named(tmp_path):
    with pytest.raises(UserError, match=r"lacks num-edge-list\.csv\.gz"):
        files.read(write(tmp_path / "a", num_node_list="2\n", edge="0,1\n"))
    with pytest.raises(UserError, match="edge has 1 lines, num-edge-list counts 2"):
        files.read(write(tmp_path / "b", num_node_list="2\n", edge="0,1\n", num_edge_list="2\n"))
    with pytest.raises(UserError, match="is not a table of numbers"):
        files.read(write(tmp_path / "c", num_node_list="2\n", edge="0,x\n", num_edge_list="1\n"))


def test_tables_that_are_not_read_are_counted(tmp_path):
    root = write(
        tmp_path / "arxiv", edge="0,1\n", num_node_list="2\n", num_edge_list="1\n", node_feat="1\n2\n",
        node_year="1\n2\n", edge_feat="1\n", split_train="0\n", split_valid="", split_test="1\n",
    )  # fmt: skip
    (tmp_path / "arxiv" / "RELEASE_v1.txt").write_text("")
    faults = files.read(root).provenance.passed_over
    names = sorted(name for fault in faults for name in fault.examples)
    assert names == ["RELEASE_v1.txt", "raw/edge-feat.csv.gz", "raw/node-year.csv.gz"]


@pytest.mark.parametrize("start", [20, 200, 1000])
def test_a_damaged_gzip_is_refused(tmp_path, start):
    pairs = np.random.default_rng(0).integers(0, 7, (2000, 2))
    edges = "".join(f"{source},{target}\n" for source, target in pairs)
    root = write(tmp_path / "mol", edge=edges, num_node_list="7\n", num_edge_list="2000\n", node_feat="1\n" * 7)
    path = tmp_path / "mol" / "raw" / "edge.csv.gz"
    content = path.read_bytes()
    path.write_bytes(content[:start] + bytes(10) + content[start + 10 :])
    with pytest.raises(UserError, match=r"edge\.csv\.gz is not a table of numbers"):
        files.read(root)
