"""Spatiotemporal MAE: official checkpoints (facebookresearch/mae_st), pre-trained or fine-tuned.

Its parts are the generic ones. Options of mae_st's `MaskedAutoencoderViT` and `VisionTransformer`:
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
from typing import Any

from torch import Tensor

from core.errors import UserError
from core.interop import (
    CLASSIFIER_RULES,
    HEADS,
    Official,
    Rule,
    State,
    assume,
    block_overrides,
    flat_kernel,
    raw_pixels,
    table_grid,
    trunk_overrides,
)
from core.tokens import Batch

STATISTICS = (0.45,), (0.225,)  # mean and spread of all channels
TRUNK = "method.encoder.trunk"
DECODER = "readouts.main.decoder"
PIXELS = "readouts.main.objectives.pixels"


def _overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    if len(patch) != 3:
        raise UserError(f"patch_embed.proj cuts patches of {patch}: those of clips have three axes.")
    grid = _grid(state, settings, patch)
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
        mean, std = STATISTICS
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


def _grid(state: State, settings: Mapping[str, Any], patch: list[int]) -> tuple[int, int, int]:
    """Time slots, rows and columns of patches."""
    if "pos_embed_spatial" in state:
        cells = table_grid(state["pos_embed_spatial"].shape[1], patch[1:], settings, "pos_embed_spatial")
        return state["pos_embed_temporal"].shape[1], *cells

    rows = state["pos_embed"].shape[1] - ("cls_token" in state)
    frames = settings.get("num_frames")
    if frames is None:
        frames = 16
        assume("num_frames", frames, "Joint positions do not show how many frames there were.")
    slots = frames // patch[0]
    if not slots or rows % slots:
        raise UserError(
            f"pos_embed has {rows} places, which are not {slots} slots in time ({frames} frames, {patch[0]} a "
            "patch): pass meta={num_frames: …}."
        )

    return slots, *table_grid(rows // slots, patch[1:], settings, "pos_embed")


def _replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    return Batch({"video": raw_pixels(io["video"], *STATISTICS)}), {"video": io["noise"]}


def _joint_table(x: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (1, 1 + N, D) -> those of the cls token and of the patches."""
    return x[:, :1], x[:, 1:]


def _rules(ours: str, positions: str, prefix: str) -> tuple[Rule, ...]:
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
        Rule(rf"{prefix}pos_embed", joint, split=_joint_table, requires="cls_token"),
        Rule(rf"{prefix}pos_embed", (f"{positions}.table",)),
    )


ST_MAE = Official(
    method="st_mae",
    modality="video",
    overrides=_overrides,
    replay=_replay,
    rules=(
        *CLASSIFIER_RULES,
        *_rules("encoder", "encoder.embed.positions", ""),
        *_rules(DECODER, f"{DECODER}.positions", "decoder_"),
        Rule(r"patch_embed\.proj\.weight", ("encoder.embed.proj.weight",), split=flat_kernel),
        Rule(r"patch_embed\.proj\.bias", ("encoder.embed.proj.bias",)),
        Rule(r"mask_token", (f"{DECODER}.mask_token",)),
        Rule(r"decoder_embed\.(weight|bias)", (rf"{DECODER}.project.\1",)),
        Rule(r"decoder_pred\.(weight|bias)", (rf"{PIXELS}.head.\1",)),
    ),
)
