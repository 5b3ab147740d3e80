"""What the recorded tensors of Point-MAE are in our terms."""

import torch
from torch import Tensor

from core.losses import chamfer
from core.maskers import NeighbourhoodMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import ForwardContext
from modalities.point.clouds import Clouds
from tests.parity.pixels import backward
from tests.parity.points import after_step, gradients_in_eval_mode, sets
from tests.parity.vectors import Folder, Method, Pair, WeightComparison

# Inputs and randomness, block outputs and other steps on the way, and what belongs to fine-tuning.
ELSEWHERE = (
    r"points|block\.start|(eval\.)?grad_norm_total|dec_(block\d+|in|out|pos)|eval\.dec_out|enc_block\d+|pos_vis"
    r"|dist_.*|finetune.*"
)


def compare(folder: Folder) -> dict[str, Pair]:
    method = folder.load().train()
    batch, draws = folder.replay()
    compared = WeightComparison(folder)
    embedded(compared, "", folder.load().train())
    embedded(compared, "eval.", folder.load().eval())
    groups(compared, method)

    out = backward(method, batch, draws)
    mask, prediction = out.masks["point"], out.predictions["points"]
    compared.equal("mask", mask.hidden)
    compared.close("latent", out.latents["point"].features)
    compared.close("pred", sets(prediction))
    compared.close("target", out.targets["points"].values.flatten(0, 1))
    compared.close("loss", out.loss)
    compared.close("loss_float64", out.loss)
    compared.close("loss_cdl1", chamfer(prediction, out.targets["points"].values, squared=False).mean())
    compared.updated("post.", method.state_dict())
    compared.gradients(method, "grad.")
    if "block.mask" in folder.io:
        compared.equal("block.mask", block_mask(folder, method))

    eval_method = folder.load().eval()
    out = backward(eval_method, batch, draws)
    compared.close("eval.latent", out.latents["point"].features)
    compared.close("eval.pred", sets(out.predictions["points"]))
    compared.close("eval.loss", out.loss)
    gradients_in_eval_mode(compared, eval_method)
    after_step(compared)
    return compared.pairs


def groups(compared: WeightComparison, method: MaskedAutoencoder) -> None:
    """Centres, members and their indices, of a plan made anew."""
    clouds = Clouds(compared.folder.io["points"])
    (plan,) = method.tokenizer.grouping(clouds)
    compared.equal("fps_idx", plan.centres)
    compared.equal("knn_idx", plan.members)
    tokens = method.tokenizer(clouds)
    compared.close("center", tokens.layout.coords)
    compared.close("neighborhood", tokens.content)


@torch.no_grad()
def embedded(compared: WeightComparison, prefix: str, method: MaskedAutoencoder) -> None:
    tokens = method.tokenizer(compared.folder.replay()[0].views["point"])
    compared.close(f"{prefix}tokens", method.encoder.embed(tokens.unmasked()))


def block_mask(folder: Folder, method: MaskedAutoencoder) -> Tensor:
    """The groups nearest to the recorded one, of `block.start`."""
    batch, _ = folder.replay()
    tokens = method.tokenizer(batch.views["point"])
    masker = NeighbourhoodMasker(method.masker.ratio)
    draws = (folder.io["block.start"] + 0.5) / tokens.layout.count
    return masker.mask_view(tokens, draws, ForwardContext(batch, {"point": tokens})).hidden


METHODS = (Method(folder="point-mae", compare=compare, elsewhere=ELSEWHERE),)
