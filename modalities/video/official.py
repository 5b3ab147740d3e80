"""Official video checkpoints: VideoMAE and V2 (MCG-NJU, OpenGVLab), spatiotemporal MAE (facebookresearch/mae_st)."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.interop import HEADS, Official, Rule, State, flat_kernel, raw_pixels, trunk_overrides
from core.tokens import Batch

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ST_MAE_STATISTICS = (0.45,), (0.225,)
DECODER = "readouts.main.decoder"
PIXELS = "readouts.main.objectives.pixels"


def _videomae_overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    dim, channels, *patch = state["encoder.patch_embed.proj.weight"].shape
    side, frames = settings.get("img_size", 224), settings.get("all_frames", 16)
    heads = settings.get("encoder_num_heads")
    overrides = [
        f"modality.size={[frames, side, side]}",
        f"modality.patch={patch}",
        f"modality.channels={channels}",
        f"method.encoder.trunk.dim={dim}",
        *trunk_overrides(state, "method.encoder.trunk", "encoder.blocks", dim, heads, HEADS),
        f"method.masker.ratio={settings.get('mask_ratio', 0.9)}",
    ]
    if "encoder_to_decoder.weight" in state:
        node, width = f"method.{DECODER}", state["encoder_to_decoder.weight"].shape[0]
        published = {192: 3, 384: 6, 512: 8, 640: 8}
        heads = settings.get("decoder_num_heads")
        overrides.append(f"{node}.dim={width}")
        overrides += trunk_overrides(state, f"{node}.trunk", "decoder.blocks", width, heads, published)
    return overrides


def _v2_overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    ratio = settings.get("decoder_mask_ratio", 0.5)
    return [*_videomae_overrides(state, settings), f"method.masker.decoder_ratio={ratio}"]


def _v2_replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    # The official target un-normalises in float32 by this very product and sum: the raw pixels are those.
    clip = raw_pixels(io["video"], *IMAGENET, dtype=torch.float32)
    draws = {"cells": io["encoder_mask"][:, 0].float()}
    if "running_cell_all_maps" in io:
        maps = io["running_cell_all_maps"].flatten(1)
        draws["phase"] = (io["decoder_mask"].flatten(1)[:, None] == maps).all(2).to(torch.uint8).argmax(1)
    return Batch({"video": clip}), {"video": draws}


_BLOCK = (
    r"(\d+\.(?:norm[12]\.(?:weight|bias)|attn\.(?:qkv\.weight|q_bias|v_bias|scale|proj\.(?:weight|bias))"
    r"|mlp\.fc[12]\.(?:weight|bias)))"
)
_VIDEOMAE_RULES = (
    Rule(r"mask_token", (f"{DECODER}.mask_token",)),
    Rule(r"encoder\.patch_embed\.proj\.weight", ("encoder.embed.proj.weight",), flat_kernel),
    Rule(r"encoder\.patch_embed\.proj\.bias", ("encoder.embed.proj.bias",)),
    Rule(rf"encoder\.blocks\.{_BLOCK}", (r"encoder.trunk.blocks.\1",)),
    Rule(r"encoder\.blocks\.(\d+)\.gamma_([12])", (r"encoder.trunk.blocks.\1.scale\2.gamma",)),
    Rule(r"encoder\.norm\.(weight|bias)", (r"encoder.trunk.norm.\1",)),
    Rule(r"encoder_to_decoder\.weight", (f"{DECODER}.project.weight",)),
    Rule(rf"decoder\.blocks\.{_BLOCK}", (rf"{DECODER}.trunk.blocks.\1",)),
    Rule(r"decoder\.blocks\.(\d+)\.gamma_([12])", (rf"{DECODER}.trunk.blocks.\1.scale\2.gamma",)),
    Rule(r"decoder\.norm\.(weight|bias)", (rf"{DECODER}.trunk.norm.\1",)),
    Rule(r"decoder\.head\.(weight|bias)", (rf"{PIXELS}.head.\1",)),
)
VIDEOMAE = Official("videomae", "video", _VIDEOMAE_RULES, _videomae_overrides)
VIDEOMAE_V2 = Official("videomaev2", "video", _VIDEOMAE_RULES, _v2_overrides, _v2_replay)


def _st_overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    slots, cells = _st_grid(state, settings, patch[0])
    side = isqrt(cells)
    if side * side != cells:
        raise UserError(f"Position tables of {cells} places are no square; this checkpoint's input size is not known.")
    overrides = [
        f"modality.size={[slots * patch[0], side * patch[1], side * patch[2]]}",
        f"modality.patch={patch}",
        f"modality.channels={channels}",
        f"method.encoder.trunk.dim={dim}",
        *trunk_overrides(state, "method.encoder.trunk", "blocks", dim, settings.get("num_heads"), HEADS),
        f"method.masker.ratio={settings.get('mask_ratio', 0.9)}",
    ]
    node = f"method.{DECODER}"
    if "pos_embed" in state:
        kind = "_target_=core.embeddings.Learned"
        overrides += [f"method.encoder.embed.positions.{kind}", f"{node}.positions.{kind}"]
    if "cls_token" not in state:
        overrides += ["method.encoder.cls=null", f"{node}.cls=null"]
    if not settings.get("norm_pix_loss", True):
        overrides.append(f"method.{PIXELS}.target.per=none")
    if "decoder_embed.weight" in state:
        width, heads = state["decoder_embed.weight"].shape[0], settings.get("decoder_num_heads")
        frames = state["decoder_pred.weight"].shape[0] // (patch[1] * patch[2] * channels)
        overrides += [f"{node}.dim={width}", f"method.{PIXELS}.target.per_slot={frames}"]
        overrides += trunk_overrides(state, f"{node}.trunk", "decoder_blocks", width, heads, {512: 16})
    return overrides


def _st_grid(state: State, settings: Mapping[str, Any], depth: int) -> tuple[int, int]:
    """Time slots and cells of space."""
    if "pos_embed_spatial" in state:
        return state["pos_embed_temporal"].shape[1], state["pos_embed_spatial"].shape[1]
    slots = settings.get("num_frames", 16) // depth
    return slots, (state["pos_embed"].shape[1] - ("cls_token" in state)) // slots


def _st_replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    return Batch({"video": raw_pixels(io["video"], *ST_MAE_STATISTICS)}), {"video": io["noise"]}


def _joint_table(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :1], x[:, 1:]


def _st_rules(ours: str, positions: str, prefix: str) -> tuple[Rule, ...]:
    """Rules of one of the two transformers, whose official names start with `prefix`."""
    rest = r"(norm[12]\.(?:weight|bias)|attn\.proj\.(?:weight|bias)|mlp\.fc[12]\.(?:weight|bias))"
    cls, block = f"{ours}.cls", rf"{prefix}blocks\.(\d+)"
    return (
        *(
            Rule(rf"{block}\.attn\.{name}\.(weight|bias)", (rf"{ours}.trunk.blocks.\1.attn.qkv.\2#{part}",))
            for part, name in enumerate("qkv")
        ),
        Rule(rf"{block}\.{rest}", (rf"{ours}.trunk.blocks.\1.\2",)),
        Rule(rf"{prefix}norm\.(weight|bias)", (rf"{ours}.trunk.norm.\1",)),
        Rule(rf"{prefix}cls_token", (f"{cls}.token",)),
        Rule(rf"{prefix}pos_embed_class", (f"{cls}.position",)),
        Rule(rf"{prefix}pos_embed_spatial", (f"{positions}.spatial",)),
        Rule(rf"{prefix}pos_embed_temporal", (f"{positions}.temporal",)),
        Rule(rf"{prefix}pos_embed", (f"{cls}.position", f"{positions}.table"), _joint_table, given="cls_token"),
        Rule(rf"{prefix}pos_embed", (f"{positions}.table",)),
    )


ST_MAE = Official(
    method="st_mae",
    modality="video",
    overrides=_st_overrides,
    replay=_st_replay,
    rules=(
        *_st_rules("encoder", "encoder.embed.positions", ""),
        *_st_rules(DECODER, f"{DECODER}.positions", "decoder_"),
        Rule(r"patch_embed\.proj\.weight", ("encoder.embed.proj.weight",), flat_kernel),
        Rule(r"patch_embed\.proj\.bias", ("encoder.embed.proj.bias",)),
        Rule(r"mask_token", (f"{DECODER}.mask_token",)),
        Rule(r"decoder_embed\.(weight|bias)", (rf"{DECODER}.project.\1",)),
        Rule(r"decoder_pred\.(weight|bias)", (rf"{PIXELS}.head.\1",)),
    ),
)
