"""Real graphs as their READMEs count them."""

import pytest
import torch

from modalities.graph.formats import files

PLANETOID = {"Cora": (2708, 1433, 10556, 140), "CiteSeer": (3327, 3703, 9104, 120)}
TU = {
    "MUTAG": (188, 3371, 7442, 7), "PROTEINS": (1113, 43471, 162088, 3), "NCI1": (4110, 122747, 265506, 37),
    "IMDB-BINARY": (1000, 19773, 193062, 136), "IMDB-MULTI": (1500, 19502, 197806, 89),
}  # fmt: skip
AMAZON = {"Photo": (7650, 745, 238162), "Computers": (13752, 767, 491722)}


def links(graph) -> int:
    """Directed edges without self-loops."""
    return graph.edge_index.shape[1] - len(graph.x)


@pytest.mark.parametrize("name", PLANETOID)
def test_planetoid(data_dir, name):
    found = files.read(str(data_dir / "planetoid" / name))
    (graph,), (nodes, features, edges, train) = found.graphs, PLANETOID[name]
    assert (len(graph.x), graph.features, links(graph)) == (nodes, features, edges) and graph.is_sparse
    assert [int(flag.sum()) for flag in found.splits.values()] == [train, 500, 1000]
    total = graph.x[:, 0].sum(1)
    assert torch.allclose(total[total > 0], torch.ones(())) and int((total == 0).sum()) == (
        15 if name == "CiteSeer" else 0
    )


@pytest.mark.parametrize("name", TU)
def test_tu(data_dir, name):
    found = files.read(str(data_dir / "tu" / f"{name}.zip"))
    count, nodes, edges, features = TU[name]
    assert len(found.graphs) == len(found.labels) == count and len(found.folds) == 10
    assert sum(len(graph.x) for graph in found.graphs) == nodes and found.graphs[0].features == features
    assert sum(links(graph) for graph in found.graphs) == edges


@pytest.mark.parametrize("name", AMAZON)
def test_amazon(data_dir, name):
    found = files.read(str(data_dir / "attributed_graphs" / name))
    assert (len(found.graphs[0].x), found.graphs[0].features, links(found.graphs[0])) == AMAZON[name]
    assert len(found.nodes) == AMAZON[name][0] and not found.splits
