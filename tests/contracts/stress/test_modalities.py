"""MultiMAE, CROMA and M3AE: several modalities in one sample, joint masks, unlike content in one sequence."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from core.embeddings import PatchEmbed, SinCos
from core.encoder import AttentionPlan, Encoder
from core.losses import cross_entropy
from core.maskers import Masker, RandomMasker, uniform
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.tokenizers import Tokenizer, TokenizerByView
from core.tokens import Batch, EncoderInput, Latent, Layout, Mask, Rows, Tokens
from tests.contracts.stress.parts import CrossDecoder, MaskByName, Pooled, contrast, joined, tight
from tests.contracts.stress.words import VOCABULARY, Text, Words
from tests.contracts.toys import DIM, Ids, Zeros, image_batch, light, normalise, patches, raw_objective, run, trunk, vit

GRID, CLASSES = (4, 4), 5

# MultiMAE: one mask over the tokens of all modalities, one trunk over what is left ------------------------------------


class Jointly(Masker):
    """Keeps `keep` tokens of each sample, whatever their modality: how many of each is left to chance."""

    def __init__(self, keep: int):
        self.keep = keep

    def draw(self, tokens, generator, ctx) -> dict:
        count = sum(one.layout.count for one in tokens.values())
        return {"all": uniform((len(next(iter(tokens.values())).content), count), torch.device("cpu"), generator)}

    def __call__(self, tokens, draws, ctx) -> dict[str, Mask]:
        hidden = ~Rows(draws["all"].argsort(1)[:, : self.keep]).to_mask(draws["all"].shape[1])
        parts = hidden.split([one.layout.count for one in tokens.values()], 1)
        return {name: Mask.from_hidden(part) for name, part in zip(tokens, parts, strict=True)}


class ClassMaps(Tokenizer):
    """Class ids (B, 4, 4), one token each."""

    def forward(self, data: Tensor) -> Tokens:
        return Tokens(data.flatten(1), Layout(16, GRID))


class ClassEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.positions = nn.Embedding(CLASSES, DIM), SinCos(GRID, DIM)

    def forward(self, seen: EncoderInput) -> Tensor:
        return self.table(seen.content) + self.positions(seen.cells, GRID)


class OneTrunk(Encoder):
    """Embeds every modality by itself, runs one trunk over the sequence of all, and takes it apart again."""

    def __init__(self):
        super().__init__()
        pixels = {name: PatchEmbed(4, DIM, normalise(), SinCos(GRID, DIM)) for name in ("rgb", "depth")}
        self.embed, self.trunk = nn.ModuleDict({**pixels, "classes": ClassEmbed()}), trunk()
        self.embed_dim, self.depth = DIM, 2

    def forward(self, seen: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        raise NotImplementedError

    def encode_views(self, seen: Mapping[str, EncoderInput], taps: Sequence[str] = ()) -> dict[str, Latent]:
        embedded = [Latent(self.embed[name](one), one.layout, rows=one.rows) for name, one in seen.items()]
        x, valid = joined(embedded)
        x, _ = self.trunk(x, AttentionPlan(valid=valid))
        parts = x.split([one.rows.count for one in embedded], 1)
        return {n: Latent(p, one.layout, rows=one.rows) for n, p, one in zip(seen, parts, embedded, strict=True)}


def multimae() -> MaskedAutoencoder:
    classes = Objective(Ids(CLASSES), cross_entropy, Head(DIM, CLASSES), reduction="sample")
    objectives = {"rgb": raw_objective(4, reduction="sample"), "depth": raw_objective(4, reduction="sample")}
    readouts = {
        name: Readout(CrossDecoder(GRID), {name: objective}, reads=name)
        for name, objective in {**objectives, "classes": classes}.items()
    }
    tokenizer = TokenizerByView({"rgb": patches(), "depth": patches(), "classes": ClassMaps()})
    return MaskedAutoencoder(tokenizer, Jointly(12), OneTrunk(), readouts)


def aligned(count: int = 3) -> Batch:
    drawn = torch.Generator().manual_seed(0)
    maps = {name: torch.rand(count, 1, 8, 8, generator=drawn) for name in ("rgb", "depth")}
    return Batch({**maps, "classes": torch.randint(CLASSES, (count, 4, 4), generator=drawn)})


def test_a_joint_mask_over_unlike_tokens():
    method, batch = multimae(), aligned()
    out = run(method, batch)
    seen = torch.stack([(~mask.hidden).sum(1) for mask in out.masks.values()])
    assert (seen.sum(0) == 12).all() and len(set(seen.flatten().tolist())) > 1
    assert out.targets["classes"].values.dtype == torch.long
    assert torch.allclose(out.loss, sum(out.terms.values()))
    tight(method, batch)


def test_one_modality_speaks_for_another():
    method, batch = multimae(), aligned()
    out = method(batch, generator=torch.Generator().manual_seed(0))
    other = Batch({**batch.views, "rgb": batch.views["rgb"].flip(-1)})
    assert not torch.allclose(method(other, masks=out.masks).predictions["classes"], out.predictions["classes"])


# CROMA: two sensors with masks of their own; positions are distances; a third latent joins them -----------------------


class Distances(Encoder):
    """Attention biased by how far apart the kept cells lie: no position table."""

    def __init__(self):
        super().__init__()
        self.embed, self.look = nn.Linear(4, DIM), nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.embed_dim, self.depth = DIM, 1

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        x = self.embed(seen.content.flatten(2))
        return Latent(x + self.attend(x, x, seen, seen), seen.layout, rows=seen.rows)

    def attend(self, x: Tensor, memory: Tensor, seen: EncoderInput, other: EncoderInput) -> Tensor:
        where = [torch.stack([one.cells // 4, one.cells % 4], -1).float() for one in (seen, other)]
        bias = -torch.cdist(*where).repeat_interleave(2, 0)
        return self.look(x, memory, memory, attn_mask=bias, need_weights=False)[0]


class TwoSensors(Encoder):
    """Each sensor by itself, and `joint`: the radar's rows after looking at the optical ones."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"radar": Distances(), "optical": Distances()})
        self.join = Distances()
        self.embed_dim, self.depth = DIM, 1

    def forward(self, seen: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        return self.parts["radar"](seen, taps)

    def encode_views(self, seen: Mapping[str, EncoderInput], taps: Sequence[str] = ()) -> dict[str, Latent]:
        said = {name: self.parts[name](one, taps) for name, one in seen.items()}
        x, y = said["radar"].features, said["optical"].features
        both = x + self.join.attend(x, y, seen["radar"], seen["optical"])
        return {**said, "joint": Latent(both, said["radar"].layout, rows=said["radar"].rows)}


def croma() -> MaskedAutoencoder:
    tie = Objective(Zeros(), contrast, Head(DIM, DIM), queries=["visible"])
    readouts = {
        "radar": Readout(light(GRID, "mask_token"), {"radar": raw_objective(4)}, reads="joint", view="radar"),
        "optical": Readout(light(GRID, "mask_token"), {"optical": raw_objective(4)}, reads="joint", view="optical"),
        "tie": Readout(Pooled("optical"), {"tie": tie}, reads="radar"),
    }
    masker = MaskByName({"radar": RandomMasker(0.75), "optical": RandomMasker(0.75)})
    return MaskedAutoencoder(patches(), masker, TwoSensors(), readouts)


def test_a_latent_that_is_no_view():
    method = croma()
    batch = Batch({**image_batch(3, view="radar").views, **image_batch(3, view="optical", seed=1).views})
    out = run(method, batch, idle=["encoder.join.embed"])
    assert set(out.latents) == {"radar", "optical", "joint"} and set(out.masks) == {"radar", "optical"}
    assert not torch.equal(out.masks["radar"].hidden, out.masks["optical"].hidden)
    rows = out.masks["optical"].queries["main"].rows
    content = method.tokenizer(batch.views["optical"]).content.flatten(2)
    assert torch.equal(out.targets["optical"].values, rows.gather(content))


# M3AE: two passes a step, each with one modality masked; image and text read at different depths ----------------------


class CoAttention(Encoder):
    """Image and text of the same pass look at each other, twice; `taps` give the depths."""

    masking = "replace"

    def __init__(self):
        super().__init__()
        self.image, self.text = vit(4, GRID).embed, Words()
        self.mask_token = nn.Parameter(torch.randn(DIM) * 0.02)
        self.look = nn.ModuleList(nn.MultiheadAttention(DIM, 2, batch_first=True) for _ in range(4))
        self.embed_dim, self.depth = DIM, 2

    def forward(self, seen: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        raise NotImplementedError

    def encode_views(self, seen: Mapping[str, EncoderInput], taps: Sequence[str] = ()) -> dict[str, Latent]:
        said = {}
        for part in dict.fromkeys(name.partition("/")[2] for name in seen):
            image, text = seen[f"image/{part}"], seen[f"text/{part}"]
            x = torch.where(image.erased[..., None], self.mask_token, self.image(image))
            y, padding, tapped = self.text(text), ~text.layout.valid, {}
            for i in range(2):
                a, b = self.look[2 * i], self.look[2 * i + 1]
                x, y = x + a(x, y, y, padding, need_weights=False)[0], y + b(y, x, x, need_weights=False)[0]
                tapped |= {f"image{i}": x, f"text{i}": y}
            said[f"image/{part}"] = Latent(x, image.layout, taps={n: tapped[n] for n in taps if "image" in n})
            said[f"text/{part}"] = Latent(y, text.layout, taps={n: tapped[n] for n in taps if "text" in n})
        return said


def m3ae() -> MaskedAutoencoder:
    words = Objective(Ids(VOCABULARY), cross_entropy, Head(DIM, VOCABULARY))
    readouts = {
        "mlm": Readout(None, {"words": words}, reads="text/mlm"),
        "mim": Readout(None, {"pixels": raw_objective(4)}, reads="image/mim", tap="image0"),
    }
    some, none = RandomMasker(0.5), RandomMasker(0.0)
    masker = MaskByName({"image/mlm": none, "text/mlm": some, "image/mim": some, "text/mim": none})
    return MaskedAutoencoder(TokenizerByView({"image": patches(), "text": Text()}), masker, CoAttention(), readouts)


def captioned() -> Batch:
    text = torch.randint(1, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(0))
    text[1, 4:] = 0
    return Batch({**image_batch(3).views, "text": text})


def test_two_passes_with_one_side_masked_each():
    method, batch = m3ae(), captioned()
    out = run(method, batch, idle=["encoder.look.2"])
    assert set(out.latents) == {"image/mlm", "text/mlm", "image/mim", "text/mim"}
    assert not out.masks["image/mlm"].hidden.any() and out.masks["image/mim"].hidden.any()
    assert out.targets["words"].values.shape == out.predictions["words"].shape[:2]
    asked = out.masks["text/mlm"].queries["main"].rows
    assert asked.valid is not None and (asked.gather(batch.views["text"])[asked.valid] > 0).all(), (
        "padding is no question"
    )


def test_the_picture_is_read_at_half_the_depth():
    method, batch = m3ae(), captioned()
    assert method.taps == ("image0",)
    out = method(batch, generator=torch.Generator().manual_seed(0))
    tap, head = out.latents["image/mim"].taps["image0"], method.readouts["mim"].objectives["pixels"].head
    expected = head(out.masks["image/mim"].queries["main"].rows.gather(tap))
    assert torch.allclose(out.predictions["pixels"], expected, atol=1e-6)
