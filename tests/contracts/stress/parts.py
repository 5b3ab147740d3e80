"""Parts that several stubs share: by view, means of rows, cross-attention, losses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import losses
from core.decoders import Decoder
from core.embeddings import SinCos, token
from core.encoder import AttentionPlan, Encoder
from core.maskers import Masker, ViewMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, EncoderInput, ForwardContext, Latent, Layout, Mask, Progress, Query, Rows, Tokens
from tests.contracts.firewall import alone, firewall, scrambled
from tests.contracts.pairs import masked
from tests.contracts.toys import DIM, trunk


class MaskByName(Masker):
    """A masker for each `view` or `view/part`; views without one get no mask."""

    def __init__(self, maskers: Mapping[str, ViewMasker]):
        self.maskers = dict(maskers)

    def draw(self, tokens, generator, ctx) -> dict:
        return {name: one.draw_view(tokens[view(name)], generator, ctx) for name, one in self.maskers.items()}

    def __call__(self, tokens, draws, ctx) -> dict[str, Mask]:
        return {name: self.maskers[name].mask_view(tokens[view(name)], drawn, ctx) for name, drawn in draws.items()}


class Inner(Encoder):
    """A trunk over embedded rows: for encoders that differ in their embedding."""

    def __init__(self):
        super().__init__()
        self.trunk = trunk()
        self.embed_dim, self.depth = DIM, 2

    def latent(self, x: Tensor, seen: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        x, tapped = self.trunk(x, AttentionPlan.of(seen.layout), taps)
        return Latent(x, seen.layout, rows=seen.rows, taps=tapped)

    def forward(self, seen: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        raise NotImplementedError


class CrossDecoder(Decoder):
    """Mask tokens at the rows asked for look at latents, of other views too."""

    def __init__(self, grid: Sequence[int], look: str = "all"):
        super().__init__()
        self.dim, self.look = DIM, look
        self.query, self.positions = nn.Parameter(token(DIM)), SinCos(grid, DIM)
        self.memory = nn.Linear(DIM, DIM)
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)

    def forward(self, latent, layout: Layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        memory, valid = joined([latent, *others.values()] if self.look == "all" else [others[self.look]])
        return {name: self.answer(query.rows, layout, self.memory(memory), valid) for name, query in queries.items()}

    def answer(self, rows: Rows, layout: Layout, memory: Tensor, valid: Tensor) -> Tensor:
        query = (self.query + self.positions.at(layout, rows)).expand(memory.shape[0], -1, -1)
        return query + self.attention(query, memory, memory, ~valid, need_weights=False)[0]


class Slice(nn.Module):
    """A head for one branch of a decoder whose branches stand side by side: a linear layer on some of the channels."""

    def __init__(self, start: int, width: int, out: int):
        super().__init__()
        self.start, self.width, self.linear = start, width, nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[..., self.start : self.start + self.width])


class Pooled(Decoder):
    """The means of some latents side by side: (B, views, D)."""

    dim = DIM

    def __init__(self, *others: str):
        super().__init__()
        self.others = others

    def forward(self, latent: Latent, layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        sources = [latent, *(others[name] for name in self.others)]
        return dict.fromkeys(queries, torch.stack([pooled(one) for one in sources], 1))


def contrast(prediction: Tensor, values: Tensor, temperature: float = 0.1) -> Tensor:
    """Views of a sample are nearest to each other: (B, 2, D) -> (B,)."""
    a, b = F.normalize(prediction, dim=-1).unbind(1)
    near, own = a @ b.T / temperature, torch.arange(len(a))
    return (F.cross_entropy(near, own, reduction="none") + F.cross_entropy(near.T, own, reduction="none")) / 2


def chamfer(prediction: Tensor, values: Tensor) -> Tensor:
    """Mean squared distance to the nearest point, both ways: (B, M, 3 K) -> (B, M)."""
    return losses.chamfer(prediction, values.unflatten(2, (-1, 3)))


def joined(latents: Sequence[Latent]) -> tuple[Tensor, Tensor]:
    """Rows of several latents in one sequence, and which of them count."""
    valid = [one.features.new_ones(one.features.shape[:2], dtype=torch.bool) & flag_of(one) for one in latents]
    return torch.cat([one.features for one in latents], 1), torch.cat(valid, 1)


def flag_of(latent: Latent) -> Tensor:
    return torch.ones((), dtype=torch.bool) if latent.layout.valid is None else latent.layout.valid


def pooled(latent: Latent) -> Tensor:
    """Mean over the rows that count: (B, D)."""
    x, valid = joined([latent])
    return (x * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)


def nothing_hidden(tokens: Tokens) -> Mask:
    """Everything seen; `main` asks for every row."""
    hidden = torch.zeros(tokens.content.shape[0], tokens.layout.count, dtype=torch.bool)
    rows = Rows.all(*hidden.shape)
    return Mask(hidden, rows, queries={"main": Query(rows)})


def tight(method: MaskedAutoencoder, batch: Batch, each_alone: bool = True) -> None:
    """Firewall and alone, by tokens."""
    tokens, masks = masked(method, batch)
    other = dict(tokens)
    for name, mask in masks.items():
        if sum(view(key) == view(name) for key in masks) == 1:  # a view seen in several ways hides little from all
            other[view(name)] = scrambled(tokens[view(name)], mask, method.encoder.masking)
    firewall(method, tokens, other, masks)
    if each_alone:
        alone(method, tokens, masks)


def context_of(method: MaskedAutoencoder, batch: Batch, **more) -> ForwardContext:
    return ForwardContext(
        batch, method.tokenizer.tokenize_views(batch.views), teachers=method.teachers, method=method, **more
    )


def optimise(method: MaskedAutoencoder, lr: float = 0.1) -> None:
    """A plain gradient step between `before_step` and `after_step`, as the training loop does it."""
    method.before_step(Progress(0, 10, 0.0, 10.0))
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
    method.after_step(Progress(0, 10, 0.0, 10.0))


def with_side(tokens: Tokens, **side) -> Tokens:
    return replace(tokens, side={**tokens.side, **side})


def view(name: str) -> str:
    return name.partition("/")[0]
