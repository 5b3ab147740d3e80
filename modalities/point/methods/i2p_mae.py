"""I2P-MAE: official checkpoints (ZrrSkywalker/I2P-MAE), pre-trained or fine-tuned. Its encoder and decoder are
Point-M2AE's; the image teacher is `modalities.point.teachers`.

Options of its `I2P_MAE`, beside those of Point-M2AE:
- `clip_config`: width and features of the 2D model are read from the tensors `clip_model.visual.*` where the file has
  them; heads (one for each 64 channels) from `meta`: {clip: {heads: 12}}. It becomes the teacher, in float32. Its text
  tower is left out. A file without it gets the untrained teacher with as many features.
- `mask_ratio`: 0.8.

As published, embeddings see hidden groups, and a centre is visible that should not be, as in Point-M2AE. Set
`method.encoder.masking=drop` and `method.masker._target_=core.maskers.SaliencyMasker` to go on training without.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from typing import Any

import torch

from core.interop import LinearProbe, Official, Rule, State
from core.maskers import SaliencyMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, ForwardContext, Mask, Tokens
from modalities.point.image_encoders import TimmPictures, load_timm
from modalities.point.methods.point_m2ae import (
    CLASSIFIER,
    POINTS,
    PYRAMID_RULES,
    clouds_of,
    decoder_overrides,
    pyramid_overrides,
    with_slip,
)
from modalities.point.teachers import DepthViews
from modalities.point.views import AXES

IMAGE = "readouts.main.objectives.image"
CLIP = "clip_model."
VISUAL = f"{CLIP}visual."
NETWORK = "vit_base_patch16_clip_quickgelu_224"  # of timm: the same network as OpenAI's


class PublishedMasker(SaliencyMasker):
    """`SaliencyMasker` with the official code's slip: group 0 of sample 0 is visible at all levels but the coarsest.

    Source: ZrrSkywalker/I2P-MAE.
    """

    def mask_view(self, tokens: Tokens, draws: torch.Tensor, ctx: ForwardContext) -> Mask:
        return with_slip(super().mask_view(tokens, draws, ctx), tokens.layout)


def _overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    masker = "modalities.point.methods.i2p_mae.PublishedMasker"
    overrides = [
        *pyramid_overrides(state, settings),
        *decoder_overrides(state, settings),
        f"method.masker={{_target_: {masker}, ratio: {settings.get('mask_ratio', 0.8)}, scores: saliency}}",
    ]
    if "rec_head_3d.weight" not in state:
        return overrides

    # Members of the level that is predicted, the next to the coarsest.
    members = state["rec_head_3d.weight"].shape[0] // 3
    overrides.append(f"method.{POINTS}.target.members={members}")
    overrides.append(f"method.{IMAGE}.target.members={members}")
    width = state["rec_head_2d.weight"].shape[0] // (len(AXES) * members)
    return [*overrides, *_teacher_overrides(state, settings, width)]


def _teacher_overrides(state: State, settings: Mapping[str, Any], width: int) -> list[str]:
    """Overrides of the image teacher, of `width` features."""
    count, visual = (sum(key.startswith(prefix) for key in state) for prefix in (CLIP, VISUAL))
    if f"{VISUAL}conv1.weight" not in state:
        warnings.warn(
            f"The file holds no 2D model ({count} tensors {CLIP}*): its teacher is untrained. Set "
            f"method.teachers.image.source={NETWORK}.openai method.teachers.image.head=true to go on training.",
            stacklevel=2,
        )
        # As small a network as has so many features.
        shape = {"img_size": 224, "patch_size": 16, "embed_dim": 64, "depth": 1, "num_heads": 1, "num_classes": width}
    else:
        dim, _, patch, _ = state[f"{VISUAL}conv1.weight"].shape
        side = isqrt(state[f"{VISUAL}positional_embedding"].shape[0] - 1)
        shape = {
            "img_size": side * patch,
            "patch_size": patch,
            "embed_dim": dim,
            "depth": sum(key.startswith(f"{VISUAL}transformer.") and key.endswith(".ln_1.weight") for key in state),
            "num_heads": (settings.get("clip") or {}).get("heads") or max(dim // 64, 1),
            "num_classes": width,
        }
        if count > visual:
            warnings.warn(
                f"Of {count} tensors {CLIP}* {visual} are the 2D model, a teacher and no part of the encoder; "
                f"{count - visual} are left out (its text tower).",
                stacklevel=2,
            )
    node = f"source: {NETWORK}, weights: random, head: true, settings: {json.dumps(shape)}"
    return [f"method.teachers.image={{_target_: modalities.point.teachers.DepthViews, {node}}}"]


def _load_teacher(method: MaskedAutoencoder, state: State) -> None:
    """Loads the 2D model that the file holds."""
    visual = {}
    for key, value in state.items():
        if key.startswith(VISUAL):
            visual[key.removeprefix(CLIP)] = value
    if not visual:
        return

    teacher = method.teachers["image"]
    assert isinstance(teacher, DepthViews) and isinstance(teacher.encoder, TimmPictures), "overrides make it so"
    load_timm(teacher.encoder.network, visual, VISUAL)


def _replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    # Draws e are such that e / p ascends in the recorded order.
    ranks = io["ids_shuffle"].argsort(1) + 1.0
    probabilities = io.get("spatial_softmax", torch.ones_like(ranks))
    return Batch({"point": clouds_of(io)}), {"point": ranks * probabilities}


I2P_MAE = Official(
    method="i2p_mae",
    modality="point",
    overrides=_overrides,
    replay=_replay,
    load_teachers=_load_teacher,
    rules=(
        *PYRAMID_RULES,
        Rule(r"rec_head_3d\.weight", (f"{POINTS}.head.weight",), split=lambda weight: (weight[..., 0],)),
        Rule(r"rec_head_3d\.bias", (f"{POINTS}.head.bias",)),
        Rule(r"rec_head_2d\.weight", (f"{IMAGE}.head.weight",), split=lambda weight: (weight[..., 0],)),
        Rule(r"rec_head_2d\.bias", (f"{IMAGE}.head.bias",)),
        Rule(r"clip_model\..*", ()),
    ),
    classifiers={
        "modelnet40": replace(
            CLASSIFIER, pool="mean+max", smoothing=0.2, encoder={"radius": [0.24, 0.48, 0.96], "norm": "last"}
        ),
        "scanobjectnn": replace(CLASSIFIER, pool="mean,max"),
        "scanobjectnn_hardest": replace(
            CLASSIFIER, pool="mean,max", encoder={"radius": [0.48, 0.96, 1.92], "norm": "last"}
        ),
    },
    svm=LinearProbe(pool="max", strengths={"ModelNet40": 0.0093, "ScanObjectNN OBJ-BG": 0.018}),
)
