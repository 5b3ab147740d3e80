"""What the recorded tensors of SparK (ResNet, ConvNeXt) are in our terms."""

from dataclasses import replace

import torch
from torch import Tensor

from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import ForwardContext, Latent, Query, Rows, levels
from tests.parity.vectors import Folder, Pair, close, equal, gradient_pairs

# Recorded inputs and randomness, and a step on the way to a stage that is compared.
ELSEWHERE = r"inp|mask_noise|enc\.downsample_layers\.\d"


def spark(folder: Folder) -> dict[str, Pair]:
    method, io = folder.load(), folder.io
    batch, draws = folder.replay()
    out = method(batch, draws=draws)
    out.loss.backward()
    mask = out.masks["image"]
    everywhere = {"image": replace(mask, queries={"main": Query(Rows.all(*mask.hidden.shape))})}
    stages = maps(out.latents["image"], "enc.", [key for key in io if key.startswith("enc.") and "down" not in key])
    changed = folder.official.keys({key.removeprefix("post."): value for key, value in io.items() if "post." in key})
    state = method.state_dict()
    pairs = {
        "active_b1ff": equal(~mask.hidden, io["active_b1ff"].flatten(1)),
        "mask_idx_keep": equal(mask.visible.index, io["mask_idx_keep"]),
        "loss": near(folder, "loss", out.loss),
        **{key: near(folder, key, value) for key, value in stages.items()},
        **decoded(folder, out.latents["image"]),
        **predicted(folder, batch, everywhere),
        **recorded_gradients(folder, method),
        **gradient_pairs(folder, method, folder.gradients()),
    }
    for key, name in zip((k for k in io if k.startswith("post.")), changed, strict=True):
        pairs[key] = close(state[name], io[key])
    return pairs | evaluated(folder, batch, draws)


def near(folder: Folder, key: str, ours: Tensor) -> Pair:
    """At ten times what the official code itself moves between float32 and float64."""
    return close(ours, folder.io[key], max(1e-5, 10 * folder.meta["float32_vs_float64_max_rel"].get(key, 0.0)))


def maps(latent: Latent, prefix: str, keys: list[str]) -> dict[str, Tensor]:
    """The pyramid's maps (B, C, h, w), zero where nothing is seen, by the recorded stage of the same size."""
    found = {}
    for level, key in zip(levels(latent), sorted(keys, reverse=True), strict=True):
        h, w = level.layout.grid
        found[key] = level.rows.scatter(level.features, h * w).transpose(1, 2).unflatten(2, (h, w))
    return found


@torch.no_grad()
def decoded(folder: Folder, latent: Latent) -> dict[str, Pair]:
    """What was recorded on the way through the decoder, in training mode."""
    decoder = folder.load().train().readouts["main"].decoder
    pairs, projected = {}, []
    for i, (scale, one) in enumerate(zip(decoder.scales, levels(latent), strict=True)):
        h, w = one.layout.grid
        normed = scale.norm(one.features.flatten(0, 1)).view_as(one.features)
        projected.append(scale(one))
        if f"densify_norms.{i}" in folder.io:
            whole = one.rows.scatter(normed, h * w).transpose(1, 2).unflatten(2, (h, w))
            pairs[f"densify_norms.{i}"] = near(folder, f"densify_norms.{i}", whole)
        pairs[f"densify_projs.{i}"] = near(folder, f"densify_projs.{i}", projected[-1])
    x = 0
    for i, block in enumerate(decoder.blocks):
        x = block(x + projected[i] if i < len(projected) else x)
        if f"dec.{i}" in folder.io:
            pairs[f"dec.{i}"] = near(folder, f"dec.{i}", x)
    pairs["rec_bchw"] = near(folder, "rec_bchw", decoder.out(x))
    return pairs


@torch.no_grad()
def predicted(folder: Folder, batch, mask: dict) -> dict[str, Pair]:
    """Target and error of every patch, and the prediction put together again."""
    method = folder.load()
    ctx = ForwardContext(batch, method.tokenizer.tokenize_views(batch.views), masks=mask)
    _, predictions = method.predict(ctx.tokens, mask)
    (objective, view, query), *_ = method.prediction_tasks(mask).values()
    truth = objective.target(ctx, view, query).values
    error = objective.loss(predictions["pixels"], truth)
    picture = method.tokenizer.untokenize(predictions["pixels"])
    return {
        "target": near(folder, "target", truth),
        "per_patch_l2": near(folder, "per_patch_l2", error),
        "rec_bchw of all patches": close(
            picture, folder.io["rec_bchw"], 10 * folder.meta["float32_vs_float64_max_rel"]["rec_bchw"]
        ),
    }


def recorded_gradients(folder: Folder, method: MaskedAutoencoder) -> dict[str, Pair]:
    """The few gradients that io.safetensors holds too, by their keys there."""
    ours, pairs = dict(method.named_parameters()), {}
    for key, value in folder.io.items():
        if key.startswith("grad."):
            ((name, recorded),) = folder.official.keys({key.removeprefix("grad."): value}).items()
            pairs[key] = close(ours[name].grad, recorded, folder.gradient_tolerance)
    return pairs


@torch.no_grad()
def evaluated(folder: Folder, batch, draws: dict) -> dict[str, Pair]:
    method = folder.load().eval()
    out = method(batch, draws=draws)
    key = next(key for key in folder.io if key.startswith("eval.enc."))
    coarsest = replace(out.latents["image"], finer=None)
    return {
        "eval.loss": near(folder, "eval.loss", out.loss),
        **{key: near(folder, key, value) for key, value in maps(coarsest, "eval.enc.", [key]).items()},
    }
