"""What the recorded tensors of SparK (ResNet, ConvNeXt) are in our terms."""

from dataclasses import replace

import torch
from torch import Tensor

from core.tokens import Batch, ForwardContext, Latent, Query, Rows, levels
from tests.parity.vectors import Folder, Method, Pair, WeightComparison, close

# Inputs and randomness, and a step on the way to a stage that is compared.
ELSEWHERE = r"inp|mask_noise|(eval\.)?enc\.downsample_layers\.\d"


def compare(folder: Folder) -> dict[str, Pair]:
    method = folder.load()
    batch, draws = folder.replay()
    out = method(batch, draws=draws)
    out.loss.backward()
    mask = out.masks["image"]

    compared = WeightComparison(folder)
    if "active_b1ff" in folder.io:
        compared.equal("active_b1ff", ~mask.hidden.view(folder.io["active_b1ff"].shape))
    compared.equal("mask_idx_keep", mask.visible.index)
    compared.close("loss", out.loss)
    stages(compared, out.latents["image"], "enc.")
    decoded(compared, out.latents["image"])
    predicted(compared, batch, {"image": replace(mask, queries={"main": Query(Rows.all(*mask.hidden.shape))})})
    compared.gradients(method, "grad.")
    compared.updated("post.", method.state_dict())

    evaluated(compared, batch, draws)
    return compared.pairs


def stages(compared: WeightComparison, latent: Latent, prefix: str) -> None:
    """The pyramid's maps (B, C, h, w), zero where nothing is seen, beside the recorded stage of the same size."""
    maps = {level.layout.grid: dense(level, level.features) for level in levels(latent)}
    for key in list(compared.folder.io):
        if key.startswith(prefix) and "downsample" not in key:
            compared.close(key, maps[tuple(compared.folder.io[key].shape[2:])])


def dense(level: Latent, features: Tensor) -> Tensor:
    """Features (B, V, C) of visible cells as a map (B, C, h, w)."""
    h, w = level.layout.grid
    return level.rows.scatter(features, h * w).transpose(1, 2).unflatten(2, (h, w))


@torch.no_grad()
def decoded(compared: WeightComparison, latent: Latent) -> None:
    """What was recorded on the way through the decoder, in training mode."""
    decoder = compared.folder.load().train().readouts["main"].decoder

    projected = []
    for i, (scale, level) in enumerate(zip(decoder.scales, levels(latent), strict=True)):
        normed = scale.norm(level.features.flatten(0, 1)).view_as(level.features)
        projected.append(scale(level))
        compared.close(f"densify_norms.{i}", dense(level, normed))
        compared.close(f"densify_projs.{i}", projected[-1])

    x = 0
    for i, block in enumerate(decoder.blocks):
        x = block(x + projected[i] if i < len(projected) else x)
        compared.close(f"dec.{i}", x)
    compared.close("rec_bchw", decoder.out(x))


@torch.no_grad()
def predicted(compared: WeightComparison, batch: Batch, mask: dict) -> None:
    """Target and error of every patch, and the prediction put together again."""
    folder = compared.folder
    method = folder.load()
    ctx = ForwardContext(batch, method.tokenizer.tokenize_views(batch.views), masks=mask)
    _, predictions = method.predict(ctx.tokens, mask)
    (objective, view, query), *_ = method.prediction_tasks(mask).values()
    truth = objective.target(ctx, view, query).values

    compared.close("target", truth)
    compared.close("per_patch_l2", objective.loss(predictions["pixels"], truth))
    if "rec_bchw" in folder.io:
        picture = method.tokenizer.untokenize(predictions["pixels"])
        pair = close(picture, folder.io["rec_bchw"], folder.tolerance("rec_bchw"))
        compared.pairs["rec_bchw of all patches"] = pair


@torch.no_grad()
def evaluated(compared: WeightComparison, batch: Batch, draws: dict) -> None:
    out = compared.folder.load().eval()(batch, draws=draws)
    compared.close("eval.loss", out.loss)
    stages(compared, out.latents["image"], "eval.enc.")


# The coarsest map of a network as wide as the decoder needs no projection.
OPTIONS = frozenset({"Identity", "Bottleneck", "BasicBlock"})
SHARED = {"compare": compare, "elsewhere": ELSEWHERE, "official": "spark", "options": OPTIONS}
METHODS = (
    Method(folder="spark-resnet", config=("method.encoder.backbone=resnet50", "size=small"), **SHARED),
    Method(folder="spark-convnext", config=("method.encoder.backbone=convnext_small", "size=small"), **SHARED),
)
