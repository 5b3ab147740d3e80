"""Point-M2AE: official checkpoints (ZrrSkywalker/Point-M2AE), pre-trained or fine-tuned. Its encoder and decoder are
`modalities.point.nn.pyramid`.

Options of its `Point_M2AE`:
- of the tensors: encoder_dims, encoder_depths, decoder_dims, decoder_depths, decoder_up_blocks, the points of a
  prediction;
- of `meta`: num_groups (512, 256, 64), group_sizes (16, 8, 8), num_heads (6), drop_path_rate, mask_ratio (0.8);
- `local_radius`: in pre-training attention among all visible tokens, as with radii 0: the official radii mask nothing
  between tokens but let them attend to padding, which there is none of here. A fine-tuned encoder has its radii
  (0.32, 0.64, 1.28).
Fine-tuned classifiers lose their head, with a note.

As published, embeddings see hidden groups (`method.encoder.masking=leak`), and a centre is visible that should not be
(`PublishedMasker`). Set `method.encoder.masking=drop` and another masker to go on training without.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from core.errors import UserError
from core.interop import ClassifierOptions, LinearProbe, Official, Rule, State, trunk_overrides
from core.maskers import RandomMasker
from core.tokens import Batch, ForwardContext, Layout, Mask, Tokens
from modalities.point.clouds import Clouds, Plan
from modalities.point.methods.point_mae import BLOCK

DECODER = "readouts.main.decoder"
POINTS = "readouts.main.objectives.points"
GROUPS, MEMBERS = (512, 256, 64), (16, 8, 8)  # published, the finest level first


class PublishedMasker(RandomMasker):
    """`RandomMasker` with the official code's slip: group 0 of sample 0 is visible at all levels but the coarsest.

    Its hidden groups list member 0 of the whole batch. Where nothing is hidden nothing changes.
    Source: ZrrSkywalker/Point-M2AE.
    """

    def mask_view(self, tokens: Tokens, draws: Any, ctx: ForwardContext) -> Mask:
        return with_slip(super().mask_view(tokens, draws, ctx), tokens.layout)


def with_slip(mask: Mask, layout: Layout) -> Mask:
    """The mask with its finer levels, as the official code makes them."""
    if layout.finer is None:
        return mask
    finer = replace(mask, finer=None).propagate(replace(layout, finer=replace(layout.finer, finer=None))).finer
    assert finer is not None, "there is a finer level"
    if bool(mask.hidden.any()):
        hidden = finer.hidden.clone()
        hidden[0, 0] = False
        finer = Mask.from_hidden(hidden)
    return replace(mask, finer=with_slip(finer, layout.finer))


def pyramid_overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    """Overrides of encoder and tokenizer, which I2P-MAE has too."""
    prefix = "h_encoder."
    if f"{prefix}token_embed.0.first_conv.0.weight" not in state:
        raise UserError(
            "It has no tensor h_encoder.token_embed.0.first_conv.0.weight: no checkpoint of a point pyramid."
        )

    dims, depths, ratios = [], [], []
    heads = settings.get("num_heads", 6)
    while f"{prefix}token_embed.{len(dims)}.second_conv.3.weight" in state:
        level = len(dims)
        dim = state[f"{prefix}token_embed.{level}.second_conv.3.weight"].shape[0]
        depth, ratio = _depth_and_ratio(state, f"{prefix}encoder_blocks.{level}.blocks", dim, heads)
        dims.append(dim)
        depths.append(depth)
        ratios.append(ratio)

    first = state[f"{prefix}token_embed.0.first_conv.0.weight"].shape
    widths = [first[0]]
    widths += [state[f"{prefix}token_embed.0.{name}.weight"].shape[0] for name in ("first_conv.3", "second_conv.0")]
    levels = len(dims)
    return [
        f"modality.groups={list(settings.get('num_groups', GROUPS[:levels]))}",
        f"modality.members={list(settings.get('group_sizes', MEMBERS[:levels]))}",
        f"modality.channels={first[1]}",
        f"method.encoder.dims={dims}",
        f"method.encoder.depths={depths}",
        f"method.encoder.heads={heads}",
        f"method.encoder.widths={widths}",
        f"method.encoder.mlp_ratio={min(ratios)}",
        f"method.encoder.drop_path={settings.get('drop_path_rate', 0.1)}",
        "method.encoder.masking=leak",
        *_fine_tuned_overrides(state, settings),
    ]


def _fine_tuned_overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    """Overrides of an encoder that was fine-tuned; none of one that has the norms of all levels."""
    if "norm.weight" not in state:
        return []
    radius = list(settings.get("local_radius", CLASSIFIER.encoder["radius"]))
    return ["method.encoder.norm=last", f"method.encoder.radius={radius}"]


def decoder_overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    """Overrides of the decoder, empty for files without one."""
    if "mask_token" not in state:
        return []
    depths, ratios, heads = [], [], settings.get("num_heads", 6)
    while any(key.startswith(f"h_decoder.{len(depths)}.") for key in state):
        stage = len(depths)
        dim = state[f"decoder_pos_embeds.{stage}.0.weight"].shape[0]
        depth, ratio = _depth_and_ratio(state, f"h_decoder.{stage}.blocks", dim, heads)
        depths.append(depth)
        ratios.append(ratio)
    residuals = 1
    while f"token_prop.0.extraction.operation.{residuals}.net1.0.weight" in state:
        residuals += 1
    return [
        f"method.{DECODER}.residuals={residuals}",
        f"method.{DECODER}.depths={depths}",
        f"method.{DECODER}.heads={heads}",
        f"method.{DECODER}.mlp_ratio={min(ratios)}",
        f"method.{DECODER}.drop_path={settings.get('drop_path_rate', 0.1)}",
    ]


def _depth_and_ratio(state: State, blocks: str, dim: int, heads: int) -> tuple[int, float]:
    """Depth and MLP ratio of one level's blocks; all levels share their heads.

    Ratios are half a unit of the hidden width too large: the smallest, of the widest level, serves all.
    """
    values = dict(text.split("=") for text in trunk_overrides(state, "level", blocks, dim, heads, {}))
    return int(values["level.depth"]), float(values["level.mlp_ratio"])


def _overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    masker = "modalities.point.methods.point_m2ae.PublishedMasker"
    overrides = [
        *pyramid_overrides(state, settings),
        *decoder_overrides(state, settings),
        f"method.masker={{_target_: {masker}, ratio: {settings.get('mask_ratio', 0.8)}, rounding: up}}",
    ]
    if "rec_head.weight" in state:
        overrides.append(f"method.{POINTS}.target.points={state['rec_head.weight'].shape[0] // 3}")
    return overrides


def clouds_of(io: State) -> Clouds:
    """Recorded clouds with the recorded groups of all levels."""
    numbers = sorted(int(match[1]) for match in map(re.compile(r"knn_idx(\d+)").fullmatch, io) if match)
    plans = []
    for number in numbers:
        members = io[f"knn_idx{number}"].long()
        # A centre is the nearest to itself, where no point coincides with it.
        centres = io.get(f"fps_idx{number}", members[..., 0]).long()
        plans.append(Plan(centres, members))
    return Clouds(io["points"], plans=tuple(plans))


def _replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    top = max(key for key in io if key.startswith("mask.level"))
    order = torch.arange(io[top].shape[1]) / io[top].shape[1]  # visible rows in ascending order
    return Batch({"point": clouds_of(io)}), {"point": io[top] + order}


PYRAMID_RULES = (
    Rule(r"h_encoder\.token_embed\.(\d+)\.first_conv\.(\d+\.\w+)", (r"encoder.embeds.\1.points.\2",)),
    Rule(r"h_encoder\.token_embed\.(\d+)\.second_conv\.(\d+\.\w+)", (r"encoder.embeds.\1.groups.\2",)),
    Rule(r"h_encoder\.encoder_pos_embeds\.(\d+)\.0\.(weight|bias)", (r"encoder.positions.\1.fc1.\2",)),
    Rule(r"h_encoder\.encoder_pos_embeds\.(\d+)\.2\.(weight|bias)", (r"encoder.positions.\1.fc2.\2",)),
    Rule(rf"h_encoder\.encoder_blocks\.(\d+)\.blocks\.{BLOCK}", (r"encoder.trunks.\1.blocks.\2",)),
    Rule(r"h_encoder\.encoder_norms\.(\d+)\.(weight|bias)", (r"encoder.trunks.\1.norm.\2",)),
    Rule(r"mask_token", (f"{DECODER}.mask_token",), split=lambda token: (token[None],)),
    Rule(r"decoder_pos_embeds\.(\d+)\.0\.(weight|bias)", (rf"{DECODER}.positions.\1.fc1.\2",)),
    Rule(r"decoder_pos_embeds\.(\d+)\.2\.(weight|bias)", (rf"{DECODER}.positions.\1.fc2.\2",)),
    Rule(rf"h_decoder\.(\d+)\.blocks\.{BLOCK}", (rf"{DECODER}.trunks.\1.blocks.\2",)),
    Rule(r"token_prop\.(\d+)\.fuse\.net\.(\d+\.\w+)", (rf"{DECODER}.propagation.\1.fuse.\2",)),
    Rule(r"token_prop\.(\d+)\.extraction\.operation\.0\.net1\.(\d+\.\w+)", (rf"{DECODER}.propagation.\1.first.\2",)),
    Rule(r"token_prop\.(\d+)\.extraction\.operation\.0\.net2\.(\d+\.\w+)", (rf"{DECODER}.propagation.\1.second.\2",)),
    Rule(
        r"token_prop\.(\d+)\.extraction\.operation\.(\d+)\.net1\.(\d+\.\w+)",
        (rf"{DECODER}.propagation.\1.further.\2.first.\3",),
    ),
    Rule(
        r"token_prop\.(\d+)\.extraction\.operation\.(\d+)\.net2\.(\d+\.\w+)",
        (rf"{DECODER}.propagation.\1.further.\2.second.\3",),
    ),
    # Of two stages; more stages are never published.
    Rule(r"decoder_norm\.(weight|bias)", (rf"{DECODER}.trunks.1.norm.\1",)),
    Rule(r"cls_head_finetune\..*", (), note="the classifier, left out"),
    Rule(r"norm\.(weight|bias)", (r"encoder.norm.\1",)),  # of a classifier
)

# Published fine-tuning: attention within a ball round each centre, a fresh norm behind the coarsest level.
CLASSIFIER = ClassifierOptions(
    head="mlp",
    smoothing=0.0,
    clip=10.0,
    encoder={"radius": [0.32, 0.64, 1.28], "norm": "last"},
    no_weight_decay=("encoder.embeds.*",),
)

POINT_M2AE = Official(
    method="point_m2ae",
    modality="point",
    overrides=_overrides,
    replay=_replay,
    rules=(
        *PYRAMID_RULES,
        Rule(r"rec_head\.weight", (f"{POINTS}.head.weight",), split=lambda weight: (weight[..., 0],)),
        Rule(r"rec_head\.bias", (f"{POINTS}.head.bias",)),
    ),
    classifiers={
        "modelnet40": replace(CLASSIFIER, pool="mean+max", smoothing=0.3),
        "scanobjectnn": replace(CLASSIFIER, pool="mean,max_rest"),
    },
    svm=LinearProbe(pool="mean+max", strengths={"ModelNet40": 0.012, "ScanObjectNN OBJ-BG": 0.042}),
)
