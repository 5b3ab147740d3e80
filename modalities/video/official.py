"""Official checkpoints of VideoMAE (MCG-NJU), VideoMAE V2 (OpenGVLab), st-MAE (facebookresearch/mae_st).

Pre-trained, fine-tuned or distilled. Options of VideoMAE's `PretrainVisionTransformer` and
`VisionTransformer`:
- of the tensors: patch_size, tubelet_size, in_chans, embed_dim, depth, mlp_ratio, qkv_bias, init_values,
  cos_attn, decoder_embed_dim, decoder_depth, use_mean_pooling (fc_norm is the last norm, else norm),
  use_learnable_pos_emb of classifiers;
- of `meta`: encoder_num_heads, decoder_num_heads, num_heads (else published widths), norm_layer (LayerNorm's
  eps), drop_path_rate;
- of `meta`, the saved command line or the published recipe: img_size, one number or two (224), all_frames
  (16), normlize_target (true), mask_ratio (0.9), decoder_mask_ratio (0.5);
- no number changes by use_checkpoint, with_cp;
- left out with a note: num_classes (head);
- refused: use_learnable_pos_emb of the pre-training class (a row more than patches, the official code cannot
  run it), encoder_num_classes, encoder_in_chans with a decoder of three, qk_scale, drop_rate, attn_drop_rate,
  norms other than LayerNorm.

Options of mae_st's `MaskedAutoencoderViT` and `VisionTransformer`:
- of the tensors: patch_size, t_patch_size, in_chans, embed_dim, depth, mlp_ratio, no_qkv_bias, sep_pos_embed,
  cls_embed, pred_t_dim, decoder_embed_dim, decoder_depth; img_size of squares, and num_frames where
  positions are separable;
- of `meta` or the saved command line: num_frames where they are not (else 16), num_heads, decoder_num_heads
  (else published widths), norm_layer (LayerNorm's eps), drop_path_rate, norm_pix_loss (else true), mask_ratio
  (else 0.9);
- no number changes by trunc_init (initial values);
- left out with a note: num_classes (head), dropout before it;
- refused: qk_scale, drop_rate, attn_drop_rate, norms other than LayerNorm.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.interop import (
    HEADS,
    Official,
    Rule,
    State,
    block_overrides,
    channel_overrides,
    flat_kernel,
    image_size,
    raw_pixels,
    table_grid,
    trunk_overrides,
)
from core.tokens import Batch

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ST_MAE_STATISTICS = (0.45,), (0.225,)
TRUNK = "method.encoder.trunk"
DECODER = "readouts.main.decoder"
PIXELS = "readouts.main.objectives.pixels"

# Of fine-tuned models. Official classifiers put fc_norm behind the mean of all tokens, an encoder before it.
_CLASSIFIER_RULES = (
    Rule(r"head\..*", (), note="the classifier, left out"),
    Rule(
        r"fc_norm\.(weight|bias)",
        (r"encoder.trunk.norm.\1",),
        note="read as the encoder's last norm, of every token; the classifier normalised their mean",
    ),
    Rule(r"(?:encoder\.)?norm\.(weight|bias)", (), requires="fc_norm.weight", note="left out, fc_norm stands for it"),
)


def _videomae_overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    if "encoder.head.weight" in state:
        raise UserError("encoder.head: a linear layer behind the encoder (encoder_num_classes) is not offered.")

    # Fine-tuned and distilled files name the encoder's tensors without prefix.
    state = {key.removeprefix("encoder."): value for key, value in state.items()}
    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    heads = settings.get("encoder_num_heads") or settings.get("num_heads")
    overrides = [
        f"modality.size={_clip_size(state, settings, patch)}",
        f"modality.patch={patch}",
        *channel_overrides(channels),
        f"{TRUNK}.dim={dim}",
        *trunk_overrides(state, TRUNK, "blocks", dim, heads, HEADS),
        *block_overrides(settings, TRUNK, f"method.{DECODER}.trunk"),
        f"method.masker.ratio={settings.get('mask_ratio', 0.9)}",
    ]

    if "pos_embed" in state:
        overrides.append("method.encoder.embed.positions._target_=core.embeddings.Learned")
    if not settings.get("normlize_target", True):
        overrides.append(f"method.{PIXELS}.target.per=none")
    if "encoder_to_decoder.weight" in state:
        overrides += _videomae_decoder(state, settings, channels * prod(patch))
    return overrides


def _videomae_decoder(state: State, settings: Mapping[str, Any], values: int) -> list[str]:
    """Overrides of the decoder, whose patches hold that many values."""
    predicted = state["decoder.head.weight"].shape[0]
    if predicted != values:
        raise UserError(
            f"decoder.head predicts {predicted} values for patches of {values}: another number of channels "
            "going in (encoder_in_chans) than coming out is not offered; load the encoder alone."
        )

    node, width = f"method.{DECODER}", state["encoder_to_decoder.weight"].shape[0]
    heads = settings.get("decoder_num_heads")
    published = {192: 3, 384: 6, 512: 8, 640: 8}  # heads by width
    trunk = trunk_overrides(state, f"{node}.trunk", "decoder.blocks", width, heads, published)
    return [f"{node}.dim={width}", *trunk]


def _clip_size(state: State, settings: Mapping[str, Any], patch: list[int]) -> list[int]:
    """Frames, height and width: of the settings, as fixed positions have no tensors; learned ones must fit.

    Raises: UserError where patches do not divide the size, or learned positions have another number of rows.
    """
    frames = settings.get("all_frames") or settings.get("num_frames") or 16
    size = [frames, *(image_size(settings) or (224, 224))]
    if any(n % p or n < p for n, p in zip(size, patch, strict=True)):
        raise UserError(
            f"Patches of {patch} do not divide clips of {size}, which the checkpoint's tensors do not show: "
            "pass meta={all_frames: …, img_size: [height, width]}."
        )
    if "pos_embed" not in state:
        return size

    rows, slots = state["pos_embed"].shape[1], frames // patch[0]
    if rows == 1 + prod(n // p for n, p in zip(size, patch, strict=True)):
        raise UserError(
            "encoder.pos_embed: learned positions of the pre-training class (use_learnable_pos_emb) have a row "
            "more than there are patches, with which the official code itself does not run: they are not read."
        )
    if rows % slots:
        raise UserError(f"pos_embed has {rows} rows, which are not {slots} slots in time: pass meta={{all_frames: …}}.")

    h, w = table_grid(rows // slots, patch[1:], settings, "pos_embed")
    return [frames, h * patch[1], w * patch[2]]


def _v2_overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    ratio = settings.get("decoder_mask_ratio", 0.5)
    return [*_videomae_overrides(state, settings), f"method.masker.decoder_ratio={ratio}"]


def _v2_replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    """The recorded clip, tube and phase of the running cell."""
    # The official target un-normalises in float32 by this very product and sum: the raw pixels are those.
    clip = raw_pixels(io["video"], *IMAGENET, dtype=torch.float32)
    draws = {"cells": io["encoder_mask"][:, 0].float()}

    # A sample's phase is the number of the map that its decoder mask equals.
    if "running_cell_all_maps" in io:
        maps = io["running_cell_all_maps"].flatten(1)
        equal = (io["decoder_mask"].flatten(1)[:, None] == maps).all(2)
        draws["phase"] = equal.to(torch.uint8).argmax(1)

    return Batch({"video": clip}), {"video": draws}


_BLOCK = (
    r"(\d+\.(?:norm[12]\.(?:weight|bias)|attn\.(?:qkv\.weight|q_bias|v_bias|scale|proj\.(?:weight|bias))"
    r"|mlp\.fc[12]\.(?:weight|bias)))"
)
_VIDEOMAE_RULES = (
    *_CLASSIFIER_RULES,
    Rule(r"encoder\.head\.(weight|bias)", ()),  # refused by name
    Rule(r"mask_token", (f"{DECODER}.mask_token",)),
    Rule(r"(?:encoder\.)?patch_embed\.proj\.weight", ("encoder.embed.proj.weight",), flat_kernel),
    Rule(r"(?:encoder\.)?patch_embed\.proj\.bias", ("encoder.embed.proj.bias",)),
    Rule(r"(?:encoder\.)?pos_embed", ("encoder.embed.positions.table",)),
    Rule(rf"(?:encoder\.)?blocks\.{_BLOCK}", (r"encoder.trunk.blocks.\1",)),
    Rule(r"(?:encoder\.)?blocks\.(\d+)\.gamma_([12])", (r"encoder.trunk.blocks.\1.scale\2.gamma",)),
    Rule(r"(?:encoder\.)?norm\.(weight|bias)", (r"encoder.trunk.norm.\1",)),
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
    grid = _st_grid(state, settings, patch)
    size = [n * p for n, p in zip(grid, patch, strict=True)]
    overrides = [
        f"modality.size={size}",
        f"modality.patch={patch}",
        f"modality.channels={channels}",
        f"{TRUNK}.dim={dim}",
        *trunk_overrides(state, TRUNK, "blocks", dim, settings.get("num_heads"), HEADS),
        *block_overrides(settings, TRUNK, f"method.{DECODER}.trunk"),
        f"method.masker.ratio={settings.get('mask_ratio', 0.9)}",
    ]

    node = f"method.{DECODER}"
    if channels != 3:  # published are one mean and one spread for all channels
        normalise = "method.encoder.embed.normalise"
        mean, std = ST_MAE_STATISTICS
        overrides += [f"{normalise}.mean={[*mean]}", f"{normalise}.std={[*std]}"]
    if "pos_embed" in state:
        kind = "_target_=core.embeddings.Learned"
        overrides += [f"method.encoder.embed.positions.{kind}", f"{node}.positions.{kind}"]
    if "cls_token" not in state:
        overrides += ["method.encoder.cls=null", f"{node}.cls=null"]
    if not settings.get("norm_pix_loss", True):
        overrides.append(f"method.{PIXELS}.target.per=none")

    if "decoder_embed.weight" in state:
        width = state["decoder_embed.weight"].shape[0]
        heads = settings.get("decoder_num_heads")
        overrides += [f"{node}.dim={width}"]
        overrides += trunk_overrides(state, f"{node}.trunk", "decoder_blocks", width, heads, {512: 16})

        # Frames that a row predicts, at most those of its patch (pred_t_dim).
        frames = state["decoder_pred.weight"].shape[0] // (patch[1] * patch[2] * channels)
        overrides.append(f"method.{PIXELS}.target.per_slot={frames}")

    return overrides


def _st_grid(state: State, settings: Mapping[str, Any], patch: list[int]) -> tuple[int, int, int]:
    """Time slots, rows and columns of patches."""
    if "pos_embed_spatial" in state:
        cells = table_grid(state["pos_embed_spatial"].shape[1], patch[1:], settings, "pos_embed_spatial")
        return state["pos_embed_temporal"].shape[1], *cells

    rows = state["pos_embed"].shape[1] - ("cls_token" in state)
    frames = settings.get("num_frames") or 16
    slots = frames // patch[0]
    if not slots or rows % slots:
        raise UserError(
            f"pos_embed has {rows} places, which are not {slots} slots in time ({frames} frames, {patch[0]} a "
            "patch): pass meta={num_frames: …}."
        )

    return slots, *table_grid(rows // slots, patch[1:], settings, "pos_embed")


def _st_replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    return Batch({"video": raw_pixels(io["video"], *ST_MAE_STATISTICS)}), {"video": io["noise"]}


def _joint_table(x: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (1, 1 + N, D) -> those of the cls token and of the patches."""
    return x[:, :1], x[:, 1:]


def _st_rules(ours: str, positions: str, prefix: str) -> tuple[Rule, ...]:
    """Rules of one of the two transformers, whose official names start with `prefix`."""
    rest = r"(norm[12]\.(?:weight|bias)|attn\.proj\.(?:weight|bias)|mlp\.fc[12]\.(?:weight|bias))"
    cls, block = f"{ours}.cls", rf"{prefix}blocks\.(\d+)"
    joint = (f"{cls}.position", f"{positions}.table")

    # Official queries, keys and values are three layers, ours one.
    qkv = []
    for part, name in enumerate("qkv"):
        target = rf"{ours}.trunk.blocks.\1.attn.qkv.\2#{part}"
        qkv.append(Rule(rf"{block}\.attn\.{name}\.(weight|bias)", (target,)))

    return (
        *qkv,
        Rule(rf"{block}\.{rest}", (rf"{ours}.trunk.blocks.\1.\2",)),
        Rule(rf"{prefix}norm\.(weight|bias)", (rf"{ours}.trunk.norm.\1",)),
        Rule(rf"{prefix}cls_token", (f"{cls}.token",)),
        Rule(rf"{prefix}pos_embed_class", (f"{cls}.position",)),
        Rule(rf"{prefix}pos_embed_spatial", (f"{positions}.spatial",)),
        Rule(rf"{prefix}pos_embed_temporal", (f"{positions}.temporal",)),
        Rule(rf"{prefix}pos_embed", joint, _joint_table, requires="cls_token"),
        Rule(rf"{prefix}pos_embed", (f"{positions}.table",)),
    )


ST_MAE = Official(
    method="st_mae",
    modality="video",
    overrides=_st_overrides,
    replay=_st_replay,
    rules=(
        *_CLASSIFIER_RULES,
        *_st_rules("encoder", "encoder.embed.positions", ""),
        *_st_rules(DECODER, f"{DECODER}.positions", "decoder_"),
        Rule(r"patch_embed\.proj\.weight", ("encoder.embed.proj.weight",), flat_kernel),
        Rule(r"patch_embed\.proj\.bias", ("encoder.embed.proj.bias",)),
        Rule(r"mask_token", (f"{DECODER}.mask_token",)),
        Rule(r"decoder_embed\.(weight|bias)", (rf"{DECODER}.project.\1",)),
        Rule(r"decoder_pred\.(weight|bias)", (rf"{PIXELS}.head.\1",)),
    ),
)
