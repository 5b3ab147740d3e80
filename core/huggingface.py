"""Checkpoints of `transformers`: names of a ViT's tensors, up to version 4 and from 5 on, and options."""

from collections.abc import Mapping
from typing import Any

from core.errors import UserError
from core.interop import Rule

# Parts of a block: names up to version 4, from 5 on, and timm's, which official code shares.
PARTS = (
    (r"attention\.output\.dense", r"attention\.o_proj", "attn.proj"),
    (r"intermediate\.dense", r"mlp\.fc1", "mlp.fc1"),
    (r"output\.dense", r"mlp\.fc2", "mlp.fc2"),
    (r"layernorm_before", r"layernorm_before", "norm1"),
    (r"layernorm_after", r"layernorm_after", "norm2"),
)
PROJECTIONS = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))


def block_rules(theirs: str, ours: str, key_bias: bool) -> tuple[Rule, ...]:
    """Rules of the blocks `{theirs}.<i>.…`, to the official `{ours}.<i>.…`: separate projections are joined.

    `key_bias`: official code has one bias of queries, keys and values (MAE), else one each of queries and
    values (VideoMAE).
    """
    rules = []
    for number, (old, new) in enumerate(PROJECTIONS):
        name = rf"{theirs}\.(\d+)\.attention\.(?:attention\.{old}|{new})"
        rules.append(Rule(rf"{name}\.weight", (rf"{ours}.\1.attn.qkv.weight#{number}",)))
        if key_bias:
            rules.append(Rule(rf"{name}\.bias", (rf"{ours}.\1.attn.qkv.bias#{number}",)))
        elif old != "key":
            letter = old[0]
            bias = (
                rf"{theirs}\.(\d+)\.attention\.(?:attention\.(?:{old}\.bias|{letter}_bias)|{new}\.bias|{letter}_bias)"
            )
            rules.append(Rule(bias, (rf"{ours}.\1.attn.{letter}_bias",)))

    for old, new, name in PARTS:
        rules.append(Rule(rf"{theirs}\.(\d+)\.(?:{old}|{new})\.(weight|bias)", (rf"{ours}.\1.{name}.\2",)))
    return tuple(rules)


def model_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of official constructors, of a model's config.json; without one, its default norms.

    Raises: UserError for other activations than GELU.
    """
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise UserError(f"config.json: hidden_act={activation!r} is not offered, GELU is.")

    names = {
        "num_attention_heads": ("num_heads", "encoder_num_heads"),
        "decoder_num_attention_heads": ("decoder_num_heads",),
        "image_size": ("img_size",),
        "num_frames": ("all_frames",),
        "mask_ratio": ("mask_ratio",),
        "norm_pix_loss": ("norm_pix_loss", "normlize_target"),
    }
    options: dict[str, Any] = {
        "norm_layer": f"LayerNorm(eps={config.get('layer_norm_eps', 1e-12)})",
        "use_mean_pooling": config.get("use_mean_pooling", True),  # of videos
    }
    for theirs, ours in names.items():
        if theirs in config:
            options |= dict.fromkeys(ours, config[theirs])
    return options
