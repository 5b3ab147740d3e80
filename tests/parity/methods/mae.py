"""What the recorded tensors of MAE are in our terms."""

import torch
from torch import Tensor

from core.embeddings import resize_table
from core.engine.optim import parameter_groups
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, Mask
from tests.parity.pixels import OPTIONS, all_rows, answered, ask, backward
from tests.parity.vectors import Folder, Method, Pair, WeightComparison, close, part

# Inputs and randomness, block outputs and other steps on the way, and what belongs to fine-tuning.
ELSEWHERE = r"imgs|(train\.)?noise|patch_tokens|encoder_.*|decoder_(embed|input|block\d+|norm)(_out)?|(vit|probe)\..*"


def compare(folder: Folder) -> dict[str, Pair]:
    method = folder.load()
    batch, draws = folder.replay()
    out = backward(method, batch, draws)
    mask, latent = out.masks["image"], out.latents["image"]
    everywhere = answered(mask, all_rows(mask))
    ctx, prediction, truth = ask(method, batch, {"image": everywhere})
    other = folder.load({"norm_pix_loss": not folder.settings.get("norm_pix_loss", True)})

    compared = WeightComparison(folder)
    compared.equal("mask", mask.hidden)
    compared.close("latent", torch.cat([latent.cls[:, None], latent.features], 1))
    compared.close("pred", prediction)
    compared.close("patches", method.encoder.embed.normalise(ctx.tokens["image"].content).flatten(2))
    compared.close("target", truth)
    compared.close("loss", out.loss)
    compared.close("loss_float64", out.loss)
    compared.close("loss_other_target", other(batch, draws=draws).loss)
    compared.close("loss_per_patch", (prediction - truth).square().mean(2))
    compared.close("unpatchified_pred", method.tokenizer.untokenize(prediction))
    compared.gradients(method, "grad.")

    permutations(compared, mask)
    interpolated(compared, method)
    trained(compared, batch)
    return compared.pairs


def permutations(compared: WeightComparison, mask: Mask) -> None:
    """Of the recorded permutations a mask has the part that concerns visible tokens, in their order."""
    io, visible = compared.folder.io, mask.visible.index
    if "ids_shuffle" in io:
        rest = io["ids_shuffle"][:, visible.shape[1] :]
        compared.equal("ids_shuffle", torch.cat([visible, rest], 1))
    if "ids_restore" in io:
        ranks = torch.arange(visible.shape[1]).expand_as(visible)
        restore = torch.where(mask.hidden, io["ids_restore"], torch.zeros_like(io["ids_restore"]))
        compared.equal("ids_restore", restore.scatter(1, visible, ranks))


def interpolated(compared: WeightComparison, method: MaskedAutoencoder) -> None:
    """MAE's table on another square grid; its first row, that of cls, stays."""
    if "pos_embed_interpolated" not in compared.folder.io:
        return
    side = round((compared.folder.io["pos_embed_interpolated"].shape[1] - 1) ** 0.5)
    positions, cls = method.encoder.embed.positions, method.encoder.cls.position
    table = resize_table(positions.full(), positions.grid, (side, side))
    compared.close("pos_embed_interpolated", torch.cat([cls[0], table])[None])


def trained(compared: WeightComparison, batch: Batch) -> None:
    """The recorded optimiser steps: every loss, and the values after them."""
    folder = compared.folder
    if "train.losses" not in folder.io:
        return
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
    compared.pairs["train.losses"] = close(torch.stack(losses), folder.io["train.losses"])

    ours = dict(method.named_parameters())
    for key in [key for key in folder.io if key.startswith("train.final.")]:
        official = key.removeprefix("train.final.")
        for name, recorded in folder.located({official: folder.io[key]}).items():
            compared.pairs[key] = after_update(ours[name].detach(), recorded, is_token=official.endswith("_token"))


def after_update(ours: Tensor, recorded: Tensor, is_token: bool) -> Pair:
    """The folder's figures: tokens within 1e-5; elsewhere 99 % of elements, isolated ones within 1e-4."""
    allowed = torch.full(recorded.shape, 1e-5, dtype=torch.double)
    distance = (ours - recorded).abs()
    if not is_token and (distance > 1e-5).double().mean() <= 0.01:
        allowed = allowed.masked_fill(distance > 1e-5, 1e-4)
    return part(ours, recorded, allowed)


METHODS = (Method(folder="mae", compare=compare, elsewhere=ELSEWHERE, options=OPTIONS),)
