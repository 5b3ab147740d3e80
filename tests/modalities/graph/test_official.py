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
from modalities.graph.nn.molecules import SELF_LOOP

NODES, FEATURES, WIDTH = 14, 6, 8
ACTIVATIONS = {
    "relu": F.relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "selu": F.selu,
    "silu": F.silu,
    None: lambda x: x,
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """An official constructor's arguments."""

    encoder: str = "gat"
    decoder: str = "gat"
    features: int = FEATURES
    depth: int = 2
    heads: int = 2
    norm: str | None = None
    activation: str | None = "prelu"
    residual: bool = False
    concat: bool = False
    loss: str = "sce"
    drop_edges: float = 0.0
    slope: float = 0.3
    # GraphMAE2 alone
    is_second: bool = False
    decoder_depth: int = 1
    decoder_width: int = WIDTH
    remask: str = "random"

    @property
    def meta(self) -> dict:
        return {
            "mask_rate": 0.5, "remask_rate": 0.4, "num_remasking": 2, "remask_method": self.remask, "lam": 0.7,
            "replace_rate": 0.0, "feat_drop": 0.0, "attn_drop": 0.0, "negative_slope": self.slope, "alpha_l": 2,
            "nhead": self.heads, "loss_fn": self.loss, "residual": self.residual, "activation": self.activation,
            "drop_edge_rate": self.drop_edges,
        }  # fmt: skip


# Random tensors under the official names -----------------------------------------------------------------------------


def official_state(model: Model) -> dict[str, Tensor]:
    shapes = {"enc_mask_token": (1, model.features)}
    inputs = WIDTH * (model.depth if model.concat else 1)
    shapes["encoder_to_decoder.weight"] = (WIDTH, inputs)

    for index in range(model.depth):
        size = model.features if index == 0 else WIDTH
        is_last = index == model.depth - 1
        shapes |= layer_shapes(model, model.encoder, "encoder", index, size, WIDTH, is_last, encoding=True)

    for index in range(model.decoder_depth):
        is_last = index == model.decoder_depth - 1
        size = WIDTH if index == 0 else model.decoder_width
        out = model.features if is_last else model.decoder_width
        shapes |= layer_shapes(model, model.decoder, "decoder", index, size, out, is_last, encoding=False)

    if model.is_second:
        shapes["dec_mask_token"] = (1, WIDTH)
        shapes |= {name.replace("encoder.", "encoder_ema."): s for name, s in shapes.items() if "encoder." in name}
        for name in ("projector", "projector_ema"):
            shapes |= linear_shapes(f"{name}.0", WIDTH, 256) | linear_shapes(f"{name}.2", 256, WIDTH)
            shapes[f"{name}.1.weight"] = (1,)
        shapes |= {"predictor.0.weight": (1,)} | linear_shapes("predictor.1", WIDTH, WIDTH)
    return random_state(shapes)


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    state = {name: 0.5 * torch.randn(shape, generator=drawn) for name, shape in shapes.items()}
    for name in state:
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
        if name.endswith(".eps"):
            state[name] = torch.zeros(1)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(3)
    return state


def linear_shapes(name: str, size: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, size), f"{name}.bias": (out,)}


def norm_shapes(model: Model, name: str, width: int) -> dict[str, tuple[int, ...]]:
    if model.norm not in ("layernorm", "batchnorm"):
        return {}
    shapes = {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    if model.norm == "batchnorm":
        shapes |= {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def layer_shapes(
    model: Model, kind: str, part: str, index: int, size: int, out: int, is_last: bool, encoding: bool
) -> dict[str, tuple[int, ...]]:
    if kind == "linear":
        return linear_shapes(part, size, out)
    if kind == "mlp":
        return (
            linear_shapes(f"{part}.0", size, WIDTH)
            | {f"{part}.1.weight": (1,)}
            | linear_shapes(f"{part}.3", WIDTH, out)
        )

    name = layer_name(kind, part, index)
    is_plain = is_last and not encoding  # no norm, activation, residual
    has_slope = model.activation == "prelu" and not is_plain
    shapes: dict[str, tuple[int, ...]] = {}
    if kind == "gin":
        is_bare = is_plain or (is_last and model.norm is None)
        mlp = f"{name}.apply_func" if is_bare else f"{name}.apply_func.mlp"
        shapes |= {f"{name}.eps": (1,)}
        shapes |= linear_shapes(f"{mlp}.linears.0", size, WIDTH) | linear_shapes(f"{mlp}.linears.1", WIDTH, out)
        shapes |= norm_shapes(model, f"{mlp}.norms.0", WIDTH)
        shapes |= {f"{mlp}.activations.0.weight": (1,)} if model.activation == "prelu" else {}
        if not is_bare:
            shapes |= norm_shapes(model, f"{name}.apply_func.norm", out)
            shapes |= {f"{name}.apply_func.act.weight": (1,)} if has_slope else {}
    else:
        shapes |= linear_shapes(f"{name}.fc", size, out)
        if kind != "gcn":
            del shapes[f"{name}.fc.bias"]
        if kind == "gat":
            heads = 1 if is_plain else model.heads
            shapes |= {f"{name}.attn_{end}": (1, heads, out // heads) for end in "lr"} | {f"{name}.bias": (out,)}
        if not is_plain:
            shapes |= norm_shapes(model, f"{name}.norm", out)
        # By a slip, an attention encoder of one layer gets no activation.
        if has_slope and (kind == "gcn" or model.depth > 1):
            shapes[f"{name}.{'_' if kind == 'gcn' else ''}activation.weight"] = (1,)
    if model.residual and not is_plain and size != out:
        shapes[f"{name}.res_fc.weight"] = (out, size)
    return shapes


def layer_name(kind: str, part: str, index: int) -> str:
    stacks = {"gat": "gat_layers", "dotgat": "gat_layers", "gcn": "gcn_layers", "gin": "layers"}
    return f"{part}.{stacks[kind]}.{index}"


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


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach() - theirs.detach()).abs().max() / theirs.detach().abs().max())


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


# Molecules -----------------------------------------------------------------------------------------------------------


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


GAT, SECOND, MOLECULES = official_state(Model()), official_state(Model(is_second=True)), molecule_state()
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
        ("graphmae-chem", MOLECULES | {"gnn.gnns.0.att": torch.zeros(1, 2, 16)}, {}, "gnn_type=gat"),
        ("graphmae-chem", MOLECULES | {"gnn.gnns.0.linear.weight": torch.zeros(8, 8)}, {}, "gcn or graphsage"),
        ("graphmae-chem", MOLECULES | {"decoder.conv.linear.weight": torch.zeros(119, 8)}, {}, "gnn_type=gcn"),
        ("graphmae-chem", MOLECULES | {"decoder.dec.weight": torch.zeros(119, 8)}, {}, "gnn_type=linear"),
        ("graphmae-chem", MOLECULES, {"JK": "concat"}, "JK='concat'"),
        ("graphmae-chem", MOLECULES, {"mask_edge": 1}, "mask_edge=1"),
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
