"""VideoMAE V2: two masks and a third set for the loss."""

import torch

from core.embeddings import FlatSinusoid, PatchEmbed
from core.encoder import ViT
from core.losses import mse
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import Pixels
from modalities.video.methods.videomaev2 import DualMasker
from tests.contracts.stress.parts import tight
from tests.contracts.toys import DIM, image_batch, light, normalise, patches, run, trunk

GRID, VALUES = (2, 4, 4), 8


def videomaev2() -> MaskedAutoencoder:
    embed = PatchEmbed(VALUES, DIM, normalise(), FlatSinusoid(GRID, DIM), init="default")
    target = Pixels([2, 2, 2], 1, GRID, per="channel", count="hidden")
    pixels = Objective(target, mse, Head(DIM, VALUES))
    return MaskedAutoencoder(
        patches((4, 8, 8)),
        DualMasker(0.75, 0.5),
        ViT(trunk(), embed),
        {"main": Readout(light(GRID, "mask_token"), {"pixels": pixels})},
    )


def test_a_token_may_be_neither_seen_nor_predicted_and_predicted_without_counting():
    method, batch = videomaev2(), image_batch(3, (4, 8, 8), view="video")
    out = run(method, batch)
    mask, weight = out.masks["video"], out.targets["pixels"].weight
    count = mask.hidden.shape[1]
    seen, asked = mask.visible.to_mask(count), mask.queries["main"].rows.to_mask(count)
    assert (~seen & ~asked).any() and (seen & asked).any() and (~seen & asked).any()
    assert torch.equal(weight.bool(), ~mask.queries["main"].rows.gather(seen))
    error = (out.predictions["pixels"] - out.targets["pixels"].values).square().mean(-1)
    assert torch.allclose(out.loss, error[weight.bool()].mean())
    tight(method, batch)


def test_what_does_not_count_has_no_gradient():
    method, batch = videomaev2(), image_batch(3, (4, 8, 8), view="video")
    out = method(batch, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(out.loss, out.predictions["pixels"])
    counted = out.targets["pixels"].weight.bool()
    assert (gradient[~counted] == 0).all() and (gradient[counted] != 0).any()
