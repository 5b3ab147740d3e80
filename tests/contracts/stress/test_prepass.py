"""HPM, MaskAlign, MR-MAE: a pass of a teacher, or of the model itself, decides the mask; progress steers it."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.decoders import Decoder, MAEDecoder
from core.embeddings import SinCos
from core.losses import mse, smooth_l1
from core.maskers import ViewMasker, keep_lowest, uniform
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import Target, TeacherFeatures
from core.teachers import EMATeacher
from core.tokens import ForwardContext, Latent, Mask, Progress, Query, TargetValues
from tests.contracts.stress.parts import Slice, context_of, nothing_hidden, optimise, tight
from tests.contracts.toys import DIM, Raw, image_batch, light, method, patches, run, trunk, vit

GRID, VALUES = (4, 4), 4

# HPM: an average of the model predicts every patch's loss; the hardest are hidden, more of them as time goes on -----


class Branches(MAEDecoder):
    """Two branches over one decoder input, side by side; the objectives' heads take their own."""

    def __init__(self):
        super().__init__(DIM, DIM, trunk(1), SinCos(GRID, DIM))
        self.left, self.right, self.dim = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), 2 * DIM

    def forward(self, latent, layout, places, others) -> dict[str, Tensor]:
        shared = super().forward(latent, layout, places, others)
        return {name: torch.cat([self.left(x), self.right(x)], -1) for name, x in shared.items()}


class Difficulty(Target):
    """The errors of another objective at the same place, and as weights which pairs of rows differ in it."""

    out = 1

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        error = ctx.errors["pixels"].detach()
        return TargetValues(error, (error[:, :, None] != error[:, None]).float())


def ranking(prediction: Tensor, values: Tensor) -> Tensor:
    """One error for every ordered pair of rows: (B, M, M)."""
    score = prediction[..., 0]
    margin = score[:, :, None] - score[:, None]
    return -torch.where(values[:, :, None] > values[:, None], F.logsigmoid(margin), F.logsigmoid(-margin))


class Hardness(EMATeacher):
    """What the average of encoder and decoder thinks of every row of the whole sample: (B, N)."""

    calls = 0

    def forward(self, ctx: ForwardContext) -> Tensor:
        self.calls += 1
        tokens = ctx.tokens["image"]
        model = MaskedAutoencoder(
            ctx.method.tokenizer, ctx.method.masker, self.copies["encoder"], dict(self.copies["readouts"].items())
        )
        _, said = model.predict(ctx.tokens, {"image": nothing_hidden(tokens)}, names={"hardness"})
        return said["hardness"][..., 0]


class EasyToHard(ViewMasker):
    """Of M hidden rows the α · M that are thought hardest are certain, the rest random; α grows to a half."""

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        return uniform((tokens.content.shape[0], tokens.layout.count), tokens.content.device, generator)

    def mask_view(self, tokens, draws, ctx) -> Mask:
        hidden = 3 * tokens.layout.count // 4
        certain = int(hidden * 0.5 * (int(ctx.progress.epoch) + 1) / ctx.progress.epochs)
        order = ctx.teacher_output("hardness").argsort(1, descending=True)
        score = draws.scatter(1, order[:, :certain], 2.0)
        return keep_lowest(score, tokens, keep=tokens.layout.count - hidden)


def hpm() -> MaskedAutoencoder:
    pixels = Objective(Raw(VALUES), mse, Slice(0, DIM, VALUES))
    hardness = Objective(Difficulty(), ranking, Slice(DIM, DIM, 1))
    readouts = {"main": Readout(Branches(), {"pixels": pixels, "hardness": hardness})}
    teachers = {"hardness": Hardness({"encoder": "encoder", "readouts": "readouts"}, 0.9)}
    return MaskedAutoencoder(patches(), EasyToHard(), vit(VALUES, GRID, cls=True), readouts, teachers)


def test_hard_patches_are_hidden_as_training_goes_on():
    made, batch = hpm(), image_batch(3)
    for epoch, certain in ((0, 0), (9, 6)):
        out = run(made, batch, progress=Progress(0, 10, epoch, 10.0))
        thought = context_of(made, batch).teacher_output("hardness")
        hardest = thought.argsort(1, descending=True)[:, :certain]
        assert out.masks["image"].hidden.gather(1, hardest).all()
        assert out.masks["image"].hidden.sum(1).tolist() == [12] * 3
    made.teachers["hardness"].calls = 0
    run(made, batch)
    assert made.teachers["hardness"].calls == 1
    tight(made, batch)


def test_the_second_branch_learns_the_errors_of_the_first():
    made, batch = hpm(), image_batch(3)
    out = run(made, batch)
    error = (out.predictions["pixels"] - out.targets["pixels"].values).square().mean(-1)
    assert torch.allclose(out.targets["hardness"].values, error) and not out.targets["hardness"].values.requires_grad
    assert out.targets["hardness"].weight.shape == (3, 12, 12)
    assert (out.targets["hardness"].weight.diagonal(dim1=1, dim2=2) == 0).all()
    head = made.readouts["main"].objectives["hardness"].head.linear.weight
    assert head.grad.abs().sum() > 0
    optimise(made)
    assert not torch.equal(
        made.encoder.trunk.norm.weight, made.teachers["hardness"].copies["encoder"].trunk.norm.weight
    )


# MaskAlign: no decoder; several layers of the student against several of a teacher, at seen rows and cls -------------


class Strong(nn.Module):
    """A frozen teacher with its own normalisation: attention of cls to every patch, and features of two layers."""

    def __init__(self):
        super().__init__()
        self.layers, self.drop = nn.ModuleList([nn.Linear(VALUES, 6), nn.Linear(6, 6)]), nn.Dropout(0.5)

    def forward(self, ctx: ForwardContext) -> dict[str, Tensor]:
        x, said = ctx.tokens["image"].content.flatten(2) * 2 - 1, []
        for layer in self.layers:
            x = torch.tanh(layer(self.drop(x)))
            said.append(F.layer_norm(torch.cat([x.mean(1, keepdim=True), x], 1), (6,)))
        return {"attention": x.square().sum(-1).softmax(1), "layers": torch.cat(said, -1)}


class Attended(ViewMasker):
    """Keeps patches without replacement, in proportion to attention."""

    def draw_view(self, tokens, generator, ctx) -> Tensor:
        return uniform((tokens.content.shape[0], tokens.layout.count), tokens.content.device, generator)

    def mask_view(self, tokens, draws, ctx) -> Mask:
        gumbel = -torch.log(-torch.log(draws.clamp(1e-6, 1 - 1e-6)))
        return keep_lowest(-(ctx.teacher_output("strong")["attention"].log() + gumbel), tokens, 0.7)


class Alignment(Decoder):
    """A learned mixture of the student's blocks for each layer of the teacher; cls stands before the rows."""

    dim = 2 * DIM
    taps = ("block0", "block0/cls", "block1", "block1/cls")

    def __init__(self):
        super().__init__()
        self.mixture = nn.Parameter(torch.eye(2) + 0.01)

    def forward(self, latent: Latent, layout, queries: Mapping[str, Query], others) -> dict[str, Tensor]:
        blocks = [torch.cat([latent.taps[f"block{i}/cls"][:, None], latent.taps[f"block{i}"]], 1) for i in (0, 1)]
        mixed = torch.einsum("ts,sbnd->bntd", self.mixture, torch.stack(blocks))
        return dict.fromkeys(queries, mixed.flatten(2))


class StrongFeatures(Target):
    out = 12

    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        said = ctx.teacher_output("strong")["layers"]
        return TargetValues(torch.cat([said[:, :1], query.rows.gather(said[:, 1:])], 1))


def maskalign() -> MaskedAutoencoder:
    align = Objective(StrongFeatures(), smooth_l1, Head(2 * DIM, 12), queries=["visible"], weight=2.0)
    readouts = {"align": Readout(Alignment(), {"align": align})}
    return MaskedAutoencoder(patches(), Attended(), vit(VALUES, GRID, cls=True), readouts, {"strong": Strong()})


def test_layers_of_the_student_meet_layers_of_the_teacher():
    made, batch = maskalign(), image_batch(3)
    out = run(made, batch, idle=["encoder.trunk.norm"])
    assert made.taps == ("block0", "block0/cls", "block1", "block1/cls")
    assert out.predictions["align"].shape == (3, 1 + 4, 12), "cls and the seen rows"
    assert torch.allclose(out.loss, 2 * F.smooth_l1_loss(out.predictions["align"], out.targets["align"].values))
    tight(made, batch)


def test_attended_patches_are_seen_more_often():
    made, batch = maskalign(), image_batch(1)
    attention = context_of(made, batch).teacher_output("strong")["attention"][0]
    seen = torch.zeros(16)
    for seed in range(100):
        ctx = context_of(made, batch, generator=torch.Generator().manual_seed(seed))
        mask = made.draw_mask(ctx)["image"]
        seen += (~mask.hidden[0]).float()
    order = attention.argsort()
    assert seen[order[-4:]].sum() > seen[order[:4]].sum()


def test_a_frozen_teacher_is_neither_trained_nor_saved_and_moves_along():
    made = maskalign()
    teacher = made.teachers["strong"]
    assert not any("strong" in key for key in made.state_dict())
    assert not any(p.requires_grad for p in teacher.parameters()) and not any(
        p is q for p in teacher.parameters() for q in made.parameters()
    )
    assert not teacher.training and not made.train().teachers["strong"].training
    made.double()
    assert teacher.layers[0].weight.dtype == torch.float64
    assert made.to("meta").teachers["strong"].layers[0].weight.is_meta


# MR-MAE: pixels at hidden rows behind the decoder, features of a teacher at seen rows before it ----------------------


class Mimicked(nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(VALUES, 6)

    def forward(self, ctx: ForwardContext) -> Tensor:
        self.calls += 1
        return self.layer(ctx.tokens["image"].content.flatten(2))


class Salient(Attended):
    def mask_view(self, tokens, draws, ctx) -> Mask:
        return keep_lowest(draws - 0.1 * ctx.teacher_output("clip").square().sum(-1), tokens, 0.75)


def mr_mae() -> MaskedAutoencoder:
    made = method(patches(), vit(VALUES, GRID), light(GRID), VALUES, Salient())
    mimic = Objective(TeacherFeatures("clip", 6), mse, Head(DIM, 6), queries=["visible"])
    readouts = {**dict(made.readouts.items()), "mimic": Readout(None, {"mimic": mimic})}
    return MaskedAutoencoder(made.tokenizer, Salient(), made.encoder, readouts, {"clip": Mimicked()})


def test_two_objectives_never_meet_on_a_token():
    made, batch = mr_mae(), image_batch(3)
    out = run(made, batch)
    assert made.teachers["clip"].calls == 1, "masker and target share one pass"
    questions = made.prediction_tasks(out.masks)
    rows = {name: query.rows.to_mask(16) for name, (_, _, query) in questions.items()}
    assert not (rows["content"] & rows["mimic"]).any() and (rows["content"] | rows["mimic"]).all()
    assert torch.allclose(out.loss, out.terms["content"] + out.terms["mimic"])
    tight(made, batch)
