"""I-JEPA and CAE: several target sets, a second pass over other tokens, predictions in latent space."""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.decoders import Decoder, MAEDecoder
from core.embeddings import SinCos, token
from core.losses import cross_entropy, mse, smooth_l1
from core.maskers import RandomMasker, ViewMasker, uniform
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import Target, TeacherFeatures
from core.teachers import EMATeacher
from core.tokens import ForwardContext, Latent, Mask, Progress, Query, Rows, TargetValues
from tests.contracts.stress.parts import Slice, tight
from tests.contracts.toys import DIM, image_batch, patches, run, trunk, vit

GRID, VALUES, WORDS = (4, 4), 4, 7


class Blocks(ViewMasker):
    """Target blocks of 2 × 2 patches, which may overlap, and a context of what is left, cut to the shortest."""

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        return (uniform((tokens.content.shape[0], 3, 2), tokens.content.device, generator) * 3).long()

    def mask_view(self, tokens, draws, ctx) -> Mask:
        corner = draws[..., 0] * 4 + draws[..., 1]
        blocks = corner[..., None] + torch.tensor([0, 1, 4, 5])
        targets = {f"main/{i}": Query(Rows(blocks[:, i])) for i in range(3)}
        asked = Rows(blocks.flatten(1)).to_mask(16)
        shortest = int((~asked).sum(1).min())
        context = Rows.from_mask(~asked).index[:, :shortest]
        return Mask(~Rows(context).to_mask(16), Rows(context), targets)


class Codes(EMATeacher):
    """The averaged encoder's normalised codes of everything; it follows after the optimiser's step."""

    def before_step(self, method, progress) -> None: ...

    def after_step(self, method, progress) -> None:
        super().before_step(method, progress)

    def forward(self, ctx: ForwardContext) -> Tensor:
        x = self.copies["encoder"](ctx.tokens["image"].unmasked()).features
        return F.layer_norm(x, x.shape[-1:])


class Predictor(MAEDecoder):
    """Each target block is decoded by itself: blocks do not see each other's queries."""

    def forward(self, latent, layout, places, others) -> dict[str, Tensor]:
        return {n: super(Predictor, self).forward(latent, layout, {n: p}, others)[n] for n, p in places.items()}


def i_jepa() -> MaskedAutoencoder:
    predictor = Predictor(DIM, DIM, trunk(1), SinCos(GRID, DIM), visible_rows="mask_token")
    at = ["main/0", "main/1", "main/2"]
    codes = Objective(TeacherFeatures("codes", DIM), smooth_l1, Head(DIM, DIM), queries=at, weight=1 / 3)
    readouts = {"main": Readout(predictor, {"codes": codes})}
    return MaskedAutoencoder(
        patches(), Blocks(), vit(VALUES, GRID), readouts, {"codes": Codes({"encoder": "encoder"}, 0.9)}
    )


def test_several_target_sets_apart_from_the_context():
    method, batch = i_jepa(), image_batch(3)
    out = run(method, batch)
    mask = out.masks["image"]
    assert list(out.terms) == [f"codes/main/{i}" for i in range(3)]
    for place in mask.queries.values():
        assert not (place.rows.to_mask(16) & mask.visible.to_mask(16)).any()
    assert torch.allclose(out.loss, sum(out.terms.values()) / 3)
    tight(method, batch)


def test_blocks_do_not_see_each_other():
    method, batch = i_jepa(), image_batch(3)
    out = run(method, batch)
    mask = out.masks["image"]
    place = mask.queries["main/0"]
    other = {"image": replace(mask, queries={**mask.queries, "main/1": Query(place.rows)})}
    again = method(batch, mask=other)
    assert torch.equal(out.predictions["codes/main/0"], again.predictions["codes/main/0"])
    assert torch.allclose(again.predictions["codes/main/1"], again.predictions["codes/main/0"], atol=1e-6)


def test_the_teacher_follows_after_the_step():
    method = i_jepa()
    teacher, weight = method.teachers["codes"], method.encoder.embed.proj.weight
    before = teacher.copies["encoder"].embed.proj.weight.clone()
    method.before_step(Progress())
    with torch.no_grad():
        weight += 1
    method.after_step(Progress())
    after = teacher.copies["encoder"].embed.proj.weight
    assert torch.allclose(after, before.lerp(weight.detach(), 0.1)) and not torch.equal(after, before)


# CAE ------------------------------------------------------------------------------------------------------------------


class HiddenCodes(nn.Module):
    """What the encoder itself says of the hidden patches alone: a second pass, over the complement; (B, N, D)."""

    calls = 0

    def forward(self, ctx: ForwardContext) -> Tensor:
        self.calls += 1
        mask = ctx.masks["image"]
        complement = Mask.from_hidden(~mask.hidden, count=mask.visible.count)
        latent = ctx.method.encode(ctx.tokens, {"image": complement})["image"]
        return latent.rows.scatter(latent.features, mask.hidden.shape[1])


class Words(nn.Module):
    """A frozen tokenizer of images: an id for every patch, (B, N)."""

    def forward(self, ctx: ForwardContext) -> Tensor:
        return (ctx.tokens["image"].content.flatten(2).mean(-1) * WORDS).long()


class WordIds(Target):
    out = WORDS

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(query.rows.gather(ctx.teacher_output("words")))


class Regressor(Decoder):
    """Queries look at the context for latents; a decoder over the queries alone follows. Both answers side by side."""

    dim = 2 * DIM

    def __init__(self):
        super().__init__()
        self.query, self.positions = nn.Parameter(token(DIM)), SinCos(GRID, DIM)
        self.look, self.norm = nn.MultiheadAttention(DIM, 2, batch_first=True), nn.LayerNorm(DIM)
        self.decoder = nn.TransformerEncoderLayer(DIM, 2, DIM, 0.0, batch_first=True)

    def forward(self, latent: Latent, layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        ((name, query),) = queries.items()
        where = self.positions.at(layout, query.rows)
        query = (self.query + where).expand(len(latent.features), -1, -1)
        memory = torch.cat([latent.features, query], 1)
        x = self.norm(query + self.look(query, memory, memory, need_weights=False)[0])
        return {name: torch.cat([x, self.decoder(x + where)], -1)}


def cae() -> MaskedAutoencoder:
    align = Objective(TeacherFeatures("codes", DIM), mse, Slice(0, DIM, DIM), weight=2.0)
    words = Objective(WordIds(), cross_entropy, Slice(DIM, DIM, WORDS))
    readouts = {"main": Readout(Regressor(), {"align": align, "words": words})}
    teachers = {"codes": HiddenCodes(), "words": Words()}
    return MaskedAutoencoder(patches(), RandomMasker(0.5), vit(VALUES, GRID, cls=True), readouts, teachers)


def test_a_second_pass_over_what_is_hidden():
    method, batch = cae(), image_batch(3)
    out = run(method, batch)
    assert method.teachers["codes"].calls == 1
    assert out.targets["words"].values.dtype == torch.long and not out.targets["align"].values.requires_grad
    hidden = Mask.from_hidden(~out.masks["image"].hidden)
    expected = method.encode(method.tokenizer.tokenize_views(batch.views), {"image": hidden})["image"].features
    assert torch.allclose(out.targets["align"].values, expected, atol=1e-6)
    assert torch.allclose(out.loss, 2 * out.terms["align"] + out.terms["words"])
    tight(method, batch)
