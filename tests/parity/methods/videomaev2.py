"""The recorded tensors of VideoMAE V2 in our terms."""

import numpy as np
import torch

from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, Mask, Rows
from modalities.video.methods.videomae import TubeMasker
from modalities.video.methods.videomaev2 import running_cell
from tests.parity.pixels import OPTIONS, all_rows, answered, ask, backward
from tests.parity.vectors import Folder, Method, Pair, WeightComparison, close

# Inputs, block outputs and other steps on the way, and what belongs to fine-tuning.
ELSEWHERE = r"video|tokens|visible_tokens|encoder_block\d+|decoder_input|decoder_block\d+|ft_.*"
# The card: rounding in the nearly flat corner moves the target by up to 1e-4.
FLAT = 1e-4


def compare(folder: Folder) -> dict[str, Pair]:
    method = folder.load()
    batch, draws = folder.replay()
    out = backward(method, batch, draws)
    mask, grid = out.masks["video"], method.tokenizer.grid
    rows = mask.queries["main"].rows
    _, _, everything = ask(method, batch, {"video": answered(mask, all_rows(mask))})

    compared = WeightComparison(folder)
    masks = {"encoder_mask": mask.hidden, "decoder_mask": ~rows.to_mask(mask.hidden.shape[1])}
    masks["running_cell_all_maps"] = running_cell(method.masker.left_out, grid)
    for key, ours in masks.items():
        if key in folder.io:
            compared.equal(key, ours.view(folder.io[key].shape))
    seeded_tube(compared, grid)
    compared.close("encoder_pos_embed", method.encoder.embed.positions(None, grid))
    compared.close("decoder_pos_embed", method.readouts["main"].decoder.positions(None, grid))
    compared.close("encoder_latent", out.latents["video"].features)
    compared.close("prediction", out.predictions["pixels"])
    compared.close("target", out.targets["pixels"].values, absolute=FLAT)
    compared.close("target_all", everything, absolute=FLAT)
    compared.equal("loss_mask", out.targets["pixels"].weight)
    compared.close("loss", out.loss)
    compared.gradients(method, "grad_")

    every_hidden_cube(compared, method, batch, mask)
    return compared.pairs


def every_hidden_cube(compared: WeightComparison, method: MaskedAutoencoder, batch: Batch, mask: Mask) -> None:
    """`full_*`: VideoMAE's own objective, without the second mask."""
    folder = compared.folder
    full = {"video": answered(mask, Rows.from_mask(mask.hidden))}
    method.zero_grad()
    out = method(batch, masks=full)
    out.loss.backward()
    compared.close("full_prediction", out.predictions["pixels"])
    compared.close("full_loss", out.loss)

    key = "full_grad_patch_embed_weight"
    if key in folder.io:
        ((name, recorded),) = folder.located({"encoder.patch_embed.proj.weight": folder.io[key]}).items()
        gradient = method.get_parameter(name).grad
        compared.pairs[key] = close(gradient, recorded, folder.gradient_tolerance)

    raw = folder.load()
    raw.readouts["main"].objectives["pixels"].target.per = "none"
    compared.close("full_loss_raw_pixels", raw(batch, masks=full).loss)


def seeded_tube(compared: WeightComparison, grid: tuple[int, ...]) -> None:
    """The official generator shuffles zeros and ones with NumPy's seed; our masker takes its shuffle for noise."""
    io, settings = compared.folder.io, compared.folder.settings
    if "tube_mask_seeded" not in io:
        return
    cells = io["tube_mask_seeded"].shape[1]
    hidden = int(settings["mask_ratio"] * cells)
    row = np.hstack([np.zeros(cells - hidden), np.ones(hidden)])
    np.random.seed(settings["tube_seed"])
    np.random.shuffle(row)
    tube = TubeMasker(settings["mask_ratio"]).tube(torch.from_numpy(row)[None], grid[0])
    compared.equal("tube_mask_seeded", tube.view(io["tube_mask_seeded"].shape))


METHODS = (Method(folder="videomaev2", compare=compare, elsewhere=ELSEWHERE, options=OPTIONS),)
