"""Small parts that several contract tests compose methods of."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from core.decoders import Decoder, MAEDecoder
from core.embeddings import ClsToken, PatchEmbed, SinCos
from core.encoder import Trunk, ViT
from core.losses import mse
from core.maskers import Masker, RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder, Output
from core.objectives import Head, Objective, Readout
from core.targets import Target
from core.tokenizers import Normalise, Patchify, Tokenizer
from core.tokens import Batch, ForwardContext, Layout, Query, TargetValues, Tokens

DIM = 16
CELLS = 16  # of the ragged toy's grid


class Raw(Target):
    """The raw content of the rows, flat; `of` picks a level of a pyramid by the place."""

    def __init__(self, out: int):
        super().__init__()
        self.out = out

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        tokens = ctx.tokens[view]
        for _ in range(query.level):
            tokens = tokens.finer
        return TargetValues(query.rows_in(tokens.layout, tokens.content).gather(tokens.content).flatten(2).float())


class Ids(Target):
    """The token ids of the rows, (B, M)."""

    def __init__(self, out: int):
        super().__init__()
        self.out = out

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(query.rows.gather(ctx.tokens[view].content))


class Zeros(Target):
    """Nothing: for losses that look at the prediction alone (sparsity, KL, contrast)."""

    out = 0

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(torch.zeros(()))


class Ragged(Tokenizer):
    """A list of (n, 1 + C) -> tokens on a line of cells: the first column is the cell, the rest content; padded."""

    def forward(self, data: Sequence[Tensor]) -> Tokens:
        longest = max(len(x) for x in data)
        whole = torch.stack([nn.functional.pad(x, (0, 0, 0, longest - len(x))) for x in data])
        valid = torch.tensor([[k < len(x) for k in range(longest)] for x in data])
        return Tokens(whole[..., 1:], Layout(longest, (CELLS,), whole[..., :1].long(), valid=valid))


class Packed(Tokenizer):
    """As `Ragged`, packed: B = 1, rows sorted by sample."""

    def forward(self, data: Sequence[Tensor]) -> Tokens:
        counts = tuple(len(x) for x in data)
        whole = torch.cat(list(data))[None]
        sample = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        layout = Layout(sum(counts), (CELLS,), whole[..., :1].long(), sample=sample, samples=len(counts), counts=counts)
        return Tokens(whole[..., 1:], layout)


def ragged_data(counts: Sequence[int] = (5, 9, 12), channels: int = 3) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(0)
    cells = [torch.randperm(CELLS, generator=drawn)[:n, None] for n in counts]
    return [torch.cat([cell.float(), torch.rand(len(cell), channels, generator=drawn)], 1) for cell in cells]


def normalise() -> Normalise:
    return Normalise([0.5], [0.25])


def trunk(depth: int = 2, dim: int = DIM, heads: int = 2) -> Trunk:
    return Trunk(dim, depth, heads, mlp_ratio=2.0)


def vit(values: int, grid: Sequence[int], cls: bool = False, dim: int = DIM) -> ViT:
    embed = PatchEmbed(values, dim, normalise(), SinCos(grid, dim))
    return ViT(trunk(dim=dim), embed, ClsToken(dim) if cls else None)


def light(grid: Sequence[int], visible_rows: str = "latent", width: int = DIM, kind=MAEDecoder) -> MAEDecoder:
    return kind(width, DIM, trunk(1), SinCos(grid, DIM), visible_rows=visible_rows)


def raw_objective(values: int, loss=mse, **more) -> Objective:
    return Objective(Raw(values), loss, Head(DIM, values), **more)


def method(
    tokenizer: Tokenizer,
    encoder: nn.Module,
    decoder: Decoder | None,
    values: int,
    masker: Masker | None = None,
) -> MaskedAutoencoder:
    """One readout, the raw content of hidden rows as its target."""
    readout = Readout(decoder, {"content": raw_objective(values)})
    return MaskedAutoencoder(tokenizer, masker or RandomMasker(0.5), encoder, {"main": readout})


def patches(size: Sequence[int] = (8, 8), patch: int = 2, channels: int = 1) -> Patchify:
    return Patchify([patch] * len(size), size, channels)


def image_batch(count: int = 2, size: Sequence[int] = (8, 8), channels: int = 1, view: str = "image", seed: int = 0):
    drawn = torch.Generator().manual_seed(seed)
    return Batch({view: torch.rand(count, channels, *size, generator=drawn)})


def run(made: MaskedAutoencoder, batch: Batch, idle: Sequence[str] = (), **given) -> Output:
    """Forward and backward; every trained parameter gets a finite gradient but those whose name starts like `idle`."""
    out = made(batch, generator=torch.Generator().manual_seed(0), **given)
    assert out.loss.dim() == 0 and torch.isfinite(out.loss)
    out.loss.backward()
    for name, parameter in made.named_parameters():
        if parameter.requires_grad and not name.startswith(tuple(idle)):
            assert parameter.grad is not None, f"{name} is not trained"
            assert torch.isfinite(parameter.grad).all(), name
    return out


random_half = partial(RandomMasker, 0.5)
