"""MAE: official checkpoints (facebookresearch/mae), pre-trained or fine-tuned. Its
parts are the generic ones.

Options of its `MaskedAutoencoderViT` and of its classifier `VisionTransformer`:
- of the tensors: patch_size, in_chans, embed_dim, depth, mlp_ratio, qkv_bias, decoder_embed_dim, decoder_depth,
  img_size of squares, global_pool (fc_norm is the last norm, else norm);
- of `meta`: num_heads and decoder_num_heads (else published widths), img_size of others than squares (the official
  class takes none), norm_layer (LayerNorm's eps), drop_path_rate;
- of `meta`, the saved command line or the published recipe: norm_pix_loss (true), mask_ratio (0.75);
- left out with a note: num_classes (head), representation_size;
- refused: hybrid_backbone, qk_scale, drop_rate, attn_drop_rate, norms other than LayerNorm.

timm's ViTs have the same names. Those of transformers (ViTMAE, ViT) are read too.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from core.errors import UserError
from core.huggingface import block_rules, model_options
from core.interop import (
    CLASSIFIER_RULES,
    HEADS,
    IMAGENET,
    Official,
    OtherNames,
    Rule,
    State,
    block_overrides,
    channel_overrides,
    flat_kernel,
    raw_pixels,
    table_grid,
    trunk_overrides,
)
from core.tokens import Batch

TRUNK = "method.encoder.trunk"
DECODER = "readouts.main.decoder"
PIXELS = "readouts.main.objectives.pixels"


def _overrides(state: State, settings: Mapping[str, Any]) -> list[str]:
    if any(key.startswith("patch_embed.backbone.") for key in state):
        raise UserError("patch_embed.backbone: a network before the patches (hybrid_backbone) is not offered.")

    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    if len(patch) != 2:
        raise UserError(f"patch_embed.proj cuts patches of {patch}: those of pictures have two axes.")
    grid = table_grid(state["pos_embed"].shape[1] - 1, patch, settings, "pos_embed")
    overrides = [
        f"modality.size={[n * p for n, p in zip(grid, patch, strict=True)]}",
        f"modality.patch={patch}",
        *channel_overrides(channels),
        f"{TRUNK}.dim={dim}",
        *trunk_overrides(state, TRUNK, "blocks", dim, settings.get("num_heads"), HEADS),
        *block_overrides(settings, TRUNK, f"method.{DECODER}.trunk"),
        f"method.masker.ratio={settings.get('mask_ratio', 0.75)}",
    ]

    if not settings.get("norm_pix_loss", True):
        overrides.append(f"method.{PIXELS}.target.per=none")
    if "decoder_embed.weight" in state:
        node, width = f"method.{DECODER}", state["decoder_embed.weight"].shape[0]
        heads = settings.get("decoder_num_heads")
        overrides.append(f"{node}.dim={width}")
        overrides += trunk_overrides(state, f"{node}.trunk", "decoder_blocks", width, heads, {512: 16})
    return overrides


def _replay(io: State, settings: Mapping[str, Any]) -> tuple[Batch, dict]:
    statistics = IMAGENET if io["imgs"].shape[1] == 3 else ((0.5,), (0.5,))
    return Batch({"image": raw_pixels(io["imgs"], *statistics)}), {"image": io["noise"]}


def _table(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :1], x[0, 1:]


_BLOCK = r"(\d+\.(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.(?:weight|bias))"

_VIT = r"(?:vit\.)?"
# ViTMAE with and without its decoder, ViT with its classifier.
TRANSFORMERS = OtherNames(
    "transformers",
    mark=rf"{_VIT}embeddings\.patch_embeddings\.projection\.weight",
    options=model_options,
    rules=(
        Rule(rf"{_VIT}embeddings\.cls_token", ("cls_token",)),
        Rule(rf"{_VIT}embeddings\.position_embeddings", ("pos_embed",)),
        Rule(rf"{_VIT}embeddings\.patch_embeddings\.projection\.(weight|bias)", (r"patch_embed.proj.\1",)),
        Rule(rf"{_VIT}embeddings\.mask_token", (), note="left out, nothing is masked by it"),
        *block_rules(rf"{_VIT}(?:encoder\.layer|layers)", "blocks", key_bias=True),
        Rule(rf"{_VIT}layernorm\.(weight|bias)", (r"norm.\1",)),
        Rule(rf"{_VIT}pooler\..*", (), note="left out, the encoder has no pooler"),
        Rule(r"classifier\.(weight|bias)", (r"head.\1",)),
        Rule(r"decoder\.(mask_token)", (r"\1",)),
        Rule(r"decoder\.(decoder_(?:pos_embed|embed\.\w+|norm\.\w+|pred\.\w+))", (r"\1",)),
        *block_rules(r"decoder\.decoder_layers", "decoder_blocks", key_bias=True),
    ),
)

MAE = Official(
    method="mae",
    modality="image",
    overrides=_overrides,
    replay=_replay,
    other_names=(TRANSFORMERS,),
    rules=(
        *CLASSIFIER_RULES,
        Rule(r"pre_logits\..*", (), note="the classifier, left out"),
        Rule(r"patch_embed\.backbone\..*", ()),  # refused by name
        Rule(r"cls_token", ("encoder.cls.token",)),
        Rule(r"pos_embed", ("encoder.cls.position", "encoder.embed.positions.table"), split=_table),
        Rule(r"patch_embed\.proj\.weight", ("encoder.embed.proj.weight",), split=flat_kernel),
        Rule(r"patch_embed\.proj\.bias", ("encoder.embed.proj.bias",)),
        Rule(rf"blocks\.{_BLOCK}", (r"encoder.trunk.blocks.\1",)),
        Rule(r"norm\.(weight|bias)", (r"encoder.trunk.norm.\1",)),
        Rule(r"mask_token", (f"{DECODER}.mask_token",)),
        Rule(r"decoder_pos_embed", (f"{DECODER}.cls.position", f"{DECODER}.positions.table"), split=_table),
        Rule(r"decoder_embed\.(weight|bias)", (rf"{DECODER}.project.\1",)),
        Rule(rf"decoder_blocks\.{_BLOCK}", (rf"{DECODER}.trunk.blocks.\1",)),
        Rule(r"decoder_norm\.(weight|bias)", (rf"{DECODER}.trunk.norm.\1",)),
        Rule(r"decoder_pred\.(weight|bias)", (rf"{PIXELS}.head.\1",)),
    ),
)
