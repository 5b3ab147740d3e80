"""What the recorded tensors of MAE, VideoMAE V2 and spatiotemporal MAE are in our terms."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from core.embeddings import resize_table
from core.engine.optim import parameter_groups
from core.methods.masked_autoencoder import MaskedAutoencoder, Output
from core.tokens import Batch, ForwardContext, Mask, Query, Rows
from modalities.video.masks import TubeMasker, running_cell
from tests.parity.vectors import Folder, Pair, close, equal, gradient_pairs

# Recorded inputs and randomness, block outputs and other steps on the way, and what belongs to fine-tuning.
ELSEWHERE = {
    "mae": r"imgs|(train\.)?noise|patch_tokens|encoder_.*|decoder_(embed|input|block\d+|norm)(_out)?|(vit|probe)\..*",
    "st-mae": r"video|noise|patch_tokens|encoder_input|encoder_block\d+|decoder_input|ft_.*",
    "videomaev2": r"video|tokens|visible_tokens|encoder_block\d+|decoder_input|ft_.*",
}


def mae(folder: Folder) -> dict[str, Pair]:
    method, io = folder.load(), folder.io
    batch, draws = folder.replay()
    out = backward(method, batch, draws)
    everywhere = answered(out.masks["image"], all_rows(out.masks["image"]))
    ctx, prediction, truth = ask(method, batch, {"image": everywhere})
    latent = torch.cat([out.latents["image"].cls[:, None], out.latents["image"].features], 1)
    visible = out.masks["image"].visible.index
    patches = method.encoder.embed.normalise(ctx.tokens["image"].content).flatten(2)
    other = folder.load({"norm_pix_loss": not folder.settings["norm_pix_loss"]})
    pairs = {
        "mask": equal(out.masks["image"].hidden, io["mask"]),
        "ids_shuffle": equal(torch.cat([visible, io["ids_shuffle"][:, visible.shape[1] :]], 1), io["ids_shuffle"]),
        "ids_restore": restored(visible, io),
        "latent": close(latent, io["latent"]),
        "pred": close(prediction, io["pred"]),
        "patches": close(patches, io["patches"]),
        "target": close(truth, io["target"]),
        "loss": close(out.loss, io["loss"], 1e-6),
        "loss_float64": close(out.loss, io["loss_float64"], 1e-6),
        "loss_other_target": close(other(batch, draws=draws).loss, io["loss_other_target"], 1e-6),
        "loss_per_patch": close((prediction - truth).square().mean(2), io["loss_per_patch"]),
        "unpatchified_pred": close(method.tokenizer.untokenize(prediction), io["unpatchified_pred"]),
        **interpolated(method, io),
        **recorded_gradients(folder, method, "grad."),
        **gradient_pairs(folder, method, folder.gradients()),
        **trained(folder, batch),
    }
    return pairs


def st_mae(folder: Folder) -> dict[str, Pair]:
    method, io = folder.load(), folder.io
    batch, draws = folder.replay()
    out = backward(method, batch, draws)
    mask = out.masks["video"]
    _, prediction, truth = ask(method, batch, {"video": answered(mask, all_rows(mask))})
    positions = method.encoder.embed.positions
    raw = folder.load({"norm_pix_loss": not folder.settings["norm_pix_loss"]})
    offsets = method.readouts["main"].objectives["pixels"].target.offsets
    frames = (offsets + torch.arange(len(offsets))[:, None] * method.tokenizer.patch[0]).flatten()
    count = mask.hidden.shape[1]
    hidden = torch.cat([mask.visible.index, io["ids_restore"].argsort(1)[:, mask.visible.count :]], 1)
    return {
        "mask": equal(mask.hidden, io["mask"]),
        "ids_keep": equal(mask.visible.index, io["ids_keep"]),
        "ids_restore": equal(hidden.argsort(1), io["ids_restore"]),
        "encoder_latent": close(out.latents["video"].features, io["encoder_latent"]),
        "prediction": close(prediction, io["prediction"]),
        "target": close(truth, io["target"]),
        "target_frames": equal(frames, io["target_frames"]),
        "pos_embed_full": close(positions(None, positions.grid)[:, :count], io["pos_embed_full"]),
        "loss": close(out.loss, io["loss"], 2e-6),
        "loss_raw": close(raw(batch, draws=draws).loss, io["loss_raw"], 2e-6),
        **recorded_gradients(folder, method, "grad_"),
        **gradient_pairs(folder, method, folder.gradients()),
    }


def videomaev2(folder: Folder) -> dict[str, Pair]:
    method, io = folder.load(), folder.io
    batch, draws = folder.replay()
    out = backward(method, batch, draws)
    mask = out.masks["video"]
    grid = method.tokenizer.grid
    left_out = ~mask.queries["main"].rows.to_mask(mask.hidden.shape[1])
    maps = running_cell(method.masker.left_out, grid)
    pairs = {
        "encoder_mask": equal(mask.hidden, io["encoder_mask"].flatten(1)),
        "decoder_mask": equal(left_out, io["decoder_mask"].flatten(1)),
        "running_cell_all_maps": equal(maps, io["running_cell_all_maps"].flatten(1)),
        "tube_mask_seeded": seeded_tube(folder, grid),
        "encoder_pos_embed": close(method.encoder.embed.positions(None, grid), io["encoder_pos_embed"]),
        "decoder_pos_embed": close(method.readouts["main"].decoder.positions(None, grid), io["decoder_pos_embed"]),
        "encoder_latent": close(out.latents["video"].features, io["encoder_latent"]),
        "prediction": close(out.predictions["pixels"], io["prediction"]),
        # The card: rounding in the nearly flat corner moves the target by up to 1e-4.
        "target": close(out.targets["pixels"].values, io["target"], absolute=1e-4),
        "loss_mask": equal(out.targets["pixels"].weight, io["loss_mask"]),
        "loss": close(out.loss, io["loss"], 2e-6),
        **recorded_gradients(folder, method, "grad_"),
        **gradient_pairs(folder, method, folder.gradients()),
    }
    _, _, everything = ask(method, batch, {"video": answered(mask, all_rows(mask))})
    pairs["target_all"] = close(everything, io["target_all"], absolute=1e-4)
    full = {"video": answered(mask, Rows.from_mask(mask.hidden))}
    method.zero_grad()
    whole = method(batch, mask=full)
    whole.loss.backward()
    raw = folder.load()
    raw.readouts["main"].objectives["pixels"].target.per = "none"
    recorded = folder.official.keys({"encoder.patch_embed.proj.weight": io["full_grad_patch_embed_weight"]})
    return pairs | {
        "full_prediction": close(whole.predictions["pixels"], io["full_prediction"]),
        "full_loss": close(whole.loss, io["full_loss"], 2e-6),
        "full_grad_patch_embed_weight": close(method.encoder.embed.proj.weight.grad, *recorded.values()),
        "full_loss_raw_pixels": close(raw(batch, mask=full).loss, io["full_loss_raw_pixels"], 2e-6),
    }


OUTPUTS: dict[str, Callable[[Folder], dict[str, Pair]]] = {"mae": mae, "st-mae": st_mae, "videomaev2": videomaev2}


def backward(method: MaskedAutoencoder, batch: Batch, draws: dict) -> Output:
    out = method(batch, draws=draws)
    out.loss.backward()
    return out


def restored(visible: Tensor, io: dict[str, Tensor]) -> Pair:
    """Where each kept token stands among the kept ones: the part of the recorded permutation that a mask has."""
    kept = 1 - io["mask"].long()
    place = torch.zeros_like(io["ids_restore"]).scatter(1, visible, torch.arange(visible.shape[1]).expand_as(visible))
    return equal(place * kept, io["ids_restore"] * kept)


def all_rows(mask: Mask) -> Rows:
    return Rows.all(*mask.hidden.shape)


def answered(mask: Mask, rows: Rows) -> Mask:
    return replace(mask, queries={"main": Query(rows)})


@torch.no_grad()
def ask(method: MaskedAutoencoder, batch: Batch, mask: dict[str, Mask]) -> tuple[ForwardContext, Tensor, Tensor]:
    """Prediction and target at the main place of another mask."""
    ctx = ForwardContext(batch, method.tokenizer.tokenize_views(batch.views), masks=mask)
    _, predictions = method.predict(ctx.tokens, mask)
    (objective, view, query), *_ = method.prediction_tasks(mask).values()
    return ctx, predictions["pixels"], objective.target(ctx, view, query).values


def recorded_gradients(folder: Folder, method: MaskedAutoencoder, prefix: str) -> dict[str, Pair]:
    """The few gradients that io.safetensors holds too, by their keys there."""
    same = folder.meta.get("gradients", {}).get("same_as_io", {})
    ours = {name: p.grad for name, p in method.named_parameters()}
    pairs = {}
    for key in folder.io:
        if key.startswith(prefix):
            official = same.get(key, key.removeprefix(prefix))
            ((name, value),) = folder.official.keys({official: folder.io[key]}).items()
            pairs[key] = close(ours[name], value, folder.gradient_tolerance)
    return pairs


def interpolated(method: MaskedAutoencoder, io: dict[str, Tensor]) -> dict[str, Pair]:
    """MAE's table on another square grid; its first row, that of cls, stays."""
    if "pos_embed_interpolated" not in io:
        return {}
    recorded = io["pos_embed_interpolated"]
    side = round((recorded.shape[1] - 1) ** 0.5)
    positions, cls = method.encoder.embed.positions, method.encoder.cls.position
    table = resize_table(positions.full(), positions.grid, (side, side))
    return {"pos_embed_interpolated": close(torch.cat([cls[0], table])[None], recorded)}


def trained(folder: Folder, batch: Batch) -> dict[str, Pair]:
    """The recorded optimiser steps: every loss, and the values after them."""
    if "train.losses" not in folder.io:
        return {}
    method, about = folder.load(), folder.meta["adamw"]
    decay = max(group["weight_decay"] for group in about["weight_decay_groups"])
    groups = parameter_groups(method, decay, frozenset(method.no_weight_decay()))
    optimiser = torch.optim.AdamW(groups, lr=about["lr"], betas=about["betas"], eps=about["eps"])
    losses = []
    for noise in folder.io["train.noise"]:
        optimiser.zero_grad()
        loss = method(batch, draws={"image": noise}).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    pairs = {"train.losses": close(torch.stack(losses), folder.io["train.losses"])}
    ours = dict(method.named_parameters())
    for key, value in folder.io.items():
        if key.startswith("train.final."):
            ((name, recorded),) = folder.official.keys({key.removeprefix("train.final."): value}).items()
            pairs[key] = after_update(ours[name].detach(), recorded)
    return pairs


def after_update(ours: Tensor, recorded: Tensor) -> Pair:
    """The folder's figures: tokens within 1e-5; elsewhere 99 % of elements, isolated ones within 1e-4."""
    allowed = torch.full(recorded.shape, 1e-5, dtype=torch.double)
    if min(recorded.shape) > 1:
        distance = (ours - recorded).abs()
        if (distance > 1e-5).double().mean() <= 0.01:
            allowed = allowed.masked_fill(distance > 1e-5, 1e-4)
    return Pair(ours, recorded, allowed)


def seeded_tube(folder: Folder, grid: tuple[int, ...]) -> Pair:
    """The official generator shuffles zeros and ones with NumPy's seed; our masker takes its shuffle for noise."""
    recorded = folder.io["tube_mask_seeded"]
    cells = recorded.shape[1]
    hidden = int(folder.settings["mask_ratio"] * cells)
    row = np.hstack([np.zeros(cells - hidden), np.ones(hidden)])
    np.random.seed(folder.settings["tube_seed"])
    np.random.shuffle(row)
    ours = TubeMasker(folder.settings["mask_ratio"]).tube(torch.from_numpy(row)[None], grid[0])
    return equal(ours.view(recorded.shape), recorded)
