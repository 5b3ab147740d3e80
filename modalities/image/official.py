"""Official image checkpoints: MAE (facebookresearch/mae)."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from core.interop import HEADS, Official, Rule, State, flat_kernel, raw_pixels, trunk_overrides
from core.tokens import Batch

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DECODER = "readouts.main.decoder"
PIXELS = "readouts.main.objectives.pixels"


def _overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    side = isqrt(state["pos_embed"].shape[1] - 1)
    overrides = [
        f"modality.size={[side * p for p in patch]}",
        f"modality.patch={patch}",
        f"modality.channels={channels}",
        *trunk_overrides(state, "method.encoder.trunk", "blocks", dim, settings.get("num_heads"), HEADS),
        f"method.encoder.trunk.dim={dim}",
        f"method.masker.ratio={settings.get('mask_ratio', 0.75)}",
    ]
    if channels != 3:
        overrides += ["modality.normalise.mean=[0.5]", "modality.normalise.std=[0.5]"]
    if not settings.get("norm_pix_loss", True):
        overrides.append(f"method.{PIXELS}.target.per=none")
    if "decoder_embed.weight" in state:
        node, width, heads = (
            f"method.{DECODER}",
            state["decoder_embed.weight"].shape[0],
            settings.get("decoder_num_heads"),
        )
        overrides.append(f"{node}.dim={width}")
        overrides += trunk_overrides(state, f"{node}.trunk", "decoder_blocks", width, heads, {512: 16})
    return overrides


def _replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    statistics = IMAGENET if io["imgs"].shape[1] == 3 else ((0.5,), (0.5,))
    return Batch({"image": raw_pixels(io["imgs"], *statistics)}), {"image": io["noise"]}


def _table(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :1], x[0, 1:]


_BLOCK = r"(\d+\.(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.(?:weight|bias))"

MAE = Official(
    method="mae",
    modality="image",
    overrides=_overrides,
    replay=_replay,
    rules=(
        Rule(r"cls_token", ("encoder.cls.token",)),
        Rule(r"pos_embed", ("encoder.cls.position", "encoder.embed.positions.table"), _table),
        Rule(r"patch_embed\.proj\.weight", ("encoder.embed.proj.weight",), flat_kernel),
        Rule(r"patch_embed\.proj\.bias", ("encoder.embed.proj.bias",)),
        Rule(rf"blocks\.{_BLOCK}", (r"encoder.trunk.blocks.\1",)),
        Rule(r"norm\.(weight|bias)", (r"encoder.trunk.norm.\1",)),
        Rule(r"mask_token", (f"{DECODER}.mask_token",)),
        Rule(r"decoder_pos_embed", (f"{DECODER}.cls.position", f"{DECODER}.positions.table"), _table),
        Rule(r"decoder_embed\.(weight|bias)", (rf"{DECODER}.project.\1",)),
        Rule(rf"decoder_blocks\.{_BLOCK}", (rf"{DECODER}.trunk.blocks.\1",)),
        Rule(r"decoder_norm\.(weight|bias)", (rf"{DECODER}.trunk.norm.\1",)),
        Rule(r"decoder_pred\.(weight|bias)", (rf"{PIXELS}.head.\1",)),
    ),
)
