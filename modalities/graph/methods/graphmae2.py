"""GraphMAE2: its latent prediction, official checkpoints (THUDM/GraphMAE2). Masks and
features are GraphMAE's.

The latent's teacher is a running mean of the encoder, fed with every node. Options of official checkpoints
are those of `modalities/graph/official.py`, and any remask_method, remask_rate, num_remasking, lam, momentum,
delayed_ema_epoch (of `meta`, else the official default).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.interop import Official, Rule, State
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.teachers import EMATeacher
from core.tokens import Batch, ForwardContext
from modalities.graph.graphs import Graphs
from modalities.graph.official import (
    COMMON_RULES,
    DECODER,
    Settings,
    edge_flags,
    gnn_overrides,
    has_tensor,
    kind_of,
    layer_rules,
    node_overrides,
    refuse_unbuildable,
)

LATENT = "readouts.latent.objectives.latent.head"


class LatentTeacher(EMATeacher):
    """Projected codes (1, N, D) of the whole graph by averaged weights, with dropout, as published.

    Its input is the view "teacher", where the data make one (with other edges dropped), else `view`, the
    student's.
    """

    def __init__(self, parts: Mapping[str, str], momentum: float, delay: float = 0.0, view: str = "graph"):
        super().__init__(parts, momentum, delay)
        self.view = view

    def follow(self, method: MaskedAutoencoder) -> None:
        super().follow(method)
        self.copies["encoder"].input.mask_token = None  # nothing is hidden from it

    def forward(self, ctx: ForwardContext) -> Tensor:
        tokens = ctx.tokens.get("teacher", ctx.tokens[self.view])
        latent = self.copies["encoder"](tokens.unmasked())
        return self.copies["projector"](latent.features)


class LatentHead(nn.Module):
    """Projector and predictor: (…, D) -> (…, D). The teacher has a projector of its own, no predictor."""

    def __init__(self, width: int, inner: int = 256):
        super().__init__()
        self.projector = nn.Sequential(nn.Linear(width, inner), nn.PReLU(), nn.Linear(inner, width))
        self.predictor = nn.Sequential(nn.PReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.predictor(self.projector(x))


# Official checkpoints -----------------------------------------------------------------------------


def _overrides(state: State, settings: Settings) -> list[str]:
    encoder, decoder = kind_of(state, "encoder"), kind_of(state, "decoder")
    if encoder != "gat" or decoder != "gat":
        raise UserError(
            f"encoder_type={encoder!r} with decoder_type={decoder!r} is refused: of its encoders and decoders "
            "the official GraphMAE2 can run the GAT alone."
        )
    refuse_unbuildable(state, settings, encoder, decoder)

    # Where widths agree its layers have no skip at all: a residual is visible wherever it does anything.
    has_residual = has_tensor(state, r"(encoder|decoder)\.gat_layers\.\d+\.res_fc\.weight")
    residual = "unequal" if has_residual else "none"

    return [
        *gnn_overrides(state, settings, encoder, decoder),
        *node_overrides("method.encoder", residual=residual),
        *node_overrides(f"method.{DECODER}", residual=residual),
        *node_overrides("method.masker", replace=0.0),
        *_remask(settings),
        f"method.readouts.latent.objectives.latent.weight={float(settings.get('lam', 1.0))}",
        f"method.teachers.latent.momentum={float(settings.get('momentum', 0.996))}",
        f"method.teachers.latent.delay={float(settings.get('delayed_ema_epoch', 0))}",
    ]


def _remask(settings: Settings) -> list[str]:
    """Decodings of one latent: several with random nodes erased, or one with the hidden ones."""
    method = settings.get("remask_method", "random")
    queries = "method.readouts.main.objectives.features.queries"
    count, ratio = settings.get("num_remasking", 3), settings.get("remask_rate", 0.5)
    if method == "fixed":
        return [
            *node_overrides("method.masker", remask="hidden", decodings=count, remask_ratio=ratio),
            f"method.{DECODER}.mask_token=idle",
            f"{queries}=[main]",
        ]
    if method != "random":
        raise UserError(f"remask_method={method!r} is refused: the official GraphMAE2 has 'random' and 'fixed'.")

    names = ",".join(f"main/{i}" for i in range(count))
    return [
        *node_overrides("method.masker", remask="random", decodings=count, remask_ratio=ratio),
        f"method.{DECODER}.mask_token=learned",
        f"{queries}=[{names}]",
    ]


def _replay(io: State, settings: Settings) -> tuple[Batch, dict]:
    graphs = Graphs.of(io["x"], io["edge_index"])
    count = len(io["x"])
    views = {"graph": graphs}

    draws = {"nodes": _permutation(io["mask_nodes"], count)}
    if "view1_edge_index" in io:
        draws["edges"] = edge_flags(graphs, io["view1_edge_index"])
    if "view2_edge_index" in io:
        views["teacher"] = Graphs.of(io["x"], io["view2_edge_index"])

    erased = []
    for index in range(settings.get("num_remasking", 0)):
        if f"remask_nodes_{index}" in io:
            erased.append(_permutation(io[f"remask_nodes_{index}"], count))
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


GRAPHMAE2 = Official(
    method="graphmae2",
    modality="graph",
    overrides=_overrides,
    replay=_replay,
    rules=(
        *COMMON_RULES,
        Rule(r"dec_mask_token", (f"{DECODER}.mask_token",)),
        Rule(r"(projector|predictor)\.(\d)\.(weight|bias)", (rf"{LATENT}.\1.\2.\3",)),
        Rule(r"projector_ema\.(\d)\.(weight|bias)", (r"moving_teachers.latent.copies.projector.\1.\2",)),
        *layer_rules(r"encoder_ema\.gat_layers\.(\d+)", r"moving_teachers.latent.copies.encoder.layers.\1"),
    ),
)
