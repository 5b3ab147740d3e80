"""GraphMAE of molecules: masks, targets, official checkpoints (THUDM/GraphMAE, folder chem).

Options of the official constructors. T: read from the tensors; M: from `meta`, else the
official default counts.

| option | read | loaded |
|---|---|---|
| num_layer, emb_dim | T | any |
| gnn_type | T | gin; gcn, gat and graphsage are refused (no constructor or forward) |
| JK | M | last, sum, max; concat is refused: the official decoder does not fit it |
| drop_ratio, mask_rate, alpha_l, loss_fn | M | any; every loss_fn but sce is cross entropy |
| mask_edge | M | 0; bonds are refused (no forward) |
"""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from core.interop import Official, Rule, State
from core.maskers import Masker, checked_ratio, uniform
from core.targets import Target
from core.tokens import Batch, ForwardContext, Layout, Mask, Query, Rows, TargetValues, Tokens
from modalities.graph.graphs import Graphs
from modalities.graph.nn.molecules import ATOM_TYPES, SELF_LOOP
from modalities.graph.official import (
    DECODER,
    Settings,
    depth_of,
    graph_sizes,
    has_tensor,
    node_overrides,
    part_rules,
    tensor_of,
)


class AtomMasker(Masker):
    """Hides int(n · ratio + 1) atoms of each molecule of n; they are erased, and again before decoding.

    Draws: noise (N,), the lowest of each molecule are hidden; or the hidden nodes themselves (long), to
    replay.
    Shapes: tokens (1, N, …) -> Mask with visible (1, N − M), query `main` (1, M).
    Source: THUDM/GraphMAE, folder chem.
    """

    def __init__(self, ratio: float, view: str = "graph"):
        self.ratio, self.view = checked_ratio(ratio), view

    def draw(self, tokens: Mapping[str, Tokens], generator: torch.Generator | None, ctx: ForwardContext) -> dict:
        layout, device = tokens[self.view].layout, tokens[self.view].content.device
        return {self.view: uniform((layout.count,), device, generator)}

    def __call__(self, tokens: Mapping[str, Tokens], draws: Mapping, ctx: ForwardContext) -> dict[str, Mask]:
        layout, draw = tokens[self.view].layout, draws[self.view]
        atoms = draw
        if draw.is_floating_point():
            atoms = self._lowest(draw, layout)

        hidden = torch.zeros(layout.count, dtype=torch.bool, device=atoms.device).index_fill(0, atoms, True)
        visible = Rows.from_mask(~hidden[None], layout.count - len(atoms))
        rows = Rows(atoms[None])
        return {self.view: Mask(hidden[None], visible, queries={"main": Query(rows, rows)})}

    def _lowest(self, noise: Tensor, layout: Layout) -> Tensor:
        """The atoms (M,) of lowest noise of each molecule."""
        order = (layout.sample + noise.double()).argsort()  # by molecule, then noise

        parts, start = [], 0
        for count in layout.counts:
            parts.append(order[start : start + min(int(count * self.ratio + 1), count)])
            start += count
        return torch.cat(parts)


class AtomTypes(Target):
    """One-hot atom types (1, M, 119)."""

    def __init__(self):
        super().__init__()
        self.out = ATOM_TYPES

    @torch.no_grad()
    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        atoms = query.rows.gather(ctx.tokens[view].content)[..., 0]
        return TargetValues(F.one_hot(atoms, ATOM_TYPES).float())


def type_cross_entropy(prediction: Tensor, values: Tensor) -> Tensor:
    """Cross entropy of logits with one-hot types, both (B, M, types) -> (B, M)."""
    return F.cross_entropy(prediction.movedim(-1, 1), values.movedim(-1, 1), reduction="none")


# Official checkpoints -----------------------------------------------------------------------------


def _overrides(state: State, settings: Settings) -> list[str]:
    prefix = "gnn." if "gnn.x_embedding1.weight" in state else ""
    _refuse_unbuildable(state, settings, prefix)

    overrides = [
        "modality.features=2",
        *node_overrides(
            "method.encoder",
            width=tensor_of(state, f"{prefix}x_embedding1.weight").shape[1],
            depth=depth_of(state, f"{prefix}gnns"),
            drop=settings.get("drop_ratio", 0.0),
            jump=settings.get("JK", "last"),
        ),
        *node_overrides("method.masker", ratio=settings.get("mask_rate", 0.25)),
    ]

    loss = "method.readouts.main.objectives.atoms.loss"
    if settings.get("loss_fn", "sce") != "sce":
        target = "modalities.graph.methods.graphmae_chem.type_cross_entropy"
        overrides.append(f"{loss}={{_target_: {target}, _partial_: true}}")
    elif "alpha_l" in settings:
        overrides.append(f"{loss}.gamma={float(settings['alpha_l'])}")
    return overrides


def _refuse_unbuildable(state: State, settings: Settings, prefix: str) -> None:
    """Raises UserError for options of the official molecule code that it cannot build or run."""
    stack = re.escape(f"{prefix}gnns.0.")
    encoders = {"gat": rf"{stack}(att|weight_linear\.weight)", "gcn or graphsage": rf"{stack}linear\.weight"}
    for name, pattern in encoders.items():
        if has_tensor(state, pattern):
            raise UserError(
                f"gnn_type={name} is refused: the official code cannot run such a molecule encoder. Read is: gin."
            )

    decoders = {"gcn": r"decoder\.conv\.linear\.weight", "linear": r"decoder\.dec\.weight"}
    for name, pattern in decoders.items():
        if has_tensor(state, pattern):
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


def _replay(io: State, settings: Settings) -> tuple[Batch, dict]:
    graphs = Graphs.of(io["x_original"], io["edge_index"], graph_sizes(io), io["edge_attr"], SELF_LOOP)
    return Batch({"graph": graphs}), {"graph": io["masked_atom_indices"]}


_CONV = (
    ("mlp.0", "linear1"),
    ("mlp.2", "linear2"),
    ("edge_embedding1", "types"),
    ("edge_embedding2", "directions"),
)

GRAPHMAE_CHEM = Official(
    method="graphmae_chem",
    modality="graph",
    overrides=_overrides,
    replay=_replay,
    rules=(
        Rule(r"(?:gnn\.)?x_embedding1\.weight", ("encoder.atoms.weight",)),
        Rule(r"(?:gnn\.)?x_embedding2\.weight", ("encoder.chirality.weight",)),
        Rule(r"(?:gnn\.)?batch_norms\.(\d+)\.(\w+)", (r"encoder.norms.\1.\2",)),
        *part_rules(_CONV, r"(?:gnn\.)?gnns\.(\d+)", r"encoder.convs.\1"),
        *part_rules(_CONV, r"decoder\.conv", f"{DECODER}.conv"),
        Rule(r"decoder\.enc_to_dec\.weight", (f"{DECODER}.bridge.weight",)),
        Rule(r"decoder\.activation\.weight", (f"{DECODER}.activation.weight",)),
        Rule(r"decoder\.dec_token", ()),  # nothing reads it
    ),
)
