"""SAE, VAE, stacked autoencoders: everything visible, a bottleneck, objectives on the latent itself."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from core.decoders import Decoder
from core.encoder import Encoder
from core.losses import mse
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Objective, Readout
from core.tokens import EncoderInput, Latent, Query
from tests.contracts.stress.parts import tight
from tests.contracts.toys import Raw, Zeros, image_batch, patches, run

VALUES, ATOMS, KEEP = 4, 32, 3


class Whole(Decoder):
    """A linear map of the code of every row."""

    def __init__(self, width: int):
        super().__init__()
        self.dim, self.linear = VALUES, nn.Linear(width, VALUES)

    def forward(self, latent: Latent, layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        said = latent.rows.scatter(self.linear(latent.features), layout.count)
        return {name: query.rows.gather(said) for name, query in queries.items()}


class TopK(Encoder):
    """The `KEEP · rows` largest activations of the whole batch; those before the choice are a tap."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(VALUES, ATOMS)
        self.embed_dim, self.depth = ATOMS, 1

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        before = torch.relu(self.linear(seen.content.flatten(2)))
        rows = before.shape[0] * before.shape[1]
        least = before.flatten().topk(KEEP * rows).values[-1]
        return Latent(before * (before >= least), seen.layout, seen.rows, taps={"before": before})


def size(prediction: Tensor, values: Tensor) -> Tensor:
    """Σ |z| of each row: (B, M)."""
    return prediction.abs().sum(-1)


def sparse_autoencoder() -> MaskedAutoencoder:
    rebuilt = Objective(Raw(VALUES), mse, queries=["visible"])
    sparse = Objective(Zeros(), size, queries=["visible"], weight=0.01)
    readouts = {
        "main": Readout(Whole(ATOMS), {"rebuilt": rebuilt}),
        "code": Readout(None, {"sparse": sparse}, tap="before"),
    }
    return MaskedAutoencoder(patches(), RandomMasker(0.0), TopK(), readouts)


def test_a_sparse_code_of_everything():
    method, batch = sparse_autoencoder(), image_batch(3)
    out = run(method, batch)
    code = out.latents["image"].features
    assert not out.masks["image"].hidden.any() and code.shape == (3, 16, ATOMS)
    assert (code > 0).sum() == KEEP * 3 * 16
    before = out.masks["image"].visible.gather(out.latents["image"].taps["before"])
    assert torch.allclose(out.terms["sparse"], before.sum(-1).mean(), atol=1e-5)
    assert torch.allclose(out.loss, out.terms["rebuilt"] + 0.01 * out.terms["sparse"])


class Variational(Encoder):
    """A sample of N(μ, σ²) for each row; μ and log σ² side by side are a tap."""

    def __init__(self, width: int = 2):
        super().__init__()
        self.linear = nn.Linear(VALUES, 2 * width)
        self.embed_dim, self.depth = width, 1

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        moments = self.linear(seen.content.flatten(2))
        mean, log_variance = moments.chunk(2, -1)
        noise = torch.randn_like(mean) if self.training else 0.0
        return Latent(mean + (log_variance / 2).exp() * noise, seen.layout, seen.rows, taps={"moments": moments})


def divergence(prediction: Tensor, values: Tensor) -> Tensor:
    """KL to N(0, 1) of each row: (B, M)."""
    mean, log_variance = prediction.chunk(2, -1)
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(-1)


def vae() -> MaskedAutoencoder:
    rebuilt = Objective(Raw(VALUES), mse, queries=["visible"])
    normal = Objective(Zeros(), divergence, queries=["visible"], weight=0.1)
    readouts = {"main": Readout(Whole(2), {"rebuilt": rebuilt}), "code": Readout(None, {"kl": normal}, tap="moments")}
    return MaskedAutoencoder(patches(), RandomMasker(0.0), Variational(), readouts)


def test_a_code_that_is_drawn():
    method, batch = vae(), image_batch(3)
    out = run(method, batch)
    assert out.terms["kl"] > 0 and out.latents["image"].features.shape[-1] == 2
    torch.manual_seed(1)
    first = method(batch, mask=out.masks).loss
    torch.manual_seed(1)
    assert torch.equal(first, method(batch, mask=out.masks).loss)
    assert not torch.equal(first, method(batch, mask=out.masks).loss)
    tight(method, batch)


class Stack(Encoder):
    """Layers trained one after another: those below the one in training stand still."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(VALUES, 3), nn.Linear(3, 2)])
        self.embed_dim, self.depth = 2, 2

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        x = torch.tanh(self.layers[0](seen.content.flatten(2)))
        return Latent(torch.tanh(self.layers[1](x)), seen.layout, seen.rows, taps={"layer0": x})


@pytest.mark.parametrize("stage", [0, 1])
def test_one_layer_after_the_other(stage):
    rebuilt = Objective(Raw(VALUES), mse, nn.Linear(3 - stage, VALUES), queries=["visible"])
    encoder = Stack()
    encoder.layers[0].requires_grad_(stage == 0)
    readout = Readout(None, {"rebuilt": rebuilt}, tap="layer0" if stage == 0 else None)
    method = MaskedAutoencoder(patches(), RandomMasker(0.0), encoder, {"main": readout})
    run(method, image_batch(3), idle=["encoder.layers.1"] if stage == 0 else [])
    assert (encoder.layers[0].weight.grad is None) == (stage == 1)
