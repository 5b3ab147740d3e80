"""CropMAE and CrossVideoMAE: several views of a sample, each with its own mask; decoders that look at other views."""

import torch
from torch import Tensor

from core.encoder import EncoderByView
from core.losses import mse
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import TeacherFeatures
from core.tokenizers import TokenizerByView
from core.tokens import Batch, ForwardContext, Query, TargetValues
from tests.contracts.pairs import masked
from tests.contracts.stress.parts import (
    CrossDecoder,
    MaskByName,
    Pooled,
    contrast,
    pooled,
    tight,
)
from tests.contracts.toys import DIM, Zeros, light, patches, raw_objective, run, vit

GRID, VALUES = (4, 4), 4


def data(*views: str, size=(8, 8), count: int = 3) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(len(views))
    return {view: torch.rand(count, 1, *size, generator=drawn) for view in views}


def cropmae() -> MaskedAutoencoder:
    readout = Readout(CrossDecoder(GRID, look="source"), {"pixels": raw_objective(VALUES)}, reads="target")
    masker = MaskByName({"source": RandomMasker(0.0), "target": RandomMasker(0.75)})
    return MaskedAutoencoder(patches(), masker, vit(VALUES, GRID, cls=True), {"main": readout})


def test_one_view_is_whole_and_the_other_answers_from_it():
    method, batch = cropmae(), Batch(data("source", "target"))
    out = run(method, batch)
    assert out.latents["source"].features.shape[1] == 16 and out.latents["target"].features.shape[1] == 4
    assert out.masks["source"].queries["main"].rows.count == 0, "nothing is asked of the source"
    other = Batch({**batch.views, "source": batch.views["source"].flip(-1)})
    assert not torch.allclose(method(other, masks=out.masks).predictions["pixels"], out.predictions["pixels"])
    tight(method, batch)


# CrossVideoMAE --------------------------------------------------------------------------------------------------------


class FrozenImages(torch.nn.Module):
    """A pre-trained image branch: a view without a mask, which serves it alone."""

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, ctx: ForwardContext) -> Tensor:
        return pooled(self.encoder(ctx.tokens["still"].unmasked()))[:, None]


class Whole(TeacherFeatures):
    """The teacher's one vector of each sample, whatever rows are asked."""

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        return TargetValues(ctx.teacher_output(self.teacher))


def crossvideomae() -> MaskedAutoencoder:
    video, grid = patches((4, 8, 8)), (2, 4, 4)
    clips, frames = vit(8, grid), vit(VALUES, GRID)
    rebuild, decoder = raw_objective(8), light(grid)
    within = Objective(Zeros(), contrast, Head(DIM, DIM), queries=["visible"])
    across = Objective(Zeros(), contrast, Head(DIM, DIM), queries=["visible"])
    still = Objective(Whole("image", DIM), mse, Head(DIM, DIM), queries=["visible"], weight=0.1)
    readouts = {
        "clip": Readout(decoder, {"clip": rebuild}, reads="clip"),
        "again": Readout(decoder, {"again": raw_objective(8)}, reads="again"),
        "frame": Readout(light(GRID), {"frame": raw_objective(VALUES)}, reads="frame"),
        "within": Readout(Pooled("again"), {"within": within}, reads="clip"),
        "across": Readout(Pooled("frame"), {"across": across}, reads="clip"),
        "still": Readout(Pooled(), {"still": still}, reads="frame"),
    }
    half = RandomMasker(0.5)
    return MaskedAutoencoder(
        TokenizerByView({"clip": video, "again": video, "frame": patches(), "still": patches()}),
        MaskByName({"clip": RandomMasker(0.75), "again": RandomMasker(0.75), "frame": half}),
        EncoderByView({"clip": clips, "again": clips, "frame": frames}),
        readouts,
        {"image": FrozenImages(vit(VALUES, GRID))},
    )


def test_three_streams_and_what_ties_them():
    method = crossvideomae()
    batch = Batch({**data("clip", "again", size=(4, 8, 8)), **data("frame", "still")})
    step_tokens, masks = masked(method, batch)
    assert set(step_tokens) == {"clip", "again", "frame", "still"} and set(masks) == {"clip", "again", "frame"}
    out = run(method, batch)
    assert set(out.terms) == {"clip", "again", "frame", "within", "across", "still"}
    assert out.latents["frame"].features.shape[1] == 8 and out.latents["clip"].features.shape[1] == 8
    assert not torch.equal(out.masks["clip"].hidden, out.masks["again"].hidden)
    decoders = [method.readouts[name].decoder for name in ("clip", "again")]
    assert decoders[0] is decoders[1] and method.encoder.views["clip"] is method.encoder.views["again"]
