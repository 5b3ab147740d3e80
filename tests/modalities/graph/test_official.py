"""Options of the official graph models: each loads and computes the official formula, or is refused by name.

The formulas are written down here a second time, in double precision over a dense matrix of edges.
"""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from core.export import export_official, load_encoder
from core.interop import find_official, load_official
from core.tokens import Batch
from modalities.graph.graphs import Graphs
from tests.modalities.graph.checkpoints import FEATURES, NODES, WIDTH, Model, layer_name, official_state, relative

ACTIVATIONS = {
    "relu": F.relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "selu": F.selu,
    "silu": F.silu,
    None: lambda x: x,
}


# The official formulas -----------------------------------------------------------------------------------------------


@dataclass
class Formula:
    """The official forward over a dense matrix: `edges` (N, N), how many edges go from column to row."""

    model: Model
    state: dict[str, Tensor]
    edges: Tensor
    training: bool
    encoder_edges: Tensor | None = None  # where they differ

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        state = self.state
        if f"{name}.weight" not in state:
            return x
        if self.model.norm == "layernorm":
            mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
        elif self.training:
            mean, variance = x.mean(0), x.var(0, correction=0)
        else:
            mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def activate(self, name: str, x: Tensor) -> Tensor:
        if self.model.activation == "prelu":
            return torch.where(x > 0, x, self.state[f"{name}.weight"] * x)
        return ACTIVATIONS[self.model.activation](x)

    def attend(self, logits: Tensor, f: Tensor) -> Tensor:
        """logits (to, from, K), f (N, K, D) -> (N, K · D)."""
        weight = (logits + self.edges.log()[:, :, None]).softmax(1)
        return torch.einsum("tsk,skd->tkd", weight, f).flatten(1)

    def aggregate(self, kind: str, name: str, x: Tensor, heads: int) -> Tensor:
        state, edges = self.state, self.edges
        if kind == "gcn":
            sent = edges.sum(0) ** -0.5
            received = edges.sum(1) ** -0.5
            return self.linear(f"{name}.fc", edges @ (x * sent[:, None])) * received[:, None]

        f = F.linear(x, state[f"{name}.fc.weight"]).unflatten(1, (heads, -1))
        if kind == "dotgat":
            return self.attend(torch.einsum("tkd,skd->tsk", f, f) / f.shape[2] ** 0.5, f)
        sender, receiver = (f * state[f"{name}.attn_l"]).sum(2), (f * state[f"{name}.attn_r"]).sum(2)
        logits = F.leaky_relu(receiver[:, None] + sender[None], self.model.slope)
        return self.attend(logits, f) + state[f"{name}.bias"]

    def gin(self, name: str, x: Tensor) -> Tensor:
        function = f"{name}.apply_func"
        is_bare = f"{function}.linears.0.weight" in self.state
        mlp = function if is_bare else f"{function}.mlp"
        x = self.linear(f"{mlp}.linears.0", x + self.edges @ x)
        x = self.activate(f"{mlp}.activations.0", self.norm(f"{mlp}.norms.0", x))
        x = self.linear(f"{mlp}.linears.1", x)
        return x if is_bare else self.activate(f"{function}.act", self.norm(f"{function}.norm", x))

    def layer(self, kind: str, part: str, index: int, x: Tensor, is_last: bool) -> Tensor:
        model, name = self.model, layer_name(kind, part, index)
        is_plain = is_last and part == "decoder"
        if kind == "gin":
            out = self.gin(name, x)
            return out + self.skip(name, x, out) if model.residual and not is_plain else out

        out = self.aggregate(kind, name, x, 1 if is_plain else model.heads)
        if is_plain:
            return out
        if model.residual:
            out = out + self.skip(name, x, out)
        out = self.norm(f"{name}.norm", out)
        if kind != "gcn" and part == "encoder" and model.depth == 1:
            return out
        return self.activate(f"{name}.{'_' if kind == 'gcn' else ''}activation", out)

    def skip(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        if x.shape != out.shape:
            return F.linear(x, self.state[f"{name}.res_fc.weight"])
        return torch.zeros_like(x) if self.model.is_second else x

    def encode(self, x: Tensor, part: str = "encoder") -> list[Tensor]:
        outs = [x]
        for index in range(self.model.depth):
            outs.append(self.named(part, index, outs[-1]))
        return outs[1:]

    def named(self, part: str, index: int, x: Tensor) -> Tensor:
        """A layer of the encoder, or of its average."""
        if part == "encoder":
            return self.layer(self.model.encoder, part, index, x, index == self.model.depth - 1)
        own = {f"encoder.{name.partition('.')[2]}": t for name, t in self.state.items() if name.startswith(f"{part}.")}
        return replace(self, state=own).named("encoder", index, x)

    def decode(self, codes: Tensor) -> Tensor:
        model = self.model
        if model.decoder == "linear":
            return self.linear("decoder", codes)
        if model.decoder == "mlp":
            x = self.linear("decoder.0", codes)
            return self.linear("decoder.3", torch.where(x > 0, x, self.state["decoder.1.weight"] * x))
        for index in range(model.decoder_depth):
            codes = self.layer(model.decoder, "decoder", index, codes, index == model.decoder_depth - 1)
        return codes

    def error(self, prediction: Tensor, x: Tensor, power: int = 2) -> Tensor:
        if self.model.loss == "mse" and power == 2:
            return F.mse_loss(prediction, x)
        return (1 - F.cosine_similarity(prediction, x, dim=1, eps=1e-12)).pow(power).mean()

    def masked(self, x: Tensor, hidden: Tensor) -> Tensor:
        rows = torch.zeros(len(x), 1, dtype=torch.bool).index_fill(0, hidden, True)
        return torch.where(rows, self.state["enc_mask_token"], x)

    def graphmae(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Last layer's output and loss."""
        inside = self if self.encoder_edges is None else replace(self, edges=self.encoder_edges)
        outs = inside.encode(self.masked(x, hidden))
        codes = self.linear("encoder_to_decoder", torch.cat(outs, 1) if self.model.concat else outs[-1])
        if self.model.decoder not in ("mlp", "linear"):
            codes = codes.index_fill(0, hidden, 0.0)
        return outs[-1], self.error(self.decode(codes)[hidden], x[hidden])

    def graphmae2(self, x: Tensor, hidden: Tensor, erased: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.encode(self.masked(x, hidden))[-1]
        codes = self.linear("encoder_to_decoder", latent)
        if self.model.remask == "fixed":
            loss = self.error(self.decode(codes.index_fill(0, hidden, 0.0))[hidden], x[hidden])
        else:
            loss = torch.zeros((), dtype=torch.float64)
            for rows in erased:
                flag = torch.zeros(len(x), 1, dtype=torch.bool).index_fill(0, rows, True)
                decoded = self.decode(torch.where(flag, self.state["dec_mask_token"], codes))
                loss = loss + self.error(decoded[hidden], x[hidden])

        with torch.no_grad():
            target = self.project("projector_ema", self.encode(x, "encoder_ema")[-1][targets])
        projected = self.project("projector", latent[targets])
        slope = self.state["predictor.0.weight"]
        predicted = self.linear("predictor.1", torch.where(projected > 0, projected, slope * projected))
        return latent, loss + 0.7 * self.error(predicted, target, power=1)

    def project(self, name: str, x: Tensor) -> Tensor:
        x = self.linear(f"{name}.0", x)
        return self.linear(f"{name}.2", torch.where(x > 0, x, self.state[f"{name}.1.weight"] * x))


# Comparison ----------------------------------------------------------------------------------------------------------


def random_graph(features: int) -> Graphs:
    drawn = torch.Generator().manual_seed(2)
    x = torch.randn(NODES, features, generator=drawn)
    return Graphs.of(x, torch.randint(NODES, (2, 30), generator=drawn))


def dense(edge_index: Tensor) -> Tensor:
    edges = torch.zeros(NODES, NODES, dtype=torch.float64)
    return edges.index_put((edge_index[1], edge_index[0]), torch.ones(1).double(), accumulate=True)


def assert_official(model: Model, meta: dict | None = None) -> None:
    """Latent, loss and every gradient of the loaded method are those of the formula."""
    name, state, graphs = (
        "graphmae2" if model.is_second else "graphmae",
        official_state(model),
        random_graph(model.features),
    )
    method = load_official(name, state, model.meta if meta is None else meta)
    method.train(model.decoder != "mlp")  # its dropout is always active in training
    draws = {"nodes": torch.randperm(NODES, generator=torch.Generator().manual_seed(3))}
    targets = torch.tensor([1, 4, 9])
    if model.drop_edges:
        draws["edges"] = torch.arange(graphs.edge_index.shape[1]) % 3 > 0
    if model.is_second:
        draws["remask"] = torch.stack([torch.roll(torch.arange(NODES), 3 * i) for i in range(2)])
        graphs = graphs.rooted(targets)
    out = method(Batch({"graph": graphs}), draws={"graph": draws})
    out.loss.backward()

    trained = {key: t.double().requires_grad_() if t.is_floating_point() else t for key, t in state.items()}
    formula = Formula(model, trained, dense(graphs.edge_index), method.training)
    if model.drop_edges:
        # Edges that stay, self-loops among them, and a fresh loop on every node.
        formula.encoder_edges = dense(graphs.edge_index[:, draws["edges"]]) + torch.eye(NODES)
    hidden, x = draws["nodes"][: NODES // 2], graphs.x.double()
    if model.is_second:
        latent, loss = formula.graphmae2(x, hidden, draws["remask"][:, : int(NODES * 0.4)], targets)
    else:
        latent, loss = formula.graphmae(x, hidden)
    loss.backward()

    assert relative(out.latents["graph"].features[0], latent) < 1e-5
    assert relative(out.loss, loss) < 1e-5
    recorded = {key: t.grad for key, t in trained.items() if t.is_leaf and t.grad is not None}
    gradients = {key: p.grad for key, p in method.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in recorded.values())
    for key, gradient in find_official(name).keys(recorded).items():
        assert float((gradients[key] - gradient).abs().max()) < 3e-5 * largest, key


ENCODERS = ["gat", "dotgat", "gcn", "gin"]


@pytest.mark.parametrize("decoder", [*ENCODERS, "mlp", "linear"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_encoder_goes_with_any_decoder(encoder, decoder):
    assert_official(Model(encoder=encoder, decoder=decoder))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("norm", ["layernorm", "batchnorm", "unknown"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_norms_and_depths(encoder, norm, depth):
    assert_official(Model(encoder=encoder, decoder="gin", norm=norm, depth=depth))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_activations(encoder, activation):
    assert_official(Model(encoder=encoder, decoder="gin", activation=activation))


@pytest.mark.parametrize("features", [FEATURES, WIDTH])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_residuals(encoder, features):
    assert_official(Model(encoder=encoder, residual=True, features=features, norm="layernorm", depth=3))


@pytest.mark.parametrize("decoder", [*ENCODERS, "mlp", "linear"])
@pytest.mark.parametrize("encoder", ENCODERS[::3])
def test_decoders_read_all_layers_and_the_latent_is_the_last(encoder, decoder):
    model = Model(encoder=encoder, decoder=decoder, concat=True, depth=3)
    assert_official(model, model.meta | {"concat_hidden": True})


@pytest.mark.parametrize("encoder", ["gat", "dotgat"])
def test_heads_and_squared_error(encoder):
    assert_official(Model(encoder=encoder, heads=4, loss="mse"))


@pytest.mark.parametrize("norm", [None, "layernorm", "batchnorm"])
@pytest.mark.parametrize("remask", ["random", "fixed"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_graphmae2_of_several_decoder_layers(depth, remask, norm):
    assert_official(Model(is_second=True, decoder_depth=depth, remask=remask, norm=norm, residual=True))


def test_graphmae2_of_wider_decoder_layers():
    """As decoder_type="tsgat" has them: as many heads of the whole width, with a linear residual."""
    assert_official(Model(is_second=True, decoder_depth=3, decoder_width=2 * WIDTH, residual=True))


@pytest.mark.parametrize("activation", ["elu", "silu", None])
def test_graphmae2_activations(activation):
    assert_official(Model(is_second=True, decoder_depth=2, activation=activation))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_dropped_edges(encoder):
    assert_official(Model(encoder=encoder, drop_edges=0.4))


# What tensors do not show, and what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message", "option"),
    [
        (Model(activation="elu"), "activation='relu' is assumed", "activation"),
        (Model(encoder="dotgat"), "nhead=4 is assumed", "nhead"),
        (Model(features=WIDTH), "residual=False is assumed", "residual"),
        (Model(concat=True), "last layer's output alone, of width 8", "concat_hidden"),
    ],
)
def test_options_that_tensors_do_not_show_are_named(model, message, option):
    state, meta = official_state(model), model.meta | {"concat_hidden": model.concat}
    load_official("graphmae", state, meta)  # without a warning
    del meta[option]
    with pytest.warns(UserWarning, match=message):
        load_official("graphmae", state, meta)


def test_no_warning_where_nothing_is_invisible():
    for model in (Model(), Model(depth=1, activation="relu"), Model(is_second=True, features=WIDTH, residual=True)):
        load_official("graphmae2" if model.is_second else "graphmae", official_state(model))


@torch.no_grad()
def test_an_encoder_gives_its_last_layer_although_the_decoder_reads_all(tmp_path):
    """As the official `embed`, which is what gets probed."""
    model = Model(concat=True, depth=3, slope=0.2)
    state, graphs = official_state(model), random_graph(FEATURES)
    with pytest.warns(UserWarning, match="concat_hidden"):
        encoder = export_official("graphmae", state, tmp_path)
    exact = {key: t.double() for key, t in state.items()}
    formula = Formula(model, exact, dense(graphs.edge_index), training=False)
    assert encoder.embed_dim == WIDTH
    assert relative(load_encoder(tmp_path)(graphs).tokens[0], formula.encode(graphs.x.double())[-1]) < 1e-5


def renamed(state: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {key.replace(old, new): t for key, t in state.items()}


def without(state: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {key: t for key, t in state.items() if not key.startswith(parts)}


GAT, SECOND = official_state(Model()), official_state(Model(is_second=True))
PLAIN = official_state(Model(encoder="gcn", activation=None))
TWO_HEADS = {"decoder.gat_layers.0.fc.weight": torch.zeros(2 * FEATURES, WIDTH)}
MLP = {"0.weight": torch.zeros(WIDTH, FEATURES), "3.weight": torch.zeros(WIDTH, WIDTH)}
ENCODER_MLP = without(GAT, "encoder.") | {f"encoder.{key}": t for key, t in MLP.items()}


@pytest.mark.parametrize(
    ("name", "state", "meta", "message"),
    [
        ("graphmae", ENCODER_MLP, {}, "encoder_type='mlp'"),
        ("graphmae", without(GAT, "encoder.") | {"encoder.weight": torch.zeros(8, 6)}, {}, "encoder_type='linear'"),
        ("graphmae", without(GAT, "decoder."), {}, "decoder is of no official type"),
        ("graphmae", without(GAT, "encoder."), {}, "encoder is of no official type"),
        ("graphmae", without(GAT, "encoder_to_decoder"), {}, "no tensor 'encoder_to_decoder.weight'"),
        ("graphmae", without(GAT, "enc_mask_token"), {}, "no tensor 'enc_mask_token'"),
        ("graphmae", GAT | TWO_HEADS, {}, "nhead_out=2"),
        ("graphmae", GAT, {"norm": "graphnorm"}, "norm='graphnorm'"),
        ("graphmae", GAT | {"encoder.gat_layers.0.norm.mean_scale": torch.ones(8)}, {}, "norm='graphnorm'"),
        ("graphmae", PLAIN, {"activation": "tanh"}, "activation='tanh'"),
        ("graphmae", PLAIN, {"activation": "prelu"}, "no weight of a PReLU"),
        ("graphmae", GAT, {"loss_fn": "byol"}, "loss_fn='byol'"),
        ("graphmae", GAT | {"encoder.head.weight": torch.zeros(3, 8)}, {}, "encoder.head.weight"),
        ("graphmae", SECOND, {}, "dec_mask_token"),
        ("graphmae2", official_state(Model(encoder="gcn")), {}, "encoder_type='gcn'"),
        ("graphmae2", official_state(Model(decoder="mlp")), {}, "decoder_type='mlp'"),
        ("graphmae2", official_state(Model(decoder="linear")), {}, "decoder_type='linear'"),
        ("graphmae2", SECOND, {"remask_method": "half"}, "remask_method='half'"),
        ("graphmae2", SECOND, {"loss_fn": "byol"}, "loss_fn='byol'"),
        ("graphmae2", GAT, {}, "missing"),
    ],
)
def test_refusals_name_the_option(name, state, meta, message):
    with pytest.raises(UserError, match=message):
        load_official(name, state, meta)


@pytest.mark.parametrize(
    ("encoder", "old", "new"),
    [
        ("gat", "gat_layers.0.fc.weight", "gat_layers.0.lin_src.weight"),
        ("gin", "apply_func", "nn"),
    ],
)
def test_the_other_branch_of_the_official_code_is_refused(encoder, old, new):
    state = renamed(renamed(official_state(Model(encoder=encoder)), old, new), "attn_l", "att_src")
    with pytest.raises(UserError, match="branch 'pyg'"):
        load_official("graphmae", state)
