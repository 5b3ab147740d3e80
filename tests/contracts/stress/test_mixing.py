"""MixedAE: several images in one sequence; the batch that goes in is not the batch that comes out. CRATE-MAE, MP3."""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.decoders import Decoder
from core.embeddings import SinCos, token
from core.encoder import AttentionPlan, Encoder, Trunk
from core.losses import cross_entropy
from core.maskers import RandomMasker, ViewMasker, uniform
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import Target
from core.tokenizers import Patchify
from core.tokens import EncoderInput, ForwardContext, Latent, Layout, Mask, Query, Rows, TargetValues, Tokens
from tests.contracts.pairs import masked
from tests.contracts.stress.parts import Inner, tight
from tests.contracts.toys import DIM, image_batch, normalise, patches, raw_objective, run, trunk

GRID, VALUES, L, GROUP = (4, 4), 4, 16, 2


class Grouped(Patchify):
    """Every `GROUP` images side by side: (B / G, G · L, …) on a grid (slot, row, column)."""

    def forward(self, data: Tensor) -> Tokens:
        tokens = super().forward(data)
        content = tokens.content.reshape(-1, GROUP * L, *tokens.content.shape[2:])
        return Tokens(content, Layout(GROUP * L, (GROUP, *tokens.layout.grid)))


class Assignment(ViewMasker):
    """At every place exactly one image of the group is seen, each at as many places."""

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        return uniform((tokens.content.shape[0], L), tokens.content.device, generator)

    def mask_view(self, tokens, draws, ctx) -> Mask:
        source = draws.argsort(1).argsort(1) * GROUP // L
        rows = Rows(source * L + torch.arange(L))
        hidden = ~rows.to_mask(GROUP * L)
        return Mask(hidden, rows, {"main": Query(Rows.from_mask(hidden, (GROUP - 1) * L))})


class Mixed(Inner):
    """Positions are those of the patch within its image: the slot is not told."""

    def __init__(self):
        super().__init__()
        self.normalise, self.embed, self.positions = normalise(), nn.Linear(VALUES, DIM), SinCos(GRID, DIM)

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        x = self.embed(self.normalise(seen.content).flatten(2))
        return self.latent(x + self.positions(seen.cells % L, GRID), seen, taps)


class Unmix(Decoder):
    """One sequence per image again: its own latents where it was seen, mask tokens elsewhere."""

    def __init__(self):
        super().__init__()
        self.dim, self.mask_token, self.trunk, self.positions = (
            DIM,
            nn.Parameter(token(DIM)),
            trunk(1),
            SinCos(GRID, DIM),
        )

    def forward(self, latent: Latent, layout: Layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        seen = latent.rows.to_mask(layout.count)[..., None]
        x = torch.where(seen, latent.rows.scatter(latent.features, layout.count), self.mask_token)
        x = x.reshape(-1, L, DIM) + self.positions(None, GRID)
        x = self.trunk(x, AttentionPlan())[0].reshape(-1, layout.count, DIM)
        return {name: query.rows.gather(x) for name, query in queries.items()}


class Slots(Target):
    """Which image each row is from: (B, M)."""

    out = DIM

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(query.rows.index // L)


def homologous(prediction: Tensor, values: Tensor, temperature: float = 0.25) -> Tensor:
    """Rows of one image are nearest to each other: (B, M, D), (B, M) -> (B, M)."""
    x = F.normalize(prediction, dim=-1)
    near = (x @ x.mT / temperature).masked_fill(torch.eye(x.shape[1], dtype=torch.bool), -1e9).log_softmax(-1)
    same = (values[:, :, None] == values[:, None]).float() - torch.eye(x.shape[1])
    return -(near * same).sum(-1) / same.sum(-1)


def mixedae() -> MaskedAutoencoder:
    contrast = Objective(Slots(), homologous, Head(DIM, DIM), queries=["visible"], weight=0.1)
    readouts = {
        "main": Readout(Unmix(), {"pixels": raw_objective(VALUES)}),
        "contrast": Readout(None, {"homologous": contrast}),
    }
    return MaskedAutoencoder(Grouped([2, 2], (8, 8), 1), Assignment(), Mixed(), readouts)


def test_the_encoder_sees_half_as_many_samples_and_each_image_is_rebuilt():
    method, batch = mixedae(), image_batch(6)
    out = run(method, batch)
    assert out.latents["image"].features.shape == (3, L, DIM)
    slots = out.targets["homologous"].values
    assert (slots.sum(1) == L // GROUP).all(), "each image gives as many"
    assert out.predictions["pixels"].shape == (3, L, VALUES)
    tight(method, batch)


# CRATE-MAE: the mask token enters the encoder -------------------------------------------------------------------------


class FedMaskTokens(Encoder):
    masking = "replace"

    def __init__(self):
        super().__init__()
        self.embed, self.mask_token = nn.Linear(VALUES, DIM), nn.Parameter(token(DIM))
        self.positions, self.trunk = SinCos(GRID, DIM), trunk()
        self.embed_dim, self.depth = DIM, 2

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        x = torch.where(seen.erased[..., None], self.mask_token, self.embed(seen.content.flatten(2)))
        x, _ = self.trunk(x + self.positions(seen.cells, seen.layout.grid), AttentionPlan.of(seen.layout))
        return Latent(x, seen.layout, seen.rows)


def crate_mae() -> MaskedAutoencoder:
    return MaskedAutoencoder(
        patches(), RandomMasker(0.75), FedMaskTokens(), {"main": Readout(None, {"pixels": raw_objective(VALUES)})}
    )


def test_the_encoder_computes_every_row_and_predicts_without_a_decoder():
    method, batch = crate_mae(), image_batch(3)
    out = run(method, batch)
    assert out.latents["image"].features.shape == (3, L, DIM) and out.latents["image"].rows is None
    assert method.encoder.mask_token.grad.abs().sum() > 0
    tight(method, batch)


# MP3: nothing of the content is hidden, but where a token is, and most tokens from attention --------------------------


class Keys(ViewMasker):
    """Every token is seen; the layout the encoder gets has no places; only `keep` tokens may be looked at."""

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        return uniform((tokens.content.shape[0], tokens.layout.count), tokens.content.device, generator)

    def mask_view(self, tokens, draws, ctx) -> Mask:
        count = tokens.layout.count
        everything = Rows.all(len(draws), count)
        keys = Rows(draws.argsort(1)[:, : count // 4]).to_mask(count)
        hidden = torch.zeros(draws.shape, dtype=torch.bool)
        places = {"main": Query(everything)}
        return Mask(hidden, everything, places, layout=Layout(count), condition={"keys": keys})


class Unplaced(Encoder):
    def __init__(self):
        super().__init__()
        self.embed, self.trunk = nn.Linear(VALUES, DIM), Trunk(DIM, 2, 2)
        self.embed_dim, self.depth = DIM, 2

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        assert seen.layout.grid is None and seen.layout.coords is None
        x, _ = self.trunk(self.embed(seen.content.flatten(2)), AttentionPlan(valid=seen.condition["keys"]))
        return Latent(x, seen.layout, seen.rows)


class Places(Target):
    """The grid index of each row, (B, M)."""

    out = L

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(ctx.tokens[view].layout.cells(query.rows))


def mp3() -> MaskedAutoencoder:
    where = Objective(Places(), cross_entropy, Head(DIM, L))
    return MaskedAutoencoder(patches(), Keys(), Unplaced(), {"main": Readout(None, {"where": where})})


def test_places_are_predicted_from_content_alone():
    method, batch = mp3(), image_batch(3)
    out = run(method, batch)
    assert torch.equal(out.targets["where"].values, torch.arange(L).expand(3, L))
    tokens, masks = masked(method, batch)
    keys = masks["image"].condition["keys"]
    assert (keys.sum(1) == L // 4).all()
    content = torch.where(keys[..., None, None, None], tokens["image"].content, 0.5)
    _, first = method.predict(tokens, masks)
    _, second = method.predict({"image": replace(tokens["image"], content=content)}, masks)
    assert torch.equal(first["where"][keys], second["where"][keys]), "nobody looks at what is no key"
    order = torch.randperm(L, generator=torch.Generator().manual_seed(0))
    shuffled = {"image": replace(tokens["image"], content=tokens["image"].content[:, order])}
    moved = {"image": replace(masks["image"], condition={"keys": keys[:, order]})}
    _, third = method.predict(shuffled, moved)
    assert torch.allclose(third["where"], first["where"][:, order], atol=1e-5), "nothing else tells places"
