"""Encoders and decoders of official graph checkpoints: THUDM/GraphMAE's and GraphMAE2's
GNNs, options and key map.

Options of the official constructors. T: read from the tensors; M: from `meta`, else the
official default counts.

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
| mask_method, zero_init | - | not read: the first does nothing, the second concerns the start alone |
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.interop import Rule, State, assume
from modalities.graph.graphs import Graphs

Settings = Mapping[str, Any]
DECODER = "readouts.main.decoder"
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


def gnn_overrides(state: State, settings: Settings, encoder: str, decoder: str) -> list[str]:
    """Overrides that both methods share; without residual, re-masking and replacement."""
    activation = _activation(state, settings, encoder, decoder)
    return [
        f"modality.features={tensor_of(state, 'enc_mask_token').shape[1]}",
        *node_overrides(
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
    depth = depth_of(state, f"encoder.{LAYERS[kind]}")
    options = {"depth": depth, "feat_drop": settings.get("feat_drop", 0.2), "activation": activation}

    if kind == "gin":
        last = f"encoder.layers.{depth - 1}.apply_func"
        # Without a norm the last layer is its MLP alone.
        is_bare = f"{last}.linears.0.weight" in state
        mlp, norm = last, "none"
        if not is_bare:
            mlp, norm = f"{last}.mlp", _norm(state, f"{last}.norm", absent="identity")
        options["width"] = tensor_of(state, f"{mlp}.linears.1.weight").shape[0]
        options["norm"] = norm
    else:
        options["width"] = tensor_of(state, f"{layer}.fc.weight").shape[0]
        options["norm"] = _norm(state, f"{layer}.norm")

    if kind in ("gat", "dotgat"):
        options["attn_drop"] = settings.get("attn_drop", 0.1)
        options["heads"] = _heads(state, settings, kind, options["width"])
    if kind == "gat":
        options["slope"] = settings.get("negative_slope", 0.2)
    return _part("method.encoder", f"modalities.graph.nn.gnn.{ENCODERS[kind]}", options)


def _decoder(state: State, settings: Settings, kind: str, activation: str) -> list[str]:
    inner = tensor_of(state, "encoder_to_decoder.weight").shape[0]
    options = {"inner": inner, "input_layers": _input_layers(state, settings)}
    if kind in ("gat", "dotgat", "gcn", "gin"):
        options["feat_drop"] = settings.get("feat_drop", 0.2)
    if kind in ("gat", "dotgat"):
        options["attn_drop"] = settings.get("attn_drop", 0.1)
    if kind == "gin":
        options["norm"] = _norm(state, "decoder.layers.0.apply_func.norms.0")
        options["activation"] = activation

    if kind == "gat":
        depth = depth_of(state, "decoder.gat_layers")
        options |= {"depth": depth, "slope": settings.get("negative_slope", 0.2)}
        if depth > 1:
            layer = "decoder.gat_layers.0"
            options["hidden"] = tensor_of(state, f"{layer}.fc.weight").shape[0]
            options["hidden_heads"] = tensor_of(state, f"{layer}.attn_l").shape[1]
            options["norm"] = _norm(state, f"{layer}.norm")
            options["activation"] = activation
    return _part(f"method.{DECODER}", f"modalities.graph.nn.decoders.{DECODERS[kind]}", options)


def kind_of(state: State, part: str) -> str:
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
        if has_tensor(state, pattern):
            return kind

    if has_tensor(state, rf"{part}\.(gat_layers\.0\.(lin|att)_src|layers\.0\.nn\.).*"):
        raise UserError(
            f"The checkpoint's {part} comes from the branch 'pyg' of THUDM/GraphMAE, "
            "which computes something else (it decodes over dropped edges, among others); "
            "only checkpoints of its branch 'main' are read."
        )
    names = sorted(key for key in state if key.startswith(f"{part}."))
    shown = ", ".join(names[:4]) or f"no tensor starts with '{part}.'"
    raise UserError(f"The checkpoint's {part} is of no official type ({', '.join(DECODERS)}): {shown}.")


def refuse_unbuildable(state: State, settings: Settings, encoder: str, decoder: str) -> None:
    """Raises UserError for options that the official constructor takes but cannot build or run."""
    if encoder in ("mlp", "linear"):
        raise UserError(
            f"encoder_type={encoder!r} is refused: the official code builds such an encoder "
            "but cannot run it on a graph. Encoders that are read: gat, dotgat, gcn, gin."
        )
    if settings.get("norm") == "graphnorm" or has_tensor(state, r".*norms?(\.\d+)?\.mean_scale"):
        raise UserError(
            "norm='graphnorm' is refused: the official code cannot build it. Norms that are read: layernorm, "
            "batchnorm, None."
        )

    features = tensor_of(state, "enc_mask_token").shape[1]
    if decoder in ("gat", "dotgat"):
        last = f"decoder.gat_layers.{depth_of(state, 'decoder.gat_layers') - 1}.fc.weight"
        width = tensor_of(state, last).shape[0]
        if width > features and width % features == 0:
            raise UserError(
                f"nhead_out={width // features} is refused: predictions of {width} values cannot be "
                f"compared with {features} features, in the official code neither. "
                "Decoders that are read have nhead_out=1."
            )


def _input_layers(state: State, settings: Settings) -> int:
    """How many encoder layers the decoder reads (`concat_hidden`): so many times the code's width."""
    inner, width = tensor_of(state, "encoder_to_decoder.weight").shape
    layers = width // inner
    if layers > 1 and "concat_hidden" not in settings:
        _warn(
            "The checkpoint was trained with concat_hidden: its decoder reads the outputs of all "
            f"{layers} layers side by side. The encoder's latent is the last layer's output alone, "
            f"of width {inner}, as the official `embed` returns it for probing; the other layers are its taps."
        )
    return layers


def _activation(state: State, settings: Settings, encoder: str, decoder: str) -> str:
    """PReLU has a weight; others leave no trace, and `meta` has to name them."""
    if has_tensor(state, r"(encoder|decoder)\..*\b_?(activation|act|activations\.\d+)\.weight"):
        return "prelu"

    # A single layer of attention has no activation, whichever is named.
    in_encoder = encoder in ("gcn", "gin") or depth_of(state, f"encoder.{LAYERS[encoder]}") > 1
    in_decoder = decoder == "gin" or (decoder == "gat" and depth_of(state, "decoder.gat_layers") > 1)
    if not in_encoder and not in_decoder:
        return "none"

    if "activation" not in settings:
        reason = "PReLU alone has weights: the tensors do not show which other activation this is."
        assume("activation", "relu", reason)
        return "relu"
    name = settings["activation"] or "none"
    if name not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise UserError(f"activation={name!r} is refused. Activations that are read: {names}.")
    if name == "prelu":
        raise UserError("activation='prelu' does not fit: the checkpoint has no weight of a PReLU.")
    return name


def residual_of(state: State, settings: Settings, encoder: str) -> str:
    """A linear residual has a weight; an identity, where widths agree, leaves no trace."""
    stack = f"encoder.{LAYERS[encoder]}"
    is_linear = has_tensor(state, rf"{re.escape(stack)}\.\d+\.res_fc\.weight")
    width = tensor_of(state, "encoder_to_decoder.weight").shape[0]

    is_residual = is_linear
    if tensor_of(state, "enc_mask_token").shape[1] == width:
        is_residual = bool(settings.get("residual", False))
        if "residual" not in settings:
            reason = "There are as many features as channels: tensors do not show a residual."
            assume("residual", False, reason)
    if encoder == "gin":
        return str(is_residual).lower()
    if is_residual:
        return "identity"
    return "none"


def _heads(state: State, settings: Settings, kind: str, width: int) -> int:
    if kind == "gat":
        return tensor_of(state, "encoder.gat_layers.0.attn_l").shape[1]
    if "nhead" not in settings:
        if width % 4:
            raise UserError("Attention by dot products has no weights per head: pass meta={'nhead': …}.")
        assume("nhead", 4, "Attention by dot products has no weights per head.")
    return settings.get("nhead", 4)


def _norm(state: State, name: str, absent: str = "none") -> str:
    if f"{name}.weight" not in state:
        return absent
    if f"{name}.running_mean" in state:
        return "batch"
    return "layer"


def _loss(settings: Settings) -> list[str]:
    loss, name = "method.readouts.main.objectives.features.loss", settings.get("loss_fn", "sce")
    if name not in ("sce", "mse"):
        raise UserError(f"loss_fn={name!r} is refused: the official code has 'sce' and 'mse'.")
    if name == "mse":
        return [f"{loss}={{_target_: core.losses.mse, _partial_: true}}"]
    if "alpha_l" not in settings:
        return []
    return [f"{loss}.gamma={float(settings['alpha_l'])}"]


# Pieces -------------------------------------------------------------------------------------------


def _part(node: str, target: str, options: Mapping[str, Any]) -> list[str]:
    """Overrides that make `node` an object of the class `target` with these options."""
    return [f"{node}={{_target_: {target}}}", *node_overrides(node, **options)]


def node_overrides(node: str, **options: Any) -> list[str]:
    return [f"{node}.{name}={value}" for name, value in options.items()]


def has_tensor(state: State, pattern: str) -> bool:
    return any(re.fullmatch(pattern, key) for key in state)


def tensor_of(state: State, key: str) -> Tensor:
    if key not in state:
        raise UserError(f"The checkpoint has no tensor {key!r}: pass the whole model's state_dict.")
    return state[key]


def depth_of(state: State, blocks: str) -> int:
    numbers = [int(m[1]) for key in state if (m := re.match(re.escape(blocks) + r"\.(\d+)\.", key))]
    if not numbers:
        raise UserError(f"The checkpoint has no tensor {blocks}.0.…: pass the whole model's state_dict.")
    return 1 + max(numbers)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)  # load_official passes it on


# Recorded vectors ---------------------------------------------------------------------------------


def graph_sizes(io: State) -> list[int] | None:
    """Nodes of each recorded graph, or None where there is one."""
    if "graph_id" not in io:
        return None
    return io["graph_id"].bincount().tolist()


def edge_flags(graphs: Graphs, edges: Tensor) -> Tensor:
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


def layer_rules(official: str, ours: str) -> tuple[Rule, ...]:
    """Rules of layers that start with a linear map (GAT, dot-product GAT, GCN); group 1 is the layer's number."""
    rules = []
    for name, target in _LAYER:
        rules.append(Rule(rf"{official}\.{re.escape(name)}", (rf"{ours}.{target}",)))

    return *rules, Rule(rf"{official}\.norm\.(\w+)", (rf"{ours}.norm.\2",))


def part_rules(parts: tuple[tuple[str, str], ...], official: str, ours: str) -> tuple[Rule, ...]:
    """Rules of a layer's parts, by their names there and here; group 1, if any, is the layer's number."""
    last = re.compile(official).groups + 1

    rules = []
    for name, target in parts:
        pattern = rf"{official}\.{re.escape(name)}\.(\w+)"
        rules.append(Rule(pattern, (rf"{ours}.{target}.\{last}",)))
    return tuple(rules)


COMMON_RULES = (
    Rule(r"enc_mask_token", ("encoder.input.mask_token",)),
    Rule(r"encoder_to_decoder\.weight", (f"{DECODER}.bridge.weight",)),
    *layer_rules(r"encoder\.gat_layers\.(\d+)", r"encoder.layers.\1"),
    *layer_rules(r"decoder\.gat_layers\.(\d+)", rf"{DECODER}.layers.\1"),
)
