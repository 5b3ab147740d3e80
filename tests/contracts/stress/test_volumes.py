"""NeRF-MAE: cubes hidden by coin flips, one mask per batch, a weight for every voxel, colour at seen voxels too."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.decoders import Decoder
from core.embeddings import token
from core.encoder import Encoder
from core.losses import squared
from core.maskers import ViewMasker, uniform
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Objective, Readout
from core.targets import Target
from core.tokenizers import Patchify
from core.tokens import Batch, EncoderInput, ForwardContext, Latent, Layout, Mask, Query, TargetValues, Tokens
from tests.contracts.pairs import masked
from tests.contracts.stress.parts import tight, with_side
from tests.contracts.toys import DIM, run

GRID, PATCH, VOXELS = (4, 4, 4), 2, 8


class PaddedVolumes(Patchify):
    """(B, 5, D, H, W): colour and density, and as the fifth channel which voxels are real."""

    def forward(self, data: Tensor) -> Tokens:
        real = Patchify(self.patch, self.size, 1)(data[:, 4:]).content
        return with_side(super().forward(data[:, :4]), real=real.flatten(2, 4).bool())


class Cubes(ViewMasker):
    """Every window of 2 × 2 × 2 tokens is hidden by its own coin; the same for the whole batch."""

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        return uniform((2, 2, 2), tokens.content.device, generator)

    def mask_view(self, tokens, draws, ctx) -> Mask:
        hidden = draws < 0.6
        for axis in range(3):
            hidden = hidden.repeat_interleave(2, axis)
        return Mask.from_hidden(hidden.flatten().expand(tokens.content.shape[0], -1))


class Windowed(Encoder):
    """Stands for a 3D Swin: hidden tokens become a mask token; a second stage merges 2 × 2 × 2 of them."""

    masking = "replace"

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(VOXELS * 4, DIM), nn.LayerNorm(DIM)
        self.mask_token, self.merge = nn.Parameter(token(DIM)), nn.Conv3d(DIM, 2 * DIM, 2, 2)
        self.embed_dim, self.depth = 2 * DIM, 2

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        x = self.norm(self.embed(seen.content.flatten(2)))
        if seen.erased is not None:
            x = torch.where(seen.erased[..., None], self.mask_token, x)
        fine = x.transpose(1, 2).unflatten(2, seen.layout.grid)
        coarse = self.merge(fine)
        layout = Layout(coarse[0, 0].numel(), tuple(coarse.shape[2:]))
        return Latent(coarse.flatten(2).transpose(1, 2), layout, finer=Latent(x, seen.layout))


class Upsampler(Decoder):
    """Coarse to fine with a skip; four channels for each voxel of each token, which the heads share out."""

    dim = VOXELS * 4

    def __init__(self):
        super().__init__()
        self.up, self.out = nn.ConvTranspose3d(2 * DIM, DIM, 2, 2), nn.Linear(2 * DIM, VOXELS * 4)

    def forward(self, latent: Latent, layout: Layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        x = self.up(latent.features.transpose(1, 2).unflatten(2, latent.layout.grid)).flatten(2).transpose(1, 2)
        dense = self.out(torch.cat([x, latent.finer.features], -1)).unflatten(2, (VOXELS, 4))
        return {name: query.rows_in(layout, dense).gather(dense) for name, query in queries.items()}


class Channels(nn.Module):
    def __init__(self, start: int, stop: int):
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.start : self.stop]


class Voxels(Target):
    """Channels of every voxel, (B, M, voxels, C), and a weight for each: occupied, or real."""

    out = VOXELS * 4

    def __init__(self, start: int, stop: int, count: str):
        super().__init__()
        self.start, self.stop, self.count = start, stop, count

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        tokens = ctx.tokens[view]
        rows = query.rows_in(tokens.layout, tokens.content)
        values = rows.gather(tokens.content).flatten(2, 4)
        weight = values[..., 3:] > 0.5 if self.count == "occupied" else rows.gather(tokens.side["real"])
        return TargetValues(values[..., self.start : self.stop], weight.float())


def nerf_mae() -> MaskedAutoencoder:
    colour = Objective(Voxels(0, 3, "occupied"), squared, Channels(0, 3), queries=["grid"], weight=3.0)
    density = Objective(Voxels(3, 4, "real"), lambda p, v: squared(p.sigmoid(), v), Channels(3, 4))
    readout = Readout(Upsampler(), {"colour": colour, "density": density})
    return MaskedAutoencoder(PaddedVolumes([PATCH] * 3, [8] * 3, 4), Cubes(), Windowed(), {"main": readout})


def volumes(count: int = 2) -> Batch:
    data = torch.rand(count, 5, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    data[:, 4] = 1
    data[1, :, 5:] = 0  # the second one is padded along its first axis
    return Batch({"voxel": data})


def test_weights_are_per_voxel_and_colour_counts_where_it_is_seen():
    method, batch = nerf_mae(), volumes()
    out = run(method, batch)
    content = method.tokenizer(batch.views["voxel"]).content.flatten(2, 4)
    occupied = content[..., 3:] > 0.5
    error = (out.predictions["colour"] - content[..., :3]).square()
    assert torch.allclose(out.terms["colour"] * 3, (error * occupied).sum() / occupied.sum())
    gradient = torch.autograd.grad(method(batch, masks=out.masks).loss, method.readouts["main"].decoder.out.weight)
    assert gradient[0].abs().sum() > 0
    rows = out.masks["voxel"].queries["main"].rows
    real = rows.gather(method.tokenizer(batch.views["voxel"]).side["real"])[..., 0]
    assert not real.all(), "some hidden tokens hold padding, within them too"
    error = (out.predictions["density"].sigmoid() - rows.gather(content)[..., 3:]).square()[..., 0]
    assert torch.allclose(out.terms["density"], error[real].mean())


def test_padding_has_no_say_in_the_density():
    method, batch = nerf_mae(), volumes()
    other = batch.views["voxel"].clone()
    other[1, 3, 5:] = 0.3  # density of voxels that are not real: below the colour's threshold
    _, masks = masked(method, batch)
    hide_all = {n: replace(m, content_from=torch.full_like(m.hidden, -1, dtype=torch.long)) for n, m in masks.items()}
    first, second = (method(one, masks=hide_all).terms["density"] for one in (batch, Batch({"voxel": other})))
    assert torch.equal(first, second)


def test_one_mask_for_the_batch_with_a_count_by_chance():
    method, batch = nerf_mae(), volumes(3)
    counts = set()
    for seed in range(6):
        out = method(batch, generator=torch.Generator().manual_seed(seed))
        hidden = out.masks["voxel"].hidden
        assert (hidden == hidden[:1]).all() and hidden.shape == (3, 64)
        counts.add(int(hidden[0].sum()))
    assert len(counts) > 1
    tight(method, batch)
