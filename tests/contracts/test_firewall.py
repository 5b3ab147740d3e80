"""The checks of `firewall.py` find leaks that are planted, and nothing in honest methods."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from core.decoders import MAEDecoder
from core.embeddings import SinCos
from core.encoder import AttentionPlan, Encoder
from core.losses import binary_cross_entropy
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import Target
from core.tokenizers import Patchify
from core.tokens import Batch, ForwardContext, Latent, Query, TargetValues, Tokens
from tests.contracts.firewall import Leak, alone, firewall, growth, honest, moved, scrambled
from tests.contracts.toys import (
    CELLS,
    DIM,
    Packed,
    Ragged,
    image_batch,
    light,
    method,
    patches,
    ragged_data,
    trunk,
    vit,
)


def masked(made: MaskedAutoencoder, batch: Batch) -> tuple:
    tokens = made.tokenizer.tokenize_views(batch.views)
    ctx = ForwardContext(batch, tokens, method=made, generator=torch.Generator().manual_seed(0))
    return tokens, made.draw_mask(ctx)


def check_firewall(made: MaskedAutoencoder, batch: Batch) -> None:
    tokens, masks = masked(made, batch)
    other = {name: scrambled(tokens[name], mask, made.encoder.masking) for name, mask in masks.items()}
    firewall(made, tokens, other, masks)


def ragged(encoder=None, decoder=None, tokenizer=None) -> MaskedAutoencoder:
    return method(tokenizer or Ragged(), encoder or vit(3, (CELLS,)), decoder or light((CELLS,)), 3)


def grid(encoder=None, decoder=None, masker=None) -> MaskedAutoencoder:
    return method(patches(), encoder or vit(4, (4, 4)), decoder or light((4, 4)), 4, masker)


RAGGED = Batch({"line": ragged_data()})

# Honest methods pass --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [False, True])
@pytest.mark.parametrize("visible_rows", ["latent", "mask_token"])
def test_a_light_autoencoder_is_tight(cls, visible_rows):
    made, batch = grid(vit(4, (4, 4), cls), light((4, 4), visible_rows)), image_batch(3)
    check_firewall(made, batch)
    alone(made, *masked(made, batch))


@pytest.mark.parametrize("visible_rows", ["latent", "mask_token"])
def test_padding_changes_nothing(visible_rows):
    made = ragged(decoder=light((CELLS,), visible_rows))
    check_firewall(made, RAGGED)
    tokens, masks = masked(made, RAGGED)
    alone(made, tokens, masks)
    honest(made, tokens, masks, RAGGED)


def test_packing_changes_nothing():
    made = method(Packed(), vit(3, (CELLS,)), None, 3)
    made.readouts["main"].objectives["content"].at = ("visible",)
    alone(made, *masked(made, RAGGED))


# Planted leaks are found ----------------------------------------------------------------------------------------------


class BatchStatistics(Encoder):
    """Embeds all tokens, hidden ones too, and normalises by their common statistics, as Point-MAE's embedding does."""

    masking = "leak"

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.embed = trunk(), nn.BatchNorm1d(DIM), nn.Linear(4, DIM)
        self.embed_dim, self.depth = DIM, 2

    def forward(self, seen, taps=()) -> Latent:
        x = self.norm(self.embed(seen.content.flatten(2)).transpose(1, 2)).transpose(1, 2)
        layout = seen.layout.gather(seen.rows)
        return Latent(self.inner(seen.rows.gather(x), AttentionPlan.of(layout))[0], layout, seen.rows)


def test_statistics_of_hidden_tokens_leak_in_training_mode():
    with pytest.raises(Leak, match=r"latent image@0 changed .*training mode"):
        check_firewall(grid(BatchStatistics()), image_batch())


class Unmasked(Encoder):
    """Says that it wants hidden rows erased, and keeps what was there by a second way."""

    masking = "replace"

    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.embed = tokens, nn.Linear(4, DIM)
        self.embed_dim, self.depth = DIM, 1

    def forward(self, seen, taps=()) -> Latent:
        return Latent(self.embed(self.tokens().content.flatten(2)), seen.layout, None)


def test_an_encoder_that_finds_the_tokens_elsewhere_leaks():
    made, batch = grid(), image_batch()
    tokens, masks = masked(made, batch)
    other = {name: scrambled(tokens[name], mask, "replace") for name, mask in masks.items()}
    passed = []  # stands for a hook or a global that hands the input over
    made.encoder = Unmasked(lambda: passed[0])
    predict = made.predict
    made.predict = lambda tokens, masks: (passed.insert(0, tokens["image"]), predict(tokens, masks))[1]
    with pytest.raises(Leak, match="latent"):
        firewall(made, tokens, other, masks)


class Whitening(Patchify):
    """A tokenizer that divides by the mean of the whole input: hidden pixels are in every token."""

    def forward(self, data) -> Tokens:
        return super().forward(data / data.mean((1, 2, 3), keepdim=True))


def test_a_tokenizer_that_mixes_hidden_input_into_seen_tokens_is_found_at_the_raw_input():
    made, batch = grid(), image_batch()
    made.tokenizer = Whitening([2, 2], (8, 8), 1)
    tokens, masks = masked(made, batch)
    raw = patches()(batch.views["image"])
    data = patches().untokenize(scrambled(raw, masks["image"], "drop").content)
    with pytest.raises(AssertionError, match="differs in rows that are seen"):
        firewall(made, tokens, {"image": made.tokenizer(data)}, masks)


class Careless(MAEDecoder):
    """A decoder that attends to padding."""

    def _plan(self, latent, queries, extra) -> AttentionPlan:
        return AttentionPlan()


def test_a_decoder_that_ignores_padding_is_found_by_alone_only():
    made = ragged(decoder=light((CELLS,), kind=Careless))
    check_firewall(made, RAGGED)
    with pytest.raises(Leak, match=r"prediction content changed .* alone"):
        alone(made, *masked(made, RAGGED))


class MeanOfPadding(Encoder):
    """Adds the mean over all rows, padding included."""

    def __init__(self):
        super().__init__()
        self.inner = vit(3, (CELLS,))
        self.embed_dim, self.depth = DIM, 2

    def forward(self, seen, taps=()) -> Latent:
        latent = self.inner(seen, taps)
        return replace(latent, features=latent.features + self.inner.embed(seen).mean(1, keepdim=True))


def test_an_encoder_that_counts_padding_is_found():
    with pytest.raises(Leak, match="latent line@0 changed"):
        made = ragged(MeanOfPadding())
        alone(made, *masked(made, RAGGED))


class AcrossSamples(Encoder):
    """Packed samples that look at each other."""

    def __init__(self):
        super().__init__()
        self.inner = vit(3, (CELLS,))
        self.embed_dim, self.depth = DIM, 2

    def forward(self, seen, taps=()) -> Latent:
        x, _ = self.inner.trunk(self.inner.embed(seen), AttentionPlan())
        return Latent(x, seen.layout, seen.rows)


def test_samples_that_look_at_each_other_are_found():
    made = method(Packed(), AcrossSamples(), None, 3)
    made.readouts["main"].objectives["content"].at = ("visible",)
    with pytest.raises(Leak, match="alone"):
        alone(made, *masked(made, RAGGED))


# Where the layout is the answer ---------------------------------------------------------------------------------------


class Occupancy(Target):
    """1 at every cell of the line where a token lies: (B, CELLS, 1)."""

    out = 1

    def __init__(self, reveals):
        super().__init__()
        self.reveals = reveals

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        layout = ctx.tokens[view].layout
        there = torch.zeros(layout.coords.shape[0], CELLS).scatter_add(1, layout.coords[..., 0], layout.valid.float())
        return TargetValues((there > 0).float()[..., None])


class CellDecoder(MAEDecoder):
    """Answers every cell of the line from the mean of the latents."""

    def forward(self, latent, layout, places, others) -> dict:
        at_cells = self.positions(None, layout.grid) + self.project(latent.features).mean(1, keepdim=True)
        return dict.fromkeys(places, at_cells)


def occupancy(encoder: Encoder, decoder: MAEDecoder, reveals: str = "nothing") -> MaskedAutoencoder:
    objective = Objective(Occupancy(reveals), binary_cross_entropy, Head(DIM, 1), queries=["grid"])
    return MaskedAutoencoder(Ragged(), RandomMasker(0.5), encoder, {"main": Readout(decoder, {"occupied": objective})})


def test_nothing_revealed_nothing_read():
    made = occupancy(vit(3, (CELLS,)), light((CELLS,), kind=CellDecoder))
    tokens, masks = masked(made, RAGGED)
    moved(made, tokens, masks)
    honest(made, tokens, masks, RAGGED)


class ReadsCoords(Encoder):
    """Sees erased rows, and where they lie."""

    masking = "replace"

    def __init__(self):
        super().__init__()
        self.embed, self.positions = nn.Linear(3, DIM), SinCos((CELLS,), DIM)
        self.embed_dim, self.depth = DIM, 1

    def forward(self, seen, taps=()) -> Latent:
        return Latent(self.embed(seen.content) + self.positions(seen.cells, seen.layout.grid), seen.layout, None)


def test_an_encoder_that_reads_where_hidden_tokens_lie_is_found():
    made = occupancy(ReadsCoords(), light((CELLS,), kind=CellDecoder))
    with pytest.raises(Leak, match="moved"):
        moved(made, *masked(made, RAGGED))


def test_a_target_whose_answer_is_the_revealed_layout_is_found():
    made = occupancy(vit(3, (CELLS,)), light((CELLS,), kind=CellDecoder), reveals="layout")
    with pytest.raises(Leak, match="stands in the layout"):
        honest(made, *masked(made, RAGGED), RAGGED)


# Growth ---------------------------------------------------------------------------------------------------------------


class Convolution(Encoder):
    """Patches, a convolution over them, a norm; `sparse` zeroes what flows into and out of hidden cells."""

    masking = "replace"

    def __init__(self, sparse: bool, norm: nn.Module | None = None):
        super().__init__()
        self.sparse, self.norm = sparse, norm
        self.embed, self.conv = nn.Linear(4, DIM), nn.Conv2d(DIM, DIM, 3, padding=1)
        self.embed_dim, self.depth = DIM, 1

    def forward(self, seen, taps=()) -> Latent:
        x = self.embed(seen.content.flatten(2))
        if self.sparse:
            x = x.masked_fill(seen.erased[..., None], 0)
        x = self.conv(x.transpose(1, 2).unflatten(2, seen.layout.grid)).flatten(2)
        x = x if self.norm is None else self.norm(x)
        return Latent(x.transpose(1, 2), seen.layout, None)


def hidden_cells() -> torch.Tensor:
    return torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(3)) < 0.5


def test_a_sparse_convolution_does_not_feel_more_hidden_cells():
    made = grid(Convolution(sparse=True))
    check_firewall(made, image_batch())
    growth(made, image_batch().views["image"], hidden_cells())


@pytest.mark.parametrize("encoder", [Convolution(sparse=False), Convolution(True, nn.BatchNorm1d(DIM))])
def test_growth_finds_what_the_firewall_cannot(encoder):
    """A convolution over zeroed cells (its bias stands there), statistics over absent cells: nothing hidden is read."""
    made = grid(encoder)
    check_firewall(made, image_batch())
    with pytest.raises(Leak, match="hidden cells appended"):
        growth(made, image_batch().views["image"], hidden_cells())


def test_a_scrambled_input_that_hardly_differs_proves_nothing():
    made, batch = grid(), image_batch()
    tokens, masks = masked(made, batch)
    with pytest.raises(AssertionError, match="hardly differs"):
        firewall(made, tokens, tokens, masks)
