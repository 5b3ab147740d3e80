"""UMD, LMD, FastDiT-3D: corruption other than hiding, times that condition both sides, groups in a batch, sampling."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.decoders import Decoder, MAEDecoder
from core.embeddings import SinCos
from core.encoder import Encoder
from core.losses import mse
from core.maskers import Masker, ViewMasker, keep_lowest, uniform
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import Target
from core.tokenizers import Patchify, Tokenizer
from core.tokens import (
    Batch,
    EncoderInput,
    ForwardContext,
    Latent,
    Layout,
    Mask,
    Progress,
    Query,
    Rows,
    TargetValues,
    Tokens,
)
from tests.contracts.stress.parts import nothing_hidden, tight
from tests.contracts.toys import CELLS, DIM, image_batch, light, method, raw_objective, run, trunk
from tests.contracts.toys import vit as plain_vit

GRID, VALUES = (4, 4), 4

# UMD: one half of the batch as MAE has it, the other noised at a low ratio, with other questions ----------------------


class Halves(Patchify):
    """One batch becomes two views: the first samples get noise, the last stay clean."""

    def tokenize_views(self, views: Mapping) -> dict[str, Tokens]:
        (data,) = views.values()
        half = len(data) // 2
        return {"noised": self(data[:half]), "clean": self(data[half:])}


@dataclass(frozen=True)
class Noise:
    """√a · content + √(1 − a) · noise, for the rows that are left to see."""

    share: Tensor  # (B,)
    values: Tensor  # (B, N, *C)

    def __call__(self, content: Tensor, rows: Rows | None) -> Tensor:
        a = self.share.reshape(-1, *(1,) * (content.dim() - 1))
        return a.sqrt() * content + (1 - a).sqrt() * (self.values if rows is None else rows.gather(self.values))


RATIOS = {"noised": 0.375, "clean": 0.75}


class NoisyOrMasked(Masker):
    """Noise and a time for one half, as random numbers like those that hide."""

    def draw(self, tokens, generator, ctx) -> dict:
        shape = {name: one.content.shape for name, one in tokens.items()}
        drawn = {name: {"order": uniform(size[:2], torch.device("cpu"), generator)} for name, size in shape.items()}
        drawn["noised"]["time"] = uniform(shape["noised"][:1], torch.device("cpu"), generator)
        drawn["noised"]["noise"] = torch.randn(shape["noised"], generator=generator)
        return drawn

    def __call__(self, tokens, draws, ctx) -> dict[str, Mask]:
        masks = {}
        for name, one in tokens.items():
            time = draws[name].get("time", torch.zeros(len(one.content)))
            mask = keep_lowest(draws[name]["order"], one, RATIOS[name])
            noise = Noise(1 - time, draws[name]["noise"]) if "noise" in draws[name] else None
            masks[name] = replace(mask, corrupt=noise, condition={"time": time})
        return masks


class Timed(Encoder):
    """Adds the time to every token, and hands it on."""

    def __init__(self):
        super().__init__()
        self.inner, self.time = plain_vit(VALUES, GRID, cls=True), nn.Linear(1, DIM)
        self.embed_dim, self.depth = DIM, 2
        self.seen: list[EncoderInput] = []

    def forward(self, seen: EncoderInput, taps=()) -> Latent:
        self.seen.append(seen)
        latent = self.inner(seen, taps)
        return replace(latent, features=latent.features + self.time(seen.condition["time"][:, None])[:, None])


class TimedDecoder(MAEDecoder):
    def __init__(self):
        super().__init__(DIM, DIM, trunk(1), SinCos(GRID, DIM))
        self.time = nn.Linear(1, DIM)

    def forward(self, latent, layout, places, others) -> dict[str, Tensor]:
        said = super().forward(latent, layout, places, others)
        shift = self.time(latent.condition["time"][:, None])[:, None]
        return {name: x + shift for name, x in said.items()}


class AddedNoise(Target):
    """The noise that was added to the rows that are seen."""

    out = VALUES

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(query.rows.gather(ctx.masks[view].corrupt.values).flatten(2))


def umd() -> MaskedAutoencoder:
    decoder = TimedDecoder()
    noised = {
        "clean_of_noised": raw_objective(VALUES, weight=0.25),
        "noise": Objective(AddedNoise(), mse, Head(DIM, VALUES), queries=["visible"], weight=0.25),
    }
    readouts = {
        "noised": Readout(decoder, noised, reads="noised"),
        "clean": Readout(decoder, {"clean": raw_objective(VALUES, weight=0.5)}, reads="clean"),
    }
    return MaskedAutoencoder(Halves([2, 2], (8, 8), 1), NoisyOrMasked(), Timed(), readouts)


def test_groups_of_one_batch_are_spoilt_and_asked_differently():
    made, batch = umd(), image_batch(6)
    out = run(made, batch)
    assert [mask.visible.count for mask in out.masks.values()] == [10, 4]
    noised, clean = made.encoder.seen
    content = made.tokenizer.tokenize_views(batch.views)["clean"].content
    assert torch.equal(clean.content, out.masks["clean"].visible.gather(content)) and clean.condition["time"].sum() == 0
    noise = out.masks["noised"].corrupt
    rows = out.masks["noised"].visible
    truth = made.tokenizer.tokenize_views(batch.views)["noised"].content
    a = noise.share[:, None, None, None, None]
    assert torch.allclose(noised.content, a.sqrt() * rows.gather(truth) + (1 - a).sqrt() * rows.gather(noise.values))
    assert torch.allclose(
        out.loss, 0.25 * out.terms["clean_of_noised"] + 0.25 * out.terms["noise"] + 0.5 * out.terms["clean"]
    )
    assert made.encoder.time.weight.grad.abs().sum() > 0 and made.readouts["clean"].decoder.time.weight.grad is not None
    tight(made, batch, each_alone=False)


def test_draws_hold_the_noise_too():
    made, batch = umd(), image_batch(6)
    ctx = ForwardContext(batch, made.tokenizer.tokenize_views(batch.views))
    draws = made.masker.draw(ctx.tokens, torch.Generator().manual_seed(3), ctx)
    assert torch.equal(made(batch, draws=draws).loss, made(batch, draws=draws).loss)


def test_a_sampling_loop_from_noise():
    """Nothing hidden, contents replaced from step to step: `predict` is all that sampling needs."""
    made, batch = umd(), image_batch(6)
    tokens = made.tokenizer.tokenize_views(batch.views)
    x = torch.randn(tokens["clean"].content.shape, generator=torch.Generator().manual_seed(0))
    for time in (1.0, 0.6, 0.3):
        views = dict.fromkeys(("noised", "clean"), replace(tokens["clean"], content=x))
        mask = replace(nothing_hidden(views["clean"]), condition={"time": torch.full((3,), time)})
        with torch.no_grad():
            _, said = made.predict(views, dict.fromkeys(views, mask), names={"clean_of_noised"})
        x = x.lerp(said["clean_of_noised"].view(x.shape), 0.5)
    image = made.tokenizer.untokenize(x)
    assert image.shape == (3, 1, 8, 8) and torch.isfinite(image).all()


# LMD: latents of a frozen autoencoder, a ratio that grows -------------------------------------------------------------


class LatentPatches(Tokenizer):
    """A frozen encoder's latents, patchified: no learned parameters."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
        self.patches = Patchify([1, 1], (4, 4), 2)

    def forward(self, data: Tensor) -> Tokens:
        return self.patches(nn.functional.conv2d(data * 2 - 1, self.kernel, stride=2))


class Growing(ViewMasker):
    """From 15 to 75 % over the first two thirds of training."""

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        return uniform((tokens.content.shape[0], tokens.layout.count), tokens.content.device, generator)

    def mask_view(self, tokens, draws, ctx) -> Mask:
        share = min(1.0, 1.5 * ctx.progress.step / ctx.progress.steps)
        return keep_lowest(draws, tokens, 0.15 + 0.6 * share)


def test_the_ratio_is_a_function_of_progress():
    made = method(LatentPatches(), plain_vit(2, GRID), light(GRID), 2, Growing())
    hidden = []
    for step in (0, 300, 900):
        out = run(made, image_batch(3), progress=Progress(step, 900))
        hidden.append(int(out.masks["image"].hidden[0].sum()))
    assert hidden == [3, 8, 12]
    assert not [name for name, _ in made.tokenizer.named_parameters()]


# FastDiT-3D: noise added before tokens are made, ragged counts by what is occupied ------------------------------------


class Voxels(Tokenizer):
    """Noised points -> mean and occupancy of every cell of a line. The data drew noise and time; they travel along."""

    def forward(self, data: Mapping[str, Tensor]) -> Tokens:
        where = (data["points"][..., 0].clamp(0, 0.999) * CELLS).long()
        total = torch.zeros(*where.shape[:1], CELLS, 3).scatter_add(
            1, where[..., None].expand(-1, -1, 3), data["points"]
        )
        count = torch.zeros(where.shape[0], CELLS).scatter_add(1, where, torch.ones_like(data["points"][..., 0]))
        side = {"occupied": count > 0, "time": data["time"], "noise": data["noise"], "where": where}
        return Tokens(total / count.clamp(min=1)[..., None], Layout(CELLS, (CELLS,)), side)


class ByOccupancy(ViewMasker):
    """Keeps half of what is occupied, at least one, and one empty cell in eight: unequally many in each sample."""

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        return uniform((tokens.content.shape[0], CELLS), tokens.content.device, generator)

    def mask_view(self, tokens, draws, ctx) -> Mask:
        occupied = tokens.side["occupied"]
        keep = (occupied.sum(1, keepdim=True) // 2).clamp(min=1)
        rank = draws.masked_fill(~occupied, 2.0).argsort(1).argsort(1)
        seen = (occupied & (rank < keep)) | (~occupied & (draws < 0.125))
        mask, told = Mask.from_hidden(~seen), {"time": tokens.side["time"], "where": tokens.side["where"]}
        return replace(mask, queries={"main": Query(Rows.all(*seen.shape))}, condition=told)


class PointNoise(Target):
    """The noise of every point, (B, P, 3), whatever cell it fell into."""

    reveals, out = "layout", 3

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(ctx.tokens[view].side["noise"])


class Devoxelise(Decoder):
    """Features of cells, read off where the noised points lie."""

    def __init__(self, cells: MAEDecoder):
        super().__init__()
        self.dim, self.cells = DIM, cells

    def forward(self, latent, layout, places, others) -> dict[str, Tensor]:
        said = self.cells(latent, layout, places, others)
        time = latent.condition["time"][:, None, None]
        return {name: Rows(latent.condition["where"]).gather(x + time) for name, x in said.items()}


def test_cells_follow_the_noised_points_and_counts_are_ragged():
    drawn = torch.Generator().manual_seed(0)
    points, noise = torch.rand(3, 20, 3, generator=drawn), torch.randn(3, 20, 3, generator=drawn)
    points[1, :, 0] *= 0.3
    time = torch.tensor([0.1, 0.1, 0.4])
    data = {"points": points + 0.1 * noise, "noise": noise, "time": time}
    objective = Objective(PointNoise(), mse, Head(DIM, 3))
    readouts = {"main": Readout(Devoxelise(light((CELLS,))), {"noise": objective})}
    made = MaskedAutoencoder(Voxels(), ByOccupancy(), plain_vit(3, (CELLS,)), readouts)
    out = run(made, Batch({"point": data}))
    assert out.masks["point"].visible.valid is not None and out.predictions["noise"].shape == (3, 20, 3)
    assert torch.allclose(out.loss, (out.predictions["noise"] - noise).square().mean())
    assert out.masks["point"].condition["time"] is out.latents["point"].condition["time"]
