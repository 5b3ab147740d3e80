"""Point-MAE: official checkpoints (Pang-Yatian/Point-MAE), pre-trained or fine-tuned. Its parts are generic, but
for the embedding of groups (`modalities.point.nn.embedding`) and the target (`modalities.point.targets`).

Options of its `Point_MAE`:
- of the tensors: group_size, trans_dim, encoder_dims, depth, decoder_depth;
- of `meta`: num_group (64), num_heads and decoder_num_heads (else published widths), drop_path_rate, mask_ratio (0.6),
  mask_type (rand; block), loss (cdl2; cdl1).
Of its classifier `PointTransformer` the head is left out with a note; the class token belongs to the encoder.

As published, the embedding sees hidden groups: `method.encoder.masking=leak`. Set it to drop to go on training without.
"""

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import torch

from core.errors import UserError
from core.interop import ClassifierOptions, Official, Rule, State, block_overrides, trunk_overrides
from core.tokens import Batch
from modalities.point.clouds import Clouds, Plan

TRUNK = "method.encoder.trunk"
DECODER = "readouts.main.decoder"
POINTS = "readouts.main.objectives.points"
HEADS = {384: 6}
NORM = {"norm_layer": "LayerNorm(eps=1e-5)"}
LOSSES = {"cdl1": "false", "cdl2": "true"}
MASKERS = {"rand": "core.maskers.RandomMasker", "block": "core.maskers.NeighbourhoodMasker"}


def _overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    nested = settings.get("transformer_config") or {}
    settings = ChainMap(nested, settings, {"drop_path_rate": 0.1})  # type: ignore[arg-type]  # it only reads
    encoder = _encoder_prefix(state)
    dim = state[f"{encoder}norm.weight"].shape[0]
    first = state[f"{encoder}encoder.first_conv.0.weight"].shape
    widths = [
        first[0],
        *(state[f"{encoder}encoder.{name}.weight"].shape[0] for name in ("first_conv.3", "second_conv.0")),
    ]
    members = settings.get("group_size", 32)
    if "increase_dim.0.weight" in state:
        members = state["increase_dim.0.weight"].shape[0] // 3

    overrides = [
        f"modality.groups=[{settings.get('num_group', 64)}]",
        f"modality.members=[{members}]",
        f"modality.channels={first[1]}",
        f"{TRUNK}.dim={dim}",
        *trunk_overrides(state, TRUNK, f"{encoder}blocks.blocks", dim, settings.get("num_heads"), HEADS),
        *block_overrides(ChainMap(NORM, settings), TRUNK, f"method.{DECODER}.trunk"),  # type: ignore[arg-type]
        f"method.{DECODER}.dim={dim}",
        f"method.encoder.embed.widths={widths}",
        f"method.encoder.positions.hidden={state[f'{encoder}pos_embed.0.weight'].shape[0]}",
        "method.encoder.masking=leak",
        *_masking(settings),
        f"method.{POINTS}.loss.squared={_choice(settings, 'loss', LOSSES, 'cdl2')}",
    ]
    if "cls_token" in state:
        overrides.append("method.encoder.cls={_target_: core.embeddings.ClsToken, position: learned, init: truncated}")
    if "mask_token" in state:
        node = f"method.{DECODER}"
        heads = settings.get("decoder_num_heads")
        overrides.append(f"{node}.positions.hidden={state['decoder_pos_embed.0.weight'].shape[0]}")
        overrides += trunk_overrides(state, f"{node}.trunk", "MAE_decoder.blocks", dim, heads, HEADS)
    return overrides


def _encoder_prefix(state: State) -> str:
    """ "MAE_encoder." of the pre-trained model, nothing of the classifier. Raises: UserError for other files."""
    for prefix in ("MAE_encoder.", ""):
        if f"{prefix}encoder.first_conv.0.weight" in state:
            return prefix
    raise UserError("It has no tensor MAE_encoder.encoder.first_conv.0.weight: this is no checkpoint of Point-MAE.")


def _masking(settings: Mapping[str, Any]) -> list[str]:
    masker = _choice(settings, "mask_type", MASKERS, "rand")
    node = f"_target_: {masker}, ratio: {settings.get('mask_ratio', 0.6)}"
    if masker.endswith("RandomMasker"):
        node += ", rounding: up"
    return [f"method.masker={{{node}}}"]


def _choice(settings: Mapping[str, Any], name: str, table: Mapping[str, str], default: str) -> str:
    value = settings.get(name) or default
    if value not in table:
        raise UserError(f"{name}={value}: only {' and '.join(table)} are offered.")
    return table[value]


def _replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    plan = Plan(io["fps_idx"].long(), io["knn_idx"].long())
    # Rows with the lowest numbers stay visible, ascending: those that the recorded mask leaves.
    order = torch.arange(io["mask"].shape[1]) / io["mask"].shape[1]
    return Batch({"point": Clouds(io["points"], plans=(plan,))}), {"point": io["mask"] + order}


BLOCK = r"(\d+\.(?:norm[12]\.(?:weight|bias)|attn\.(?:qkv|proj)\.(?:weight|bias)|mlp\.fc[12]\.(?:weight|bias)))"
_ENCODER = r"(?:MAE_encoder\.)?"

POINT_MAE = Official(
    method="point_mae",
    modality="point",
    overrides=_overrides,
    replay=_replay,
    rules=(
        Rule(r"cls_head_finetune\..*", (), note="the classifier, left out"),
        Rule(r"cls_token", ("encoder.cls.token",)),
        Rule(r"cls_pos", ("encoder.cls.position",)),
        Rule(rf"{_ENCODER}encoder\.first_conv\.(\d+\.\w+)", (r"encoder.embed.points.\1",)),
        Rule(rf"{_ENCODER}encoder\.second_conv\.(\d+\.\w+)", (r"encoder.embed.groups.\1",)),
        Rule(rf"{_ENCODER}pos_embed\.0\.(weight|bias)", (r"encoder.positions.fc1.\1",)),
        Rule(rf"{_ENCODER}pos_embed\.2\.(weight|bias)", (r"encoder.positions.fc2.\1",)),
        Rule(rf"{_ENCODER}blocks\.blocks\.{BLOCK}", (r"encoder.trunk.blocks.\1",)),
        Rule(rf"{_ENCODER}norm\.(weight|bias)", (r"encoder.trunk.norm.\1",)),
        Rule(r"mask_token", (f"{DECODER}.mask_token",)),
        Rule(r"decoder_pos_embed\.0\.(weight|bias)", (rf"{DECODER}.positions.fc1.\1",)),
        Rule(r"decoder_pos_embed\.2\.(weight|bias)", (rf"{DECODER}.positions.fc2.\1",)),
        Rule(rf"MAE_decoder\.blocks\.{BLOCK}", (rf"{DECODER}.trunk.blocks.\1",)),
        Rule(r"MAE_decoder\.norm\.(weight|bias)", (rf"{DECODER}.trunk.norm.\1",)),
        Rule(r"increase_dim\.0\.weight", (f"{POINTS}.head.weight",), split=lambda weight: (weight[..., 0],)),
        Rule(r"increase_dim\.0\.bias", (f"{POINTS}.head.bias",)),
    ),
    classifiers={
        "published": ClassifierOptions(
            head="mlp", pool="cls,max", smoothing=0.0, clip=10.0, no_weight_decay=("encoder.cls.token",)
        )
    },
)
