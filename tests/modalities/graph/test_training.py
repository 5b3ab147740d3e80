"""Whole methods on graphs: recipes have the published sizes, fast paths give the same, hard cases stay finite."""

from dataclasses import replace

import pytest
import torch

from core.config import compose
from core.config.build import build_method
from core.engine.optim import Adam
from core.export import SavedEncoder
from core.tokens import Batch, Progress
from modalities.graph.formats.geometric import geometric
from modalities.graph.graphs import Graphs, to_dense
from modalities.graph.nn.decoders import MLPDecoder
from modalities.graph.nn.gnn import GAT, MaskedInput, PyGEncoder
from modalities.graph.tokenizer import Nodes

# Card of THUDM/GraphMAE, measured with its code.
PARAMETERS = {
    "graphmae_cora": 2_000_486, "graphmae_citeseer": 4_334_046, "graphmae_pubmed": 3_129_298,
    "graphmae_arxiv": 3_423_747, "graphmae_ppi": 3_314_891, "graphmae_reddit": 1_985_900, "graphmae_mutag": 12_793,
    "graphmae_imdb_b": 1_457_941, "graphmae_proteins": 1_848_845, "graphmae_nci1": 1_356_367,
    "graphmae_collab": 537_634,
}  # fmt: skip


def small(method: str, *overrides: str):
    torch.manual_seed(0)
    settings = ["modality=graph", f"method={method}", "size=nano", "method.encoder.width=16", *overrides]
    return build_method(compose(settings))


def sparse_graph(nodes: int = 30, features: int = 40) -> Graphs:
    drawn = torch.Generator().manual_seed(0)
    x = torch.rand(nodes, features, generator=drawn) * (torch.rand(nodes, features, generator=drawn) < 0.08)
    edges = torch.randint(nodes, (2, 3 * nodes), generator=drawn)
    return Graphs.of(x, torch.cat([edges, edges.flip(0)], 1)).compact()


@pytest.mark.parametrize("name", PARAMETERS)
def test_recipes_have_the_published_sizes(name):
    with torch.device("meta"):
        method = build_method(compose([f"experiment={name}", "data.root=none"]))
    assert sum(p.numel() for p in method.parameters()) == PARAMETERS[name]


ENCODERS = {
    "graphmae": [], "graphmae_gin": [], "graphmae2": [],
    "gcn": ["method.encoder={_target_: modalities.graph.nn.gnn.GCN, width: 16, depth: 2}"],
    "dotgat": ["method.encoder={_target_: modalities.graph.nn.gnn.DotGAT, width: 16, depth: 2, heads: 4}"],
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_bags_give_what_dense_features_give(name):
    graph, method = sparse_graph(), name if name.startswith("graphmae") else "graphmae"
    assert graph.is_sparse
    found = []
    for one in (graph, replace(graph, x=to_dense(graph.x, graph.features))):
        settings = ["modality.features=40", *ENCODERS[name], "method.encoder.feat_drop=0.0"]
        model = small(method, *settings).eval()
        out = model(Batch({"graph": one}), generator=torch.Generator().manual_seed(0))
        out.loss.backward()
        found.append([out.loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    largest = max(float(g.abs().max()) for g in found[0])
    for bag, dense in zip(*found, strict=True):
        assert torch.allclose(bag, dense, atol=1e-5 * largest, rtol=1e-4)


def test_dropout_on_bags_has_the_right_mean():
    graph, weight = sparse_graph(), torch.rand(3, 40)
    layer, seen = MaskedInput(40), Nodes(40)(graph).unmasked()
    mean = torch.stack([layer.project(seen, weight, 0.5) for _ in range(2000)]).mean(0)
    assert torch.allclose(mean, layer.eval().project(seen, weight, 0.5), atol=0.15)


def test_a_hidden_node_without_visible_neighbours_does_no_harm():
    """Its cosine has a gradient of 1e10 at a zero bias: Adam takes the published step, and all stays finite."""
    method = small("graphmae", "modality.features=4", "method.masker.replace=0.0").train()
    recipe = Adam(lr=1e-3, betas=(0.9, 0.999), warmup_share=0.0, schedule="constant", decay_all=True)
    optimizer = recipe.optimizer(method)
    recipe.set(optimizer, Progress(), 1)
    batch = Batch({"graph": Graphs.of(torch.rand(8, 4), torch.zeros(2, 0, dtype=torch.long))})
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    largest = 0.0
    for seed in range(3):
        out = method(batch, generator=torch.Generator().manual_seed(seed))
        out.loss.backward()
        largest = max(largest, *(float(p.grad.abs().max()) for p in method.parameters() if p.grad is not None))
        optimizer.step()
        optimizer.zero_grad()
        assert torch.isfinite(out.loss)
    assert largest > 1e9
    moved = max(float((p.detach() - before[name]).abs().max()) for name, p in method.named_parameters())
    assert moved < 4 * 3 * 1e-3


def test_one_node_and_empty_graphs_train():
    graphs = Graphs.of(torch.rand(3, 6), torch.zeros(2, 0, dtype=torch.long), (0, 1, 2))
    for method in ("graphmae", "graphmae_gin", "graphmae2"):
        assert torch.isfinite(small(method)(Batch({"graph": graphs})).loss)


def test_graphmae2_without_its_additions_is_graphmae():
    plain = small("graphmae", "modality.features=40", "method.masker.replace=0.0").eval()
    overrides = [
        "modality.features=40", "method.masker.remask=hidden",
        "method.encoder.norm=none", "method.encoder.residual=none",
        "method.readouts.main.decoder.mask_token=idle", "method.readouts.main.objectives.features.queries=[main]",
        "method.readouts.latent.objectives.latent.weight=0.0",
    ]  # fmt: skip
    second = small("graphmae2", *overrides).eval()
    second.load_state_dict(plain.state_dict(), strict=False)
    batch, draw = Batch({"graph": sparse_graph()}), lambda: torch.Generator().manual_seed(0)
    assert torch.allclose(plain(batch, generator=draw()).loss, second(batch, generator=draw()).loss)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_teacher_copies_or_stays(momentum):
    method = small("graphmae2", f"method.teachers.latent.momentum={momentum}")
    copied = method.teachers["latent"].copies["encoder"].layers[0].linear.weight
    start = copied.detach().clone()
    with torch.no_grad():
        method.encoder.layers[0].linear.weight.add_(1.0)
    method.before_step(Progress())
    assert torch.equal(copied, start if momentum else method.encoder.layers[0].linear.weight)
    assert (
        not copied.requires_grad
        and "moving_teachers.latent.copies.encoder.layers.0.linear.weight" in method.state_dict()
    )


def test_decoder_of_each_nodes_own_code():
    overrides = ["method.readouts.main.decoder={_target_: modalities.graph.nn.decoders.MLPDecoder, inner: 16}"]
    method = small("graphmae", "method.masker.remask=none", *overrides)
    assert isinstance(method.readouts["main"].decoder, MLPDecoder)
    assert torch.isfinite(method(Batch({"graph": Graphs.of(torch.rand(9, 6), torch.randint(9, (2, 20)))})).loss)


def test_modules_of_torch_geometric_are_encoders():
    module = geometric().nn.SAGEConv(6, 16)
    method = small("graphmae")
    method.encoder = PyGEncoder(module, features=6, width=16)
    loss = method(Batch({"graph": Graphs.of(torch.rand(9, 6), torch.randint(9, (2, 20)))})).loss
    loss.backward()
    assert module.lin_l.weight.grad is not None


def test_a_saved_encoder_takes_torch_geometric_batches():
    data_classes = geometric().data
    encoder = SavedEncoder(Nodes(4), GAT(4, 8, 2, 2).eval(), {"view": "graph"})
    graphs = [data_classes.Data(x=torch.rand(n, 4), edge_index=torch.randint(n, (2, 5))) for n in (3, 1)]
    found = encoder(data_classes.Batch.from_data_list(graphs))
    assert found.pooled.shape == (2, 8) and found.sample.tolist() == [0, 0, 0, 1]
    alone = encoder(graphs[1])
    assert torch.allclose(found.pooled[1], alone.pooled[0], atol=1e-6)
