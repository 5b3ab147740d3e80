"""SparK: convolutions that keep the structure and return a pyramid; a dense decoder; no leak by growth."""

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
from core.targets import Pixels
from core.tokenizers import Patchify
from core.tokens import EncoderInput, Latent, Layout, Query, levels
from tests.contracts.firewall import Leak, growth
from tests.contracts.stress.parts import tight
from tests.contracts.toys import image_batch, normalise, patches, run

PATCH, WIDTHS = 4, (12, 8)  # coarsest first


class ActiveNorm(nn.Module):
    """Batch normalisation over active positions alone; `dense` counts the others too (a planted leak)."""

    def __init__(self, dim: int, dense: bool = False):
        super().__init__()
        self.norm, self.dense = nn.BatchNorm1d(dim), dense

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        active = torch.ones_like(active) if self.dense else active
        rows = x.movedim(1, -1)
        return rows.new_zeros(rows.shape).masked_scatter(active, self.norm(rows[active[..., 0]])).movedim(-1, 1)


class SparseConvolutions(Encoder):
    """Patches put back into an image, then two strided stages; everything is zero where nothing is seen."""

    masking = "replace"

    def __init__(self, dense_norm: bool = False):
        super().__init__()
        self.normalise = normalise()
        self.stem, self.down = nn.Conv2d(1, WIDTHS[1], 3, 2, 1), nn.Conv2d(WIDTHS[1], WIDTHS[0], 3, 2, 1)
        self.norms = nn.ModuleList(ActiveNorm(width, dense_norm) for width in WIDTHS)
        self.embed_dim, self.depth = WIDTHS[0], 2

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        grid = seen.layout.grid
        erased = torch.zeros(seen.content.shape[:2], dtype=torch.bool) if seen.erased is None else seen.erased
        active = ~erased.unflatten(1, grid)
        content = self.normalise(seen.content).masked_fill(erased[..., None, None, None], 0)
        x = Patchify([PATCH] * 2, [n * PATCH for n in grid], 1).untokenize(content)
        fine = self.stage(self.stem(x), active, 2, 1)
        coarse = self.stage(self.down(fine), active, 1, 0)
        return self.latent(coarse, self.latent(fine))

    def stage(self, x: Tensor, active: Tensor, times: int, level: int) -> Tensor:
        active = active.repeat_interleave(times, 1).repeat_interleave(times, 2)[..., None]
        return torch.relu(self.norms[level](x * active.movedim(-1, 1), active)) * active.movedim(-1, 1)

    @staticmethod
    def latent(x: Tensor, finer: Latent | None = None) -> Latent:
        layout = Layout(x[0, 0].numel(), tuple(x.shape[2:]))
        return Latent(x.flatten(2).transpose(1, 2), layout, None, finer=finer)


class SparKDecoder(Decoder):
    """A mask token per scale; ends with its output convolution, then gathers the patches that are asked for."""

    dim = PATCH * PATCH

    def __init__(self):
        super().__init__()
        self.mask_tokens = nn.ParameterList(torch.randn(1, width, 1, 1) * 0.02 for width in WIDTHS)
        self.project = nn.ModuleList(nn.Conv2d(width, 8, 3, padding=1) for width in WIDTHS)
        self.up = nn.ModuleList(nn.ConvTranspose2d(8, 8, 2, 2) for _ in WIDTHS)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, latent: Latent, layout: Layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        x = 0
        for level, one in enumerate(levels(latent)):
            features = one.features.transpose(1, 2).unflatten(2, one.layout.grid)
            empty = (features == 0).all(1, keepdim=True)
            x = self.up[level](x + self.project[level](torch.where(empty, self.mask_tokens[level], features)))
        dense = Patchify([PATCH] * 2, x.shape[2:], 1)(self.out(x)).content.flatten(2)
        return {name: query.rows_in(layout, dense).gather(dense) for name, query in queries.items()}


def spark(dense_norm: bool = False) -> MaskedAutoencoder:
    target = Pixels([PATCH, PATCH], 1, (4, 4), normalise(), per="patch")
    readout = Readout(SparKDecoder(), {"pixels": Objective(target, mse)})
    encoder = SparseConvolutions(dense_norm)
    return MaskedAutoencoder(patches((16, 16), PATCH), RandomMasker(0.6), encoder, {"main": readout})


def test_a_pyramid_that_is_zero_where_nothing_is_seen():
    method, batch = spark(), image_batch(3, (16, 16))
    out = run(method, batch)
    hidden = out.masks["image"].hidden.unflatten(1, (4, 4))
    coarse, fine = levels(out.latents["image"])
    assert coarse.layout.grid == (4, 4) and fine.layout.grid == (8, 8) and coarse.rows is None
    assert (coarse.features.unflatten(1, (4, 4))[hidden] == 0).all()
    assert (fine.features.unflatten(1, (8, 8))[hidden.repeat_interleave(2, 1).repeat_interleave(2, 2)] == 0).all()
    assert out.predictions["pixels"].shape == (3, out.masks["image"].queries["main"].rows.count, PATCH * PATCH)


def test_it_is_tight_and_does_not_feel_growth():
    method, batch = spark(), image_batch(3, (16, 16))
    tight(method, batch)
    growth(method, batch.views["image"], torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(2)) < 0.6)


def test_statistics_over_empty_cells_are_found():
    method, batch = spark(dense_norm=True), image_batch(3, (16, 16))
    tight(method, batch)
    with pytest.raises(Leak, match="hidden cells appended, training mode"):
        growth(method, batch.views["image"], torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(2)) < 0.6)
