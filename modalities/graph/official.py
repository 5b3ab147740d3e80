"""Official graph checkpoints: GraphMAE (GAT, GIN, molecules) and GraphMAE2 (THUDM)."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.interop import Official, Rule, State
from core.tokens import Batch
from modalities.graph.graphs import Graphs
from modalities.graph.molecules import SELF_LOOP

DECODER = "readouts.main.decoder"
LATENT = "readouts.latent.objectives.latent.head"
NORMS = {None: "none", "layernorm": "layer", "batchnorm": "batch"}


def _overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    if "enc_mask_token" not in state:
        return _molecule_overrides(state, settings)
    features = state["enc_mask_token"].shape[1]
    overrides = [
        f"modality.features={features}",
        f"method.masker.ratio={settings.get('mask_rate', 0.5)}",
        f"method.masker.replace={settings.get('replace_rate', 0.0)}",
        f"method.masker.drop_edges={settings.get('drop_edge_rate', 0.0)}",
        f"method.encoder.concat={str(settings.get('concat_hidden', False)).lower()}",
        f"method.encoder.feat_drop={settings.get('feat_drop', 0.2)}",
        *_loss(settings),
    ]
    inner = f"method.{DECODER}.inner={state['encoder_to_decoder.weight'].shape[0]}"
    if any(key.startswith("encoder.layers.") for key in state):
        return ["method=graphmae_gin", *overrides, *_gin(state, settings), *_decoder(state), inner]
    return [*overrides, *_gat(state, settings), *_decoder(state), inner]


def _loss(settings: Mapping[str, Any]) -> list[str]:
    loss = "method.readouts.main.objectives.features.loss"
    if settings.get("loss_fn", "sce") == "mse":
        return [f"{loss}={{_target_: core.losses.mse, _partial_: true}}"]
    return [f"{loss}.gamma={float(settings['alpha_l'])}"] if "alpha_l" in settings else []


def _gat(state: State, settings: Mapping[str, Any]) -> list[str]:
    first = "encoder.gat_layers.0"
    heads, slope, drop = (
        state[f"{first}.attn_l"].shape[1],
        settings.get("negative_slope", 0.2),
        settings.get("attn_drop", 0.1),
    )
    overrides = [
        f"method.encoder.width={state[f'{first}.fc.weight'].shape[0]}",
        f"method.encoder.depth={_depth(state, 'encoder.gat_layers')}",
        f"method.encoder.heads={heads}",
        f"method.encoder.norm={_norm(state, settings, f'{first}.norm')}",
        f"method.encoder.slope={slope}",
        f"method.encoder.attn_drop={drop}",
        f"method.encoder.residual={'identity' if _residual(state, settings) else 'none'}",
        *_activation(state, settings, f"{first}.activation.weight"),
    ]
    if "decoder.gat_layers.0.attn_l" in state:
        heads = state["decoder.gat_layers.0.attn_l"].shape[1]
        overrides += [f"method.{DECODER}.heads={heads}", f"method.{DECODER}.slope={slope}"]
    return overrides


def _gin(state: State, settings: Mapping[str, Any]) -> list[str]:
    first = "encoder.layers.0.apply_func"
    return [
        f"method.encoder.width={state[f'{first}.mlp.linears.0.weight'].shape[0]}",
        f"method.encoder.depth={_depth(state, 'encoder.layers')}",
        f"method.encoder.norm={_norm(state, settings, f'{first}.norm')}",
        f"method.{DECODER}.norm={_norm(state, settings, 'decoder.layers.0.apply_func.norms.0')}",
        f"method.encoder.residual={str(_residual(state, settings)).lower()}",
        *_activation(state, settings, f"{first}.act.weight", both=True),
    ]


def _decoder(state: State) -> list[str]:
    """An MLP decoder is none that its method has by default."""
    if "decoder.3.weight" not in state:
        return []
    return [f"method.{DECODER}={{_target_: modalities.graph.decoders.MLPDecoder}}", "method.masker.remask=none"]


def _molecule_overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    prefix = "gnn." if "gnn.x_embedding1.weight" in state else ""
    overrides = [
        "modality.features=2",
        f"method.encoder.width={state[prefix + 'x_embedding1.weight'].shape[1]}",
        f"method.encoder.depth={_depth(state, prefix + 'gnns')}",
        f"method.encoder.drop={settings.get('drop_ratio', 0.0)}",
        f"method.masker.ratio={settings.get('mask_rate', 0.25)}",
    ]
    if "alpha_l" in settings:
        overrides.append(f"method.readouts.main.objectives.atoms.loss.gamma={float(settings['alpha_l'])}")
    return ["method=graphmae_chem", *overrides]


def _overrides2(state: State, settings: Mapping[str, Any]) -> list[str]:
    random = settings.get("remask_method", "random") == "random"
    views = settings.get("num_remasking", 3)
    objectives = "method.readouts.main.objectives.features"
    overrides = [o for o in _overrides(state, {**settings, "replace_rate": 0.0}) if "encoder.residual" not in o]
    overrides += [
        f"method.encoder.residual={'unequal' if _residual(state, settings) else 'none'}",
        f"method.{DECODER}.mask_token={'learned' if random else 'idle'}",
        f"method.masker.remask={'random' if random else 'hidden'}",
        f"method.masker.decodings={views}",
        f"method.masker.remask_ratio={settings.get('remask_rate', 0.5)}",
        f"{objectives}.queries={[f'main/{i}' for i in range(views)] if random else ['main']}".replace("'", ""),
        f"method.readouts.latent.objectives.latent.weight={float(settings.get('lam', 1.0))}",
        f"method.teachers.latent.momentum={float(settings.get('momentum', 0.996))}",
        f"method.teachers.latent.delay={float(settings.get('delayed_ema_epoch', 0))}",
    ]
    return overrides


def _depth(state: State, blocks: str) -> int:
    return 1 + max(int(m[1]) for key in state if (m := re.match(re.escape(blocks) + r"\.(\d+)\.", key)))


def _norm(state: State, settings: Mapping[str, Any], name: str) -> str:
    if f"{name}.weight" not in state:
        return "none"
    return "batch" if f"{name}.running_mean" in state else "layer"


def _residual(state: State, settings: Mapping[str, Any]) -> bool:
    """An identity leaves no trace in the weights: where the settings do not say, a first layer's map tells."""
    return settings.get("residual", any("res_fc" in key for key in state))


def _activation(state: State, settings: Mapping[str, Any], key: str, both: bool = False) -> list[str]:
    kind = "prelu" if key in state else settings.get("activation") or "relu"
    kind = kind if key in state or kind != "prelu" else "relu"
    return [f"method.encoder.activation={kind}", *([f"method.{DECODER}.activation={kind}"] if both else [])]


def _replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    if "masked_atom_indices" in io:
        counts = io["graph_id"].bincount().tolist()
        graphs = Graphs.of(io["x_original"], io["edge_index"], counts, io["edge_attr"], SELF_LOOP)
        return Batch({"graph": graphs}), {"graph": io["masked_atom_indices"]}
    counts = io["graph_id"].bincount().tolist() if "graph_id" in io else None
    graphs = Graphs.of(io["x"], io["edge_index"], counts)
    draws = {"nodes": io["randperm_0_nodes"]}
    if "randperm_1_masked" in io:
        draws |= {"masked": io["randperm_1_masked"], "noise": io["randperm_2_noise"]}
    if "dropped_edge_index" in io:
        # Its last columns are the fresh self-loops.
        draws["edges"] = _kept(graphs, io["dropped_edge_index"][:, : -len(io["x"])])
    return Batch({"graph": graphs}), {"graph": draws}


def _replay2(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    graphs, count = Graphs.of(io["x"], io["edge_index"]), len(io["x"])
    views, draws = {"graph": graphs}, {"nodes": _permutation(io["mask_nodes"], count)}
    if "view1_edge_index" in io:
        draws["edges"] = _kept(graphs, io["view1_edge_index"])
    if "view2_edge_index" in io:
        views["teacher"] = Graphs.of(io["x"], io["view2_edge_index"])
    erased = [io[f"remask_nodes_{i}"] for i in range(settings.get("num_remasking", 0)) if f"remask_nodes_{i}" in io]
    if erased:
        draws["remask"] = torch.stack([_permutation(nodes, count) for nodes in erased])
    if "targets" in io:
        views["graph"] = graphs.rooted(io["targets"])
    return Batch(views), {"graph": draws}


def _permutation(first: Tensor, count: int) -> Tensor:
    """A permutation of all nodes that starts with these."""
    rest = torch.ones(count, dtype=torch.bool).index_fill(0, first, False).nonzero()[:, 0]
    return torch.cat([first, rest])


def _kept(graphs: Graphs, edges: Tensor) -> Tensor:
    """Which edges of the graphs are among `edges`."""
    key = lambda e: e[0] * len(graphs.x) + e[1]  # noqa: E731
    return torch.isin(key(graphs.edge_index), key(edges))


_GAT_LAYER = (
    ("fc.weight", "linear.weight"),
    ("attn_l", "sender"),
    ("attn_r", "receiver"),
    ("bias", "bias"),
    ("res_fc.weight", "residual.weight"),
    ("activation.weight", "activation.weight"),
)


def _gat_rules(official: str, ours: str) -> tuple[Rule, ...]:
    """Rules of an encoder's GAT layers."""
    layer, mine = rf"{official}\.gat_layers\.(\d+)\.", rf"{ours}.layers.\1."
    return (
        *(Rule(layer + re.escape(name), (mine + own,)) for name, own in _GAT_LAYER),
        Rule(layer + r"norm\.(\w+)", (mine + r"norm.\2",)),
    )


_MLP = (("linears.0", "linear1"), ("linears.1", "linear2"), ("norms.0", "norm"), ("activations.0", "activation"))
_CONV = (
    ("mlp.0", "linear1"),
    ("mlp.2", "linear2"),
    ("edge_embedding1", "types"),
    ("edge_embedding2", "directions"),
)


def _part_rules(parts: tuple[tuple[str, str], ...], official: str, ours: str) -> tuple[Rule, ...]:
    """Rules of a layer's parts, by their names there and here; group 1, if there is one, is the layer's number."""
    last = re.compile(official).groups + 1
    return tuple(Rule(rf"{official}\.{re.escape(name)}\.(\w+)", (rf"{ours}.{own}.\{last}",)) for name, own in parts)


_COMMON = (
    Rule(r"enc_mask_token", ("encoder.input.mask_token",)),
    Rule(r"encoder_to_decoder\.weight", (f"{DECODER}.bridge.weight",)),
    *_gat_rules("encoder", "encoder"),
    *(Rule(rf"decoder\.gat_layers\.0\.{re.escape(name)}", (f"{DECODER}.{own}",)) for name, own in _GAT_LAYER),
    Rule(r"decoder\.0\.(weight|bias)", (rf"{DECODER}.mlp.linear1.\1",)),
    Rule(r"decoder\.1\.weight", (f"{DECODER}.mlp.activation.weight",)),
    Rule(r"decoder\.3\.(weight|bias)", (rf"{DECODER}.mlp.linear2.\1",)),
)

GRAPHMAE = Official(
    method="graphmae",
    modality="graph",
    overrides=_overrides,
    replay=_replay,
    rules=(
        *_COMMON,
        Rule(r"encoder\.layers\.(\d+)\.eps", (r"encoder.layers.\1.eps",)),
        *_part_rules(_MLP, r"encoder\.layers\.(\d+)\.apply_func\.mlp", r"encoder.layers.\1.mlp"),
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
        Rule(r"decoder\.dec_token", (), lambda _: ()),  # nothing reads it
    ),
)

GRAPHMAE2 = Official(
    method="graphmae2",
    modality="graph",
    overrides=_overrides2,
    replay=_replay2,
    rules=(
        *_COMMON,
        Rule(r"dec_mask_token", (f"{DECODER}.mask_token",)),
        Rule(r"(projector|predictor)\.(\d)\.(weight|bias)", (rf"{LATENT}.\1.\2.\3",)),
        Rule(r"projector_ema\.(\d)\.(weight|bias)", (r"moving_teachers.latent.copies.projector.\1.\2",)),
        *_gat_rules("encoder_ema", "moving_teachers.latent.copies.encoder"),
    ),
)
