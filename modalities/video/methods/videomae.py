"""VideoMAE: tube masks, and official checkpoints (MCG-NJU/VideoMAE).

Pre-trained, fine-tuned or distilled. Options of VideoMAE's `PretrainVisionTransformer` and
`VisionTransformer`:
- of the tensors: patch_size, tubelet_size, in_chans, embed_dim, depth, mlp_ratio, qkv_bias, init_values,
  cos_attn, decoder_embed_dim, decoder_depth, use_mean_pooling (fc_norm is the last norm, else norm),
  use_learnable_pos_emb of classifiers;
- of `meta`: encoder_num_heads, decoder_num_heads, num_heads (else published widths), norm_layer (LayerNorm's
  eps), drop_path_rate;
- of `meta`, the saved command line or the published recipe: img_size, one number or two (224), all_frames
  (16), normlize_target (true), mask_ratio (0.9);
- no number changes by use_checkpoint, with_cp;
- left out with a note: num_classes (head);
- refused: use_learnable_pos_emb of the pre-training class (a row more than patches, the official code cannot
  run it), encoder_num_classes, encoder_in_chans with a decoder of three, qk_scale, drop_rate, attn_drop_rate,
  norms other than LayerNorm.
"""

import warnings
from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.errors import UserError
from core.huggingface import block_rules, model_options
from core.interop import (
    CLASSIFIER_RULES,
    HEADS,
    Official,
    OtherNames,
    Rule,
    State,
    assume,
    block_overrides,
    channel_overrides,
    flat_kernel,
    image_size,
    table_grid,
    trunk_overrides,
)
from core.maskers import ViewMasker, checked_ratio, uniform
from core.tokens import ForwardContext, Mask, Rows, Tokens

TRUNK = "method.encoder.trunk"
DECODER = "readouts.main.decoder"
PIXELS = "readouts.main.objectives.pixels"
SINUSOIDS = "sinusoids"  # the table of fixed positions, where a file has it


class TubeMasker(ViewMasker):
    """Hides the same spatial cells in every time slot.

    Of S = h·w cells, m = int(ratio · S) are hidden, one draw per sample; visible rows are in raster order.

    Shapes: tokens on a (t, h, w) grid -> visible (B, t · (S − m)), predicted (B, t · m).
    Source: MCG-NJU/VideoMAE.
    """

    requires: ClassVar = {"axes": 3}

    def __init__(self, ratio: float):
        self.ratio = checked_ratio(ratio)

    def draw_view(self, tokens: Tokens, generator: torch.Generator | None, ctx: ForwardContext) -> Tensor:
        _, h, w = tokens.layout.grid
        return uniform((tokens.content.shape[0], h * w), tokens.content.device, generator)

    def mask_view(self, tokens: Tokens, draws: Tensor, ctx: ForwardContext) -> Mask:
        hidden = self.tube(draws, tokens.layout.grid[0])
        return Mask.from_hidden(hidden, count=tokens.layout.grid[0] * int(self.ratio * draws.shape[1]))

    def tube(self, noise: Tensor, slots: int) -> Tensor:
        """Noise per cell (B, S) -> hidden (B, t · S): the cells with the highest noise, in every slot."""
        cells = noise.shape[1]
        visible_cells = cells - int(self.ratio * cells)
        visible = Rows(noise.argsort(dim=1, stable=True)[:, :visible_cells])

        hidden = ~visible.to_mask(cells)
        return hidden.repeat(1, slots)


# Official checkpoints -----------------------------------------------------------------------------


def videomae_overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    if "encoder.head.weight" in state:
        raise UserError("encoder.head: a linear layer behind the encoder (encoder_num_classes) is not offered.")

    # Fine-tuned and distilled files name the encoder's tensors without prefix.
    state = {key.removeprefix("encoder."): value for key, value in state.items()}
    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    if len(patch) != 3:
        raise UserError(f"patch_embed.proj cuts patches of {patch}: those of clips have three axes.")
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

    if settings.get("use_mean_pooling") and "norm.weight" not in state and "fc_norm.weight" not in state:
        overrides.append(f"{TRUNK}.norm=false")
        warnings.warn(
            "The encoder has no last norm (use_mean_pooling, without the classifier's fc_norm).", stacklevel=2
        )
    if "pos_embed" in state:
        overrides.append("method.encoder.embed.positions._target_=core.embeddings.Learned")
    if not settings.get("normlize_target", True):
        overrides.append(f"method.{PIXELS}.target.per=none")
    if "encoder_to_decoder.weight" in state:
        overrides += _decoder(state, settings, channels * prod(patch))
    return overrides


def _decoder(state: State, settings: Mapping[str, Any], values: int) -> list[str]:
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
    """Frames, height and width: of the settings and the table of positions, else as published, with a warning.

    Raises: UserError where patches do not divide the size, or positions have another number of rows.
    """
    frames, area = settings.get("all_frames") or settings.get("num_frames"), image_size(settings)
    table = state.get("pos_embed", state.get(SINUSOIDS))
    if frames is None and area is not None and table is not None:
        frames = patch[0] * (table.shape[1] // prod(n // p for n, p in zip(area, patch[1:], strict=True)))
    if not frames:
        frames = 16
        assume("all_frames", frames, "Tensors do not show how many frames a clip has.")
    if area is None and table is None:
        assume("img_size", 224, "Fixed positions are no tensors of the file: they do not show the size of frames.")

    size = [frames, *(area or (224, 224))]
    if any(n % p or n < p for n, p in zip(size, patch, strict=True)):
        raise UserError(
            f"Patches of {patch} do not divide clips of {size}, which the checkpoint's tensors do not show: "
            "pass meta={all_frames: …, img_size: [height, width]}."
        )
    if table is None:
        return size

    rows, slots = table.shape[1], frames // patch[0]
    if rows == 1 + prod(n // p for n, p in zip(size, patch, strict=True)):
        raise UserError(
            "encoder.pos_embed: learned positions of the pre-training class (use_learnable_pos_emb) have "
            "a row more than there are patches, with which the official code itself does not run: "
            "they are not read."
        )
    if rows % slots:
        fault = f"The table of positions has {rows} rows, which are not {slots} slots in time"
        raise UserError(f"{fault}: pass meta={{all_frames: …}}.")

    h, w = table_grid(rows // slots, patch[1:], settings, "pos_embed")
    return [frames, h * patch[1], w * patch[2]]


_BLOCK = (
    r"(\d+\.(?:norm[12]\.(?:weight|bias)|attn\.(?:qkv\.weight|q_bias|v_bias|scale|proj\.(?:weight|bias))"
    r"|mlp\.fc[12]\.(?:weight|bias)))"
)
VIDEOMAE_RULES = (
    *CLASSIFIER_RULES,
    Rule(SINUSOIDS, ()),  # computed anew
    Rule(r"encoder\.head\.(weight|bias)", ()),  # refused by name
    Rule(r"mask_token", (f"{DECODER}.mask_token",)),
    Rule(r"(?:encoder\.)?patch_embed\.proj\.weight", ("encoder.embed.proj.weight",), split=flat_kernel),
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

_VIDEOMAE = r"(?:videomae\.)?"
TRANSFORMERS = OtherNames(
    "transformers",
    mark=rf"{_VIDEOMAE}embeddings\.patch_embeddings\.projection\.weight",
    options=model_options,
    rules=(
        Rule(rf"{_VIDEOMAE}embeddings\.patch_embeddings\.projection\.(weight|bias)", (r"encoder.patch_embed.proj.\1",)),
        Rule(r"(?:.*\.)?position_embeddings", (SINUSOIDS,), note="left out, they are the fixed sinusoids"),
        *block_rules(rf"{_VIDEOMAE}(?:encoder\.layer|layers)", "encoder.blocks", key_bias=False),
        Rule(rf"{_VIDEOMAE}layernorm\.(weight|bias)", (r"encoder.norm.\1",)),
        Rule(r"(fc_norm\..*)", (r"\1",)),
        Rule(r"classifier\.(weight|bias)", (r"head.\1",)),
        Rule(r"(mask_token|encoder_to_decoder\.weight|decoder\.(?:norm|head)\.\w+)", (r"\1",)),
        *block_rules(r"decoder\.decoder_layers", "decoder.blocks", key_bias=False),
    ),
)

VIDEOMAE = Official(
    method="videomae",
    modality="video",
    overrides=videomae_overrides,
    rules=VIDEOMAE_RULES,
    other_names=(TRANSFORMERS,),
)
