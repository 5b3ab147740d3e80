"""Recipes and what a config may put together: PubMed's shape, large graphs, torch_geometric's modules, refusals."""

import pytest
import torch

from core.config import compose
from core.config.build import build, build_method
from core.errors import UserError
from core.tokens import Batch
from modalities.graph.graphs import Graphs
from modalities.graph.sampling import SampledReader

# Nodes, features, links in both directions.
PUBMED = (19717, 500, 88648)


@pytest.mark.parametrize("width", [64, pytest.param(1024, marks=pytest.mark.slow, id="published")])
def test_pubmeds_recipe_takes_a_graph_of_its_shape(width):
    """A step forth and back: 14788 nodes hidden and answered, a gradient for every parameter."""
    config = compose(["experiment=graphmae_pubmed", "data.root=none"])
    assert config["method"]["encoder"]["width"] == 1024
    assert (config["optim"]["lr"], config["optim"]["weight_decay"], config["epochs"]) == (1e-3, 1e-5, 1000)
    nodes, features, links = PUBMED
    drawn = torch.Generator().manual_seed(0)
    edges = torch.randint(nodes, (2, links // 2), generator=drawn)
    x = torch.rand(nodes, features, generator=drawn) * (torch.rand(nodes, features, generator=drawn) < 0.1)
    method = build_method(compose(["experiment=graphmae_pubmed", "data.root=none", f"method.encoder.width={width}"]))
    batch = Batch({"graph": Graphs.of(x, torch.cat([edges, edges.flip(0)], 1)).compact()})
    out = method(batch, generator=torch.Generator().manual_seed(0))
    out.loss.backward()
    assert out.predictions["features"].shape == (1, int(0.75 * nodes), features)
    assert 0.9 < float(out.loss.detach()) < 1.1  # cosines start near 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters())


@pytest.mark.parametrize(
    ("name", "features", "heads", "attn_drop"),
    [("arxiv", 128, 8, 0.1), ("products", 100, 4, 0.2), ("mag_scholar_f", 128, 8, 0.2), ("papers100m", 128, 4, 0.2)],
)
def test_recipes_of_large_graphs_sample(name, features, heads, attn_drop):
    config = compose([f"experiment=graphmae2_{name}", "data.root=none"])
    reader = build(config["modality"]["reader"])
    assert isinstance(reader, SampledReader) and reader.fanout == (15, 15) and config["batch_size"] == 512
    with torch.device("meta"):
        method = build_method(config)
    layer = method.encoder.layers[0]
    assert (method.tokenizer.features, layer.heads, layer.attn_drop) == (features, heads, attn_drop)
    assert config["optim"]["clip"] == 3.0 and len(method.encoder.layers) == 4


def module(text: str) -> str:
    return f"method.encoder={{_target_: modalities.graph.nn.gnn.PyGEncoder, width: 16, module: {{{text}}}}}"


@pytest.mark.parametrize(
    "text",
    [
        "_target_: torch_geometric.nn.conv.SAGEConv, in_channels: 6, out_channels: 16",
        "_target_: torch_geometric.nn.models.basic_gnn.GCN, in_channels: 6, hidden_channels: 16, num_layers: 2",
    ],
)
def test_a_config_may_name_modules_of_torch_geometric(text):
    method = build_method(compose(["modality=graph", "method=graphmae", module(text)]))
    out = method(Batch({"graph": Graphs.of(torch.rand(9, 6), torch.randint(9, (2, 20)))}))
    out.loss.backward()
    assert all(p.grad is not None for p in method.encoder.module.parameters())


@pytest.mark.parametrize(
    "name", ["torch_geometric.nn.Sequential", "torch_geometric.nn.models.SchNet", "torch_geometric.data.Data"]
)
def test_a_config_may_not_name_the_rest_of_it(name):
    with pytest.raises(UserError, match="may not name"):
        build_method(compose(["modality=graph", "method=graphmae", module(f"_target_: {name}")]))


def test_a_method_for_patches_says_what_graphs_lack():
    with pytest.raises(UserError) as caught:
        build_method(compose(["modality=graph", "method=mae"]))
    said = str(caught.value)
    assert "modality.embed" in said and "which modality=graph does not have" in said
    assert "modality=graph goes with method=graphmae" in said
