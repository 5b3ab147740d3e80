"""TGM, MEAP, Starbucks: token ids, an embedding table, a vocabulary; text beside video; nested widths and depths."""

import torch
from torch import Tensor, nn

from core.encoder import AttentionPlan, Encoder
from core.losses import cross_entropy
from core.maskers import RandomMasker, ViewMasker, keep_lowest, uniform
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import TeacherFeatures
from core.tokens import Batch, EncoderInput, ForwardContext, Latent, Mask, Query, Rows, TargetValues
from tests.contracts.stress.parts import context_of, tight
from tests.contracts.stress.test_modalities import VOCABULARY, Text, Words
from tests.contracts.stress.test_views import Pooled
from tests.contracts.toys import DIM, Ids, image_batch, light, patches, raw_objective, run, trunk, vit

LENGTH = 6
SENTENCES = Batch({"text": torch.randint(1, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(0))})

# MEAP: next words from an input of which some are hidden --------------------------------------------------------------


class Causal(Encoder):
    """Words look back only; hidden ones are the mask's word."""

    masking = "replace"

    def __init__(self):
        super().__init__()
        self.words, self.look = Words(), nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.embed_dim, self.depth = DIM, 1

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        x = self.words(seen)
        ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return Latent(x + self.look(x, x, x, attn_mask=ahead, need_weights=False)[0], seen.layout, None)


class AllButLast(RandomMasker):
    def mask_view(self, tokens, draws, ctx) -> Mask:
        mask = super().mask_view(tokens, draws, ctx)
        return Mask(mask.hidden, mask.visible, {"main": Query(Rows.all(len(draws), tokens.layout.count - 1))})


class NextWord(Ids):
    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(Rows(query.rows.index + 1).gather(ctx.tokens[view].content))


def meap() -> MaskedAutoencoder:
    words = Objective(NextWord(VOCABULARY), cross_entropy, Head(DIM, VOCABULARY))
    return MaskedAutoencoder(Text(), AllButLast(0.2), Causal(), {"main": Readout(None, {"words": words})})


def test_next_words_are_scored_at_seen_and_hidden_rows():
    method = meap()
    out = run(method, SENTENCES)
    assert out.masks["text"].hidden.any() and out.predictions["words"].shape == (3, LENGTH - 1, VOCABULARY)
    assert torch.equal(out.targets["words"].values, SENTENCES.views["text"][:, 1:])
    tight(method, SENTENCES)


# Starbucks: a ladder of (depth, width), each with its own answer ------------------------------------------------------


class Cut(nn.Module):
    """The head of a rung: the first `width` channels only."""

    def __init__(self, width: int):
        super().__init__()
        self.width, self.linear = width, nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[..., : self.width])


class WordTrunk(Encoder):
    masking = "replace"

    def __init__(self):
        super().__init__()
        self.words, self.trunk = Words(), trunk()
        self.embed_dim, self.depth = DIM, 2

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        x, tapped = self.trunk(self.words(seen), AttentionPlan.of(seen.layout), taps)
        return Latent(x, seen.layout, None, taps=tapped)


def starbucks() -> MaskedAutoencoder:
    small = Objective(Ids(VOCABULARY), cross_entropy, Cut(DIM // 2), weight=0.5)
    large = Objective(Ids(VOCABULARY), cross_entropy, Cut(DIM), weight=0.5)
    readouts = {"small": Readout(None, {"small": small}, tap="block0"), "large": Readout(None, {"large": large})}
    return MaskedAutoencoder(Text(), RandomMasker(0.5), WordTrunk(), readouts)


def test_every_rung_of_the_ladder_answers():
    method = starbucks()
    out = run(method, SENTENCES)
    assert set(out.terms) == {"small", "large"} and torch.allclose(out.loss, sum(out.terms.values()) / 2)
    cut = out.latents["text"].taps["block0"][..., : DIM // 2]
    expected = method.readouts["small"].objectives["small"].head.linear(cut)
    asked = out.masks["text"].queries["main"].rows
    assert torch.allclose(out.predictions["small"], asked.gather(expected), atol=1e-6)
    tight(method, SENTENCES)


# TGM: what a caption speaks of is hidden, and tied to what is seen ----------------------------------------------------


class Caption(nn.Module):
    """Frozen: the caption's vector, and how near every patch of the clip is to it."""

    def __init__(self):
        super().__init__()
        self.words, self.pixels = nn.Embedding(VOCABULARY, DIM), nn.Linear(8, DIM)

    def forward(self, ctx: ForwardContext) -> dict[str, Tensor]:
        text = self.words(ctx.batch.views["text"]).mean(1)
        near = (self.pixels(ctx.tokens["video"].content.flatten(2)) * text[:, None]).sum(-1)
        return {"text": text, "near": near}


class Spoken(ViewMasker):
    """Hides the half of each time slot that is nearest to the caption: equally many in each."""

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        return uniform((tokens.content.shape[0], tokens.layout.count), tokens.content.device, generator)

    def mask_view(self, tokens, draws, ctx) -> Mask:
        slots = tokens.layout.grid[0]
        near = ctx.teacher_output("caption")["near"].unflatten(1, (slots, -1))
        rank = near.argsort(2).argsort(2).flatten(1)
        return keep_lowest(rank + draws * 0.5, tokens, keep=tokens.layout.count // 2)


class CaptionVector(TeacherFeatures):
    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(ctx.teacher_output(self.teacher)["text"])


def info_nce(prediction: Tensor, values: Tensor) -> Tensor:
    """Clips against the captions of the batch: (B, 1, D), (B, D) -> (B,)."""
    near = nn.functional.normalize(prediction[:, 0], dim=-1) @ nn.functional.normalize(values, dim=-1).T
    return nn.functional.cross_entropy(near / 0.07, torch.arange(len(near)), reduction="none")


class Clips(nn.Module):
    """Only the clip is made tokens; the caption stays in the batch, for the teacher."""

    def __init__(self):
        super().__init__()
        self.patches = patches((4, 8, 8))

    def tokenize_views(self, views) -> dict:
        return {"video": self.patches(views["video"])}


def tgm() -> MaskedAutoencoder:
    tie = Objective(CaptionVector("caption", DIM), info_nce, Head(DIM, DIM), queries=["visible"])
    readouts = {
        "main": Readout(light((2, 4, 4), "mask_token"), {"pixels": raw_objective(8)}),
        "tie": Readout(Pooled(), {"tie": tie}),
    }
    return MaskedAutoencoder(Clips(), Spoken(), vit(8, (2, 4, 4)), readouts, {"caption": Caption()})


def test_the_caption_chooses_and_is_tied_without_a_second_pass():
    method = tgm()
    batch = Batch({**image_batch(3, (4, 8, 8), view="video").views, **SENTENCES.views})
    out = run(method, batch)
    hidden = out.masks["video"].hidden.unflatten(1, (2, 16))
    assert (hidden.sum(2) == 8).all(), "as many in each slot"
    near = context_of(method, batch).teacher_output("caption")["near"].unflatten(1, (2, 16))
    assert (near.masked_fill(~hidden, torch.inf).amin(2) >= near.masked_fill(hidden, -torch.inf).amax(2)).all()
    assert set(out.latents) == {"video"} and torch.allclose(out.loss, out.terms["pixels"] + out.terms["tie"])
