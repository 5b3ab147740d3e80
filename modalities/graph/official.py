"""Official graph checkpoints: GraphMAE (node level, graph level, molecules) and GraphMAE2 (THUDM).

Options of the official constructors. T: read from the tensors; M: from `meta`, else the official default counts.

| option | read | loaded |
|---|---|---|
| encoder_type | T | gat, dotgat, gcn, gin; mlp and linear are refused (no forward). GraphMAE2: gat, tsgat |
| decoder_type | T | those, mlp, linear. GraphMAE2: gat, tsgat of any num_dec_layers; others refused (no forward) |
| in_dim, num_hidden, num_layers | T | any |
| nhead | T; M for dotgat | any; a warning where it is not visible |
| nhead_out | T | 1; more are refused: predictions would be so many times as wide as features |
| activation | T for prelu, else M | prelu, relu, elu, gelu, selu, silu, None; a warning where not visible |
| norm | T | None, batchnorm, layernorm, any unknown name (identity); graphnorm is refused (cannot be built) |
| residual | T; M where all widths are equal | any; a warning where it is not visible |
| concat_hidden | T | both; the encoder's latent is the last layer's output either way, as `embed` returns it |
| loss_fn | M | sce, mse; others are refused |
| feat_drop, attn_drop, negative_slope, mask_rate, replace_rate, drop_edge_rate, alpha_l | M | any |
| remask_method, remask_rate, num_remasking, lam, momentum, delayed_ema_epoch | M | any |
| mask_method, zero_init | - | not read: the first does nothing, the second concerns the start alone |
| molecules: num_layer, emb_dim | T | any |
| molecules: gnn_type | T | gin; gcn, gat and graphsage are refused (no constructor or forward) |
| molecules: JK | M | last, sum, max; concat is refused: the official decoder does not fit it |
| molecules: drop_ratio, mask_rate, alpha_l, loss_fn | M | any; every loss_fn but sce is cross entropy |
| molecules: mask_edge | M | 0; bonds are refused (no forward) |
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.interop import Official, Rule, State
from core.tokens import Batch
from modalities.graph.graphs import Graphs
from modalities.graph.nn.molecules import SELF_LOOP

Settings = Mapping[str, Any]
DECODER = "readouts.main.decoder"
LATENT = "readouts.latent.objectives.latent.head"
ENCODERS = {"gat": "GAT", "dotgat": "DotGAT", "gcn": "GCN", "gin": "GIN"}
DECODERS = {
    "gat": "GATDecoder",
    "dotgat": "DotGATDecoder",
    "gcn": "GCNDecoder",
    "gin": "GINDecoder",
    "mlp": "MLPDecoder",
    "linear": "LinearDecoder",
}
ACTIVATIONS = ("prelu", "relu", "elu", "gelu", "selu", "silu", "none")
LAYERS = {"gat": "gat_layers", "dotgat": "gat_layers", "gcn": "gcn_layers", "gin": "layers"}

# GraphMAE and GraphMAE2 ---------------------------------------------------------------------------


def _graphmae(state: State, settings: Settings) -> list[str]:
    if "enc_mask_token" not in state:
        return _molecules(state, settings)

    encoder, decoder = _kind(state, "encoder"), _kind(state, "decoder")
    _refuse_unbuildable(state, settings, encoder, decoder)
    method = ["method=graphmae_gin"] if encoder == "gin" else []
    remask = "none" if decoder in ("mlp", "linear") else "hidden"

    return [
        *method,
        *_common(state, settings, encoder, decoder),
        *_override("method.encoder", residual=_residual(state, settings, encoder)),
        *_override(
            "method.masker",
            replace=settings.get("replace_rate", 0.0),
            remask=remask,
        ),
    ]


def _graphmae2(state: State, settings: Settings) -> list[str]:
    encoder, decoder = _kind(state, "encoder"), _kind(state, "decoder")
    if encoder != "gat" or decoder != "gat":
        raise UserError(
            f"encoder_type={encoder!r} with decoder_type={decoder!r} is refused: of its encoders and decoders "
            "the official GraphMAE2 can run the GAT alone."
        )
    _refuse_unbuildable(state, settings, encoder, decoder)
    # Where widths agree its layers have no skip at all: a residual is visible wherever it does anything.
    residual = "unequal" if _has(state, r"(encoder|decoder)\.gat_layers\.\d+\.res_fc\.weight") else "none"

    return [
        *_common(state, settings, encoder, decoder),
        *_override("method.encoder", residual=residual),
        *_override(f"method.{DECODER}", residual=residual),
        *_override("method.masker", replace=0.0),
        *_remask(settings),
        f"method.readouts.latent.objectives.latent.weight={float(settings.get('lam', 1.0))}",
        f"method.teachers.latent.momentum={float(settings.get('momentum', 0.996))}",
        f"method.teachers.latent.delay={float(settings.get('delayed_ema_epoch', 0))}",
    ]


def _remask(settings: Settings) -> list[str]:
    """GraphMAE2's decodings of one latent: several with random nodes erased, or one with the hidden ones."""
    method, queries = settings.get("remask_method", "random"), "method.readouts.main.objectives.features.queries"
    views, ratio = settings.get("num_remasking", 3), settings.get("remask_rate", 0.5)
    if method == "fixed":
        return [
            *_override("method.masker", remask="hidden", decodings=views, remask_ratio=ratio),
            f"method.{DECODER}.mask_token=idle",
            f"{queries}=[main]",
        ]
    if method != "random":
        raise UserError(f"remask_method={method!r} is refused: the official GraphMAE2 has 'random' and 'fixed'.")

    names = ",".join(f"main/{i}" for i in range(views))
    return [
        *_override("method.masker", remask="random", decodings=views, remask_ratio=ratio),
        f"method.{DECODER}.mask_token=learned",
        f"{queries}=[{names}]",
    ]


def _common(state: State, settings: Settings, encoder: str, decoder: str) -> list[str]:
    """Overrides that both methods share; without residual, re-masking and replacement."""
    activation = _activation(state, settings, encoder, decoder)
    return [
        f"modality.features={_tensor(state, 'enc_mask_token').shape[1]}",
        *_override(
            "method.masker",
            ratio=settings.get("mask_rate", 0.5),
            drop_edges=settings.get("drop_edge_rate", 0.0),
        ),
        *_loss(settings),
        *_encoder(state, settings, encoder, activation),
        *_decoder(state, settings, decoder, activation),
    ]


def _encoder(state: State, settings: Settings, kind: str, activation: str) -> list[str]:
    layer = f"encoder.{LAYERS[kind]}.0"
    depth = _depth(state, f"encoder.{LAYERS[kind]}")
    options = {"depth": depth, "feat_drop": settings.get("feat_drop", 0.2), "activation": activation}

    if kind == "gin":
        last = f"encoder.layers.{depth - 1}.apply_func"
        # Without a norm the last layer is its MLP alone.
        is_bare = f"{last}.linears.0.weight" in state
        mlp = last if is_bare else f"{last}.mlp"
        options["width"] = _tensor(state, f"{mlp}.linears.1.weight").shape[0]
        options["norm"] = "none" if is_bare else _norm(state, f"{last}.norm", absent="identity")
    else:
        options["width"] = _tensor(state, f"{layer}.fc.weight").shape[0]
        options["norm"] = _norm(state, f"{layer}.norm")

    if kind in ("gat", "dotgat"):
        options["attn_drop"] = settings.get("attn_drop", 0.1)
        options["heads"] = _heads(state, settings, kind, options["width"])
    if kind == "gat":
        options["slope"] = settings.get("negative_slope", 0.2)
    return _part("method.encoder", f"modalities.graph.nn.gnn.{ENCODERS[kind]}", options)


def _decoder(state: State, settings: Settings, kind: str, activation: str) -> list[str]:
    inner = _tensor(state, "encoder_to_decoder.weight").shape[0]
    options = {"inner": inner, "input_layers": _input_layers(state, settings)}
    if kind in ("gat", "dotgat", "gcn", "gin"):
        options["feat_drop"] = settings.get("feat_drop", 0.2)
    if kind in ("gat", "dotgat"):
        options["attn_drop"] = settings.get("attn_drop", 0.1)
    if kind == "gin":
        options["norm"] = _norm(state, "decoder.layers.0.apply_func.norms.0")
        options["activation"] = activation

    if kind == "gat":
        depth = _depth(state, "decoder.gat_layers")
        options |= {"depth": depth, "slope": settings.get("negative_slope", 0.2)}
        if depth > 1:
            layer = "decoder.gat_layers.0"
            options["hidden"] = _tensor(state, f"{layer}.fc.weight").shape[0]
            options["hidden_heads"] = _tensor(state, f"{layer}.attn_l").shape[1]
            options["norm"] = _norm(state, f"{layer}.norm")
            options["activation"] = activation
    return _part(f"method.{DECODER}", f"modalities.graph.nn.decoders.{DECODERS[kind]}", options)


def _kind(state: State, part: str) -> str:
    """Official type of the encoder or decoder, by the names of its tensors."""
    marks = {
        "gat": rf"{part}\.gat_layers\.0\.attn_l",
        "dotgat": rf"{part}\.gat_layers\.0\.fc\.weight",
        "gcn": rf"{part}\.gcn_layers\.0\.fc\.weight",
        "gin": rf"{part}\.layers\.0\.apply_func\..*",
        "mlp": rf"{part}\.0\.weight",
        "linear": rf"{part}\.weight",
    }
    for kind, pattern in marks.items():
        if _has(state, pattern):
            return kind

    if _has(state, rf"{part}\.(gat_layers\.0\.(lin|att)_src|layers\.0\.nn\.).*"):
        raise UserError(
            f"The checkpoint's {part} comes from the branch 'pyg' of THUDM/GraphMAE, which computes something "
            "else (it decodes over dropped edges, among others); only checkpoints of its branch 'main' are read."
        )
    names = sorted(key for key in state if key.startswith(f"{part}."))
    shown = ", ".join(names[:4]) or f"no tensor starts with '{part}.'"
    raise UserError(f"The checkpoint's {part} is of no official type ({', '.join(DECODERS)}): {shown}.")


def _refuse_unbuildable(state: State, settings: Settings, encoder: str, decoder: str) -> None:
    """Raises UserError for options that the official constructor takes but cannot build or run."""
    if encoder in ("mlp", "linear"):
        raise UserError(
            f"encoder_type={encoder!r} is refused: the official code builds such an encoder but cannot run it "
            "on a graph. Encoders that are read: gat, dotgat, gcn, gin."
        )
    if settings.get("norm") == "graphnorm" or _has(state, r".*norms?(\.\d+)?\.mean_scale"):
        raise UserError(
            "norm='graphnorm' is refused: the official code cannot build it. Norms that are read: layernorm, "
            "batchnorm, None."
        )

    features = _tensor(state, "enc_mask_token").shape[1]
    if decoder in ("gat", "dotgat"):
        last = f"decoder.gat_layers.{_depth(state, 'decoder.gat_layers') - 1}.fc.weight"
        width = _tensor(state, last).shape[0]
        if width > features and width % features == 0:
            raise UserError(
                f"nhead_out={width // features} is refused: predictions of {width} values cannot be compared "
                f"with {features} features, in the official code neither. Decoders that are read have nhead_out=1."
            )


def _input_layers(state: State, settings: Settings) -> int:
    """How many encoder layers the decoder reads (`concat_hidden`): so many times the code's width."""
    inner, width = _tensor(state, "encoder_to_decoder.weight").shape
    layers = width // inner
    if layers > 1 and "concat_hidden" not in settings:
        _warn(
            f"The checkpoint was trained with concat_hidden: its decoder reads the outputs of all {layers} layers "
            f"side by side. The encoder's latent is the last layer's output alone, of width {inner}, as the "
            "official `embed` returns it for probing; the other layers are its taps."
        )
    return layers


def _activation(state: State, settings: Settings, encoder: str, decoder: str) -> str:
    """PReLU has a weight; others leave no trace, and `meta` has to name them."""
    if _has(state, r"(encoder|decoder)\..*\b_?(activation|act|activations\.\d+)\.weight"):
        return "prelu"

    # A single layer of attention has no activation, whichever is named.
    in_encoder = encoder in ("gcn", "gin") or _depth(state, f"encoder.{LAYERS[encoder]}") > 1
    in_decoder = decoder == "gin" or (decoder == "gat" and _depth(state, "decoder.gat_layers") > 1)
    if not in_encoder and not in_decoder:
        return "none"

    if "activation" not in settings:
        reason = "PReLU alone has weights: the tensors do not show which other activation this is."
        _assume("activation", "relu", reason)
        return "relu"
    name = settings["activation"] or "none"
    if name not in ACTIVATIONS:
        raise UserError(f"activation={name!r} is refused. Activations that are read: {', '.join(ACTIVATIONS)}.")
    if name == "prelu":
        raise UserError("activation='prelu' does not fit: the checkpoint has no weight of a PReLU.")
    return name


def _residual(state: State, settings: Settings, encoder: str) -> str:
    """A linear residual has a weight; an identity, where widths agree, leaves no trace."""
    stack = f"encoder.{LAYERS[encoder]}"
    is_linear = _has(state, rf"{re.escape(stack)}\.\d+\.res_fc\.weight")
    width = _tensor(state, "encoder_to_decoder.weight").shape[0]

    is_residual = is_linear
    if _tensor(state, "enc_mask_token").shape[1] == width:
        is_residual = bool(settings.get("residual", False))
        if "residual" not in settings:
            _assume("residual", False, "There are as many features as channels: tensors do not show a residual.")
    if encoder == "gin":
        return str(is_residual).lower()
    return "identity" if is_residual else "none"


def _heads(state: State, settings: Settings, kind: str, width: int) -> int:
    if kind == "gat":
        return _tensor(state, "encoder.gat_layers.0.attn_l").shape[1]
    if "nhead" not in settings:
        if width % 4:
            raise UserError("Attention by dot products has no weights per head: pass meta={'nhead': …}.")
        _assume("nhead", 4, "Attention by dot products has no weights per head.")
    return settings.get("nhead", 4)


def _norm(state: State, name: str, absent: str = "none") -> str:
    if f"{name}.weight" not in state:
        return absent
    return "batch" if f"{name}.running_mean" in state else "layer"


def _loss(settings: Settings) -> list[str]:
    loss, name = "method.readouts.main.objectives.features.loss", settings.get("loss_fn", "sce")
    if name not in ("sce", "mse"):
        raise UserError(f"loss_fn={name!r} is refused: the official code has 'sce' and 'mse'.")
    if name == "mse":
        return [f"{loss}={{_target_: core.losses.mse, _partial_: true}}"]
    return [f"{loss}.gamma={float(settings['alpha_l'])}"] if "alpha_l" in settings else []


# Molecules ----------------------------------------------------------------------------------------


def _molecules(state: State, settings: Settings) -> list[str]:
    prefix = "gnn." if "gnn.x_embedding1.weight" in state else ""
    if f"{prefix}x_embedding1.weight" not in state:
        raise UserError(
            "These are no official GraphMAE tensors: neither enc_mask_token (nodes, graphs) nor "
            "x_embedding1.weight (molecules) is there. Pass the whole model's state_dict."
        )
    _refuse_molecules(state, settings, prefix)

    overrides = [
        "method=graphmae_chem",
        "modality.features=2",
        *_override(
            "method.encoder",
            width=state[f"{prefix}x_embedding1.weight"].shape[1],
            depth=_depth(state, f"{prefix}gnns"),
            drop=settings.get("drop_ratio", 0.0),
            jump=settings.get("JK", "last"),
        ),
        *_override("method.masker", ratio=settings.get("mask_rate", 0.25)),
    ]
    loss = "method.readouts.main.objectives.atoms.loss"
    if settings.get("loss_fn", "sce") != "sce":
        target = "modalities.graph.nn.molecules.type_cross_entropy"
        overrides.append(f"{loss}={{_target_: {target}, _partial_: true}}")
    elif "alpha_l" in settings:
        overrides.append(f"{loss}.gamma={float(settings['alpha_l'])}")
    return overrides


def _refuse_molecules(state: State, settings: Settings, prefix: str) -> None:
    """Raises UserError for options of the official molecule code that it cannot build or run."""
    stack = re.escape(f"{prefix}gnns.0.")
    encoders = {"gat": rf"{stack}(att|weight_linear\.weight)", "gcn or graphsage": rf"{stack}linear\.weight"}
    for name, pattern in encoders.items():
        if _has(state, pattern):
            raise UserError(
                f"gnn_type={name} is refused: the official code cannot run such a molecule encoder. Read is: gin."
            )

    decoders = {"gcn": r"decoder\.conv\.linear\.weight", "linear": r"decoder\.dec\.weight"}
    for name, pattern in decoders.items():
        if _has(state, pattern):
            raise UserError(
                f"A decoder of gnn_type={name} is refused: the official code has no encoder that goes with it. "
                "Read is: gin."
            )

    if settings.get("JK", "last") not in ("last", "sum", "max"):
        raise UserError(
            f"JK={settings['JK']!r} is refused: the official decoder reads latents of the embedding's width. "
            "Read are: last, sum, max."
        )
    if settings.get("mask_edge"):
        raise UserError("mask_edge=1 is refused: the official code cannot run the decoder of hidden bonds.")


# Pieces -------------------------------------------------------------------------------------------


def _part(node: str, target: str, options: Mapping[str, Any]) -> list[str]:
    """Overrides that make `node` an object of the class `target` with these options."""
    return [f"{node}={{_target_: {target}}}", *_override(node, **options)]


def _override(node: str, **options: Any) -> list[str]:
    return [f"{node}.{name}={value}" for name, value in options.items()]


def _has(state: State, pattern: str) -> bool:
    return any(re.fullmatch(pattern, key) for key in state)


def _tensor(state: State, key: str) -> Tensor:
    if key not in state:
        raise UserError(f"The checkpoint has no tensor {key!r}: pass the whole model's state_dict.")
    return state[key]


def _depth(state: State, blocks: str) -> int:
    numbers = [int(m[1]) for key in state if (m := re.match(re.escape(blocks) + r"\.(\d+)\.", key))]
    if not numbers:
        raise UserError(f"The checkpoint has no tensor {blocks}.0.…: pass the whole model's state_dict.")
    return 1 + max(numbers)


def _assume(option: str, value: Any, reason: str) -> None:
    _warn(f"{reason} {option}={value!r} is assumed; if it was another, pass it: meta={{{option!r}: …}}.")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=8)  # that of who calls load_official


# Recorded vectors ---------------------------------------------------------------------------------


def _replay(io: State, settings: Settings) -> tuple[Batch, dict]:
    counts = io["graph_id"].bincount().tolist() if "graph_id" in io else None
    if "masked_atom_indices" in io:
        graphs = Graphs.of(io["x_original"], io["edge_index"], counts, io["edge_attr"], SELF_LOOP)
        return Batch({"graph": graphs}), {"graph": io["masked_atom_indices"]}

    graphs = Graphs.of(io["x"], io["edge_index"], counts)
    draws = {"nodes": io["randperm_0_nodes"]}
    if "randperm_1_masked" in io:
        draws |= {"masked": io["randperm_1_masked"], "noise": io["randperm_2_noise"]}
    if "dropped_edge_index" in io:
        # Its last columns are the fresh self-loops.
        draws["edges"] = _is_among(graphs, io["dropped_edge_index"][:, : -len(io["x"])])
    return Batch({"graph": graphs}), {"graph": draws}


def _replay2(io: State, settings: Settings) -> tuple[Batch, dict]:
    graphs, count = Graphs.of(io["x"], io["edge_index"]), len(io["x"])
    views, draws = {"graph": graphs}, {"nodes": _permutation(io["mask_nodes"], count)}
    if "view1_edge_index" in io:
        draws["edges"] = _is_among(graphs, io["view1_edge_index"])
    if "view2_edge_index" in io:
        views["teacher"] = Graphs.of(io["x"], io["view2_edge_index"])

    names = [f"remask_nodes_{i}" for i in range(settings.get("num_remasking", 0))]
    erased = [_permutation(io[name], count) for name in names if name in io]
    if erased:
        draws["remask"] = torch.stack(erased)

    if "targets" in io:
        views["graph"] = graphs.rooted(io["targets"])
    elif len(io.get("latent_target", io["x"])) < count:
        # A forward without targets predicts the latents of visible nodes.
        visible = draws["nodes"][len(io["mask_nodes"]) :]
        views["graph"] = graphs.rooted(io.get("keep_nodes", visible))
    return Batch(views), {"graph": draws}


def _permutation(start: Tensor, count: int) -> Tensor:
    """A permutation of all nodes that starts with these."""
    rest = torch.ones(count, dtype=torch.bool).index_fill(0, start, False).nonzero()[:, 0]
    return torch.cat([start, rest])


def _is_among(graphs: Graphs, edges: Tensor) -> Tensor:
    """(E,) bool: which edges of the graphs are among `edges`."""
    count = len(graphs.x)
    ours = graphs.edge_index[0] * count + graphs.edge_index[1]
    return torch.isin(ours, edges[0] * count + edges[1])


# Key maps -----------------------------------------------------------------------------------------

_LAYER = (
    ("fc.weight", "linear.weight"),
    ("fc.bias", "bias"),
    ("attn_l", "sender"),
    ("attn_r", "receiver"),
    ("bias", "bias"),
    ("res_fc.weight", "residual.weight"),
    ("_activation.weight", "activation.weight"),
    ("activation.weight", "activation.weight"),
)


def _layer_rules(official: str, ours: str) -> tuple[Rule, ...]:
    """Rules of layers that start with a linear map (GAT, dot-product GAT, GCN); group 1 is the layer's number."""
    return (
        *(Rule(rf"{official}\.{re.escape(name)}", (rf"{ours}.{target}",)) for name, target in _LAYER),
        Rule(rf"{official}\.norm\.(\w+)", (rf"{ours}.norm.\2",)),
    )


_MLP = (
    ("linears.0", "linear1"),
    ("linears.1", "linear2"),
    ("norms.0", "norm"),
    ("activations.0", "activation"),
)
_CONV = (
    ("mlp.0", "linear1"),
    ("mlp.2", "linear2"),
    ("edge_embedding1", "types"),
    ("edge_embedding2", "directions"),
)


def _part_rules(parts: tuple[tuple[str, str], ...], official: str, ours: str) -> tuple[Rule, ...]:
    """Rules of a layer's parts, by their names there and here; group 1, if any, is the layer's number."""
    last = re.compile(official).groups + 1
    return tuple(
        Rule(rf"{official}\.{re.escape(name)}\.(\w+)", (rf"{ours}.{target}.\{last}",)) for name, target in parts
    )


_COMMON = (
    Rule(r"enc_mask_token", ("encoder.input.mask_token",)),
    Rule(r"encoder_to_decoder\.weight", (f"{DECODER}.bridge.weight",)),
    *_layer_rules(r"encoder\.gat_layers\.(\d+)", r"encoder.layers.\1"),
    *_layer_rules(r"decoder\.gat_layers\.(\d+)", rf"{DECODER}.layers.\1"),
)

GRAPHMAE = Official(
    method="graphmae",
    modality="graph",
    overrides=_graphmae,
    replay=_replay,
    rules=(
        *_COMMON,
        *_layer_rules(r"encoder\.gcn_layers\.(\d+)", r"encoder.layers.\1"),
        *_layer_rules(r"decoder\.gcn_layers\.(\d+)", rf"{DECODER}.layers.\1"),
        Rule(r"decoder\.0\.(weight|bias)", (rf"{DECODER}.mlp.linear1.\1",)),
        Rule(r"decoder\.1\.weight", (f"{DECODER}.mlp.activation.weight",)),
        Rule(r"decoder\.3\.(weight|bias)", (rf"{DECODER}.mlp.linear2.\1",)),
        Rule(r"decoder\.(weight|bias)", (rf"{DECODER}.linear.\1",)),
        Rule(r"encoder\.layers\.(\d+)\.eps", (r"encoder.layers.\1.eps",)),
        *_part_rules(_MLP, r"encoder\.layers\.(\d+)\.apply_func(?:\.mlp)?", r"encoder.layers.\1.mlp"),
        Rule(r"encoder\.layers\.(\d+)\.apply_func\.norm\.(\w+)", (r"encoder.layers.\1.norm.\2",)),
        Rule(r"encoder\.layers\.(\d+)\.apply_func\.act\.weight", (r"encoder.layers.\1.activation.weight",)),
        Rule(r"encoder\.layers\.(\d+)\.res_fc\.weight", (r"encoder.layers.\1.residual.weight",)),
        Rule(r"decoder\.layers\.0\.eps", (f"{DECODER}.eps",)),
        *_part_rules(_MLP, r"decoder\.layers\.0\.apply_func", f"{DECODER}.mlp"),
        Rule(r"(?:gnn\.)?x_embedding1\.weight", ("encoder.atoms.weight",)),
        Rule(r"(?:gnn\.)?x_embedding2\.weight", ("encoder.chirality.weight",)),
        Rule(r"(?:gnn\.)?batch_norms\.(\d+)\.(\w+)", (r"encoder.norms.\1.\2",)),
        *_part_rules(_CONV, r"(?:gnn\.)?gnns\.(\d+)", r"encoder.convs.\1"),
        *_part_rules(_CONV, r"decoder\.conv", f"{DECODER}.conv"),
        Rule(r"decoder\.enc_to_dec\.weight", (f"{DECODER}.bridge.weight",)),
        Rule(r"decoder\.activation\.weight", (f"{DECODER}.activation.weight",)),
        Rule(r"decoder\.dec_token", ()),  # nothing reads it
    ),
)

GRAPHMAE2 = Official(
    method="graphmae2",
    modality="graph",
    overrides=_graphmae2,
    replay=_replay2,
    rules=(
        *_COMMON,
        Rule(r"dec_mask_token", (f"{DECODER}.mask_token",)),
        Rule(r"(projector|predictor)\.(\d)\.(weight|bias)", (rf"{LATENT}.\1.\2.\3",)),
        Rule(r"projector_ema\.(\d)\.(weight|bias)", (r"moving_teachers.latent.copies.projector.\1.\2",)),
        *_layer_rules(r"encoder_ema\.gat_layers\.(\d+)", r"moving_teachers.latent.copies.encoder.layers.\1"),
    ),
)
