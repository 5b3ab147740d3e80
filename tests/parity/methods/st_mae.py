"""What the recorded tensors of spatiotemporal MAE are in our terms."""

import torch

from tests.parity.pixels import OPTIONS, all_rows, answered, ask, backward
from tests.parity.vectors import Folder, Method, Pair, WeightComparison

# Inputs and randomness, block outputs and other steps on the way, and what belongs to fine-tuning.
ELSEWHERE = r"video|noise|patch_tokens|encoder_input|encoder_block\d+|decoder_input|decoder_block\d+|ft_.*"


def compare(folder: Folder) -> dict[str, Pair]:
    method, io = folder.load(), folder.io
    batch, draws = folder.replay()
    out = backward(method, batch, draws)
    mask = out.masks["video"]
    _, prediction, truth = ask(method, batch, {"video": answered(mask, all_rows(mask))})
    positions = method.encoder.embed.positions
    raw = folder.load({"norm_pix_loss": False})

    compared = WeightComparison(folder)
    compared.equal("mask", mask.hidden)
    compared.equal("ids_keep", mask.visible.index)
    if "ids_restore" in io:
        order = torch.cat([mask.visible.index, io["ids_restore"].argsort(1)[:, mask.visible.count :]], 1)
        compared.equal("ids_restore", order.argsort(1))
    compared.close("encoder_latent", out.latents["video"].features)
    compared.close("prediction", prediction)
    compared.close("target", truth)
    compared.equal("target_frames", target_frames(method))
    compared.close("pos_embed_full", positions(None, positions.grid)[:, : mask.hidden.shape[1]])
    compared.close("loss", out.loss)
    compared.close("loss_raw", raw(batch, draws=draws).loss)
    compared.gradients(method, "grad_")
    return compared.pairs


def target_frames(method) -> torch.Tensor:
    """Numbers of the frames that are predicted."""
    target, depth = method.readouts["main"].objectives["pixels"].target, method.tokenizer.patch[0]
    if target.per_slot is None:
        return torch.arange(depth * target.grid[0])
    first = torch.arange(len(target.offsets))[:, None] * depth
    return (target.offsets + first).flatten()


METHODS = (Method(folder="st-mae", compare=compare, elsewhere=ELSEWHERE, options=OPTIONS),)
