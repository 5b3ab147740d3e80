"""GraphMAE of molecules: atoms of each molecule hidden; official checkpoints compute their formula, or are refused.

The formula is written down here a second time, in double precision.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from core.interop import load_official
from core.tokens import Batch
from modalities.graph.graphs import Graphs
from modalities.graph.methods.graphmae_chem import AtomMasker
from modalities.graph.nn.molecules import SELF_LOOP
from tests.modalities.graph.checkpoints import NODES, WIDTH, Model, linear_shapes, norm_shapes, random_state, relative
from tests.modalities.graph.masking import mask, tokens


def test_atoms_of_every_molecule():
    counts = (9, 1, 6)
    found = mask(AtomMasker(0.25), tokens(*counts))
    assert [int(part.sum()) for part in found.hidden[0].split(counts)] == [3, 1, 2]


def molecule_state(depth: int = 3, width: int = WIDTH) -> dict[str, Tensor]:
    def conv(name: str, out: int) -> dict[str, tuple[int, ...]]:
        shapes = linear_shapes(f"{name}.mlp.0", width, 2 * width) | linear_shapes(f"{name}.mlp.2", 2 * width, out)
        return shapes | {f"{name}.edge_embedding1.weight": (6, width), f"{name}.edge_embedding2.weight": (3, width)}

    shapes = {"gnn.x_embedding1.weight": (120, width), "gnn.x_embedding2.weight": (3, width)}
    for index in range(depth):
        shapes |= conv(f"gnn.gnns.{index}", width)
        shapes |= norm_shapes(Model(norm="batchnorm"), f"gnn.batch_norms.{index}", width)
    shapes |= conv("decoder.conv", 119)
    shapes |= {"decoder.dec_token": (1, width), "decoder.enc_to_dec.weight": (width, width)}
    return random_state(shapes | {"decoder.activation.weight": (1,)})


def molecule() -> Graphs:
    drawn = torch.Generator().manual_seed(4)
    atoms = torch.stack([torch.randint(119, (NODES,), generator=drawn), torch.randint(3, (NODES,), generator=drawn)], 1)
    bonds = torch.stack([torch.arange(NODES - 1), torch.arange(1, NODES)])
    kinds = torch.stack([torch.arange(NODES - 1) % 4, torch.arange(NODES - 1) % 3], 1)
    return Graphs.of(atoms, torch.cat([bonds, bonds.flip(0)], 1), None, torch.cat([kinds, kinds]), SELF_LOOP)


def molecule_formula(state: dict[str, Tensor], graphs: Graphs, hidden: Tensor, jump: str) -> tuple[Tensor, Tensor]:
    """Latents and predictions of hidden atoms, in eval mode."""
    source, destination = graphs.edge_index

    def conv(name: str, x: Tensor) -> Tensor:
        first, second = state[f"{name}.edge_embedding1.weight"], state[f"{name}.edge_embedding2.weight"]
        messages = x[source] + first[graphs.edge_attr[:, 0]] + second[graphs.edge_attr[:, 1]]
        summed = torch.zeros_like(x).index_add(0, destination, messages)
        inside = F.linear(summed, state[f"{name}.mlp.0.weight"], state[f"{name}.mlp.0.bias"])
        return F.linear(inside.relu(), state[f"{name}.mlp.2.weight"], state[f"{name}.mlp.2.bias"])

    atoms = graphs.x.index_fill(0, hidden, 0)
    atoms[hidden, 0] = 119
    outs = [state["gnn.x_embedding1.weight"][atoms[:, 0]] + state["gnn.x_embedding2.weight"][atoms[:, 1]]]
    for index in range(3):
        h, norm = conv(f"gnn.gnns.{index}", outs[-1]), f"gnn.batch_norms.{index}"
        h = (h - state[f"{norm}.running_mean"]) / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        h = h * state[f"{norm}.weight"] + state[f"{norm}.bias"]
        outs.append(h if index == 2 else h.relu())

    latent = {"last": outs[-1], "sum": sum(outs), "max": torch.stack(outs).amax(0)}[jump]
    codes = torch.where(latent > 0, latent, state["decoder.activation.weight"] * latent)
    codes = F.linear(codes, state["decoder.enc_to_dec.weight"]).index_fill(0, hidden, 0.0)
    return latent, conv("decoder.conv", codes)[hidden]


@pytest.mark.parametrize("loss", ["sce", "ce"])
@pytest.mark.parametrize("jump", ["last", "sum", "max"])
def test_molecules_join_layers_and_have_two_losses(jump, loss):
    state, graphs, hidden = molecule_state(), molecule(), torch.tensor([2, 5, 6])
    method = load_official("graphmae-chem", state, {"JK": jump, "loss_fn": loss, "alpha_l": 2}).eval()
    out = method(Batch({"graph": graphs}), draws={"graph": hidden})

    exact = {key: t.double() if t.is_floating_point() else t for key, t in state.items()}
    latent, prediction = molecule_formula(exact, graphs, hidden, jump)
    types = graphs.x[hidden, 0]
    cosine = prediction[range(3), types] / prediction.norm(dim=1)
    expected = (1 - cosine).square().mean() if loss == "sce" else F.cross_entropy(prediction, types)
    assert relative(out.latents["graph"].features[0], latent) < 1e-5
    assert relative(out.predictions["atoms"][0], prediction) < 1e-5
    assert relative(out.loss, expected) < 1e-5


MOLECULES = molecule_state()


@pytest.mark.parametrize(
    ("state", "meta", "message"),
    [
        ({"gnn.gnns.0.att": torch.zeros(1, 2, 16)}, {}, "gnn_type=gat"),
        ({"gnn.gnns.0.linear.weight": torch.zeros(8, 8)}, {}, "gcn or graphsage"),
        ({"decoder.conv.linear.weight": torch.zeros(119, 8)}, {}, "gnn_type=gcn"),
        ({"decoder.dec.weight": torch.zeros(119, 8)}, {}, "gnn_type=linear"),
        ({}, {"JK": "concat"}, "JK='concat'"),
        ({}, {"mask_edge": 1}, "mask_edge=1"),
    ],
)
def test_refusals_name_the_option(state, meta, message):
    with pytest.raises(UserError, match=message):
        load_official("graphmae-chem", MOLECULES | state, meta)


def test_node_methods_name_the_reader_of_molecules():
    with pytest.raises(UserError, match="fit official=graphmae-chem"):
        load_official("graphmae", MOLECULES)
