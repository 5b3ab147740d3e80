"""The method class: determinism, replay, prediction without scoring, shared decoding, teachers."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from core.decoders import MAEDecoder
from core.embeddings import ClsToken, PatchEmbed, SinCos
from core.encoder import Trunk, ViT
from core.errors import UserError
from core.losses import mse
from core.maskers import Masker, RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.targets import Pixels, TeacherFeatures
from core.teachers import MovingTeacher
from core.tokenizers import Normalise, Patchify
from core.tokens import Batch, ForwardContext, Mask, Progress, Query, Rows

DIM, GRID, VALUES = 16, (4, 4), 4


class Counting(MAEDecoder):
    """Remembers what it was asked."""

    def forward(self, latent, layout, places, others):
        self.asked = dict(places)
        self.others = set(others)
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(latent, layout, places, others)


def objective(weight: float = 1.0, queries: list[str] | None = None) -> Objective:
    return Objective(Pixels([2, 2], 1, GRID), mse, Head(DIM, VALUES), queries, weight=weight)


def method(readouts=None, teachers=None, masker=None, **more) -> MaskedAutoencoder:
    torch.manual_seed(0)
    embed = PatchEmbed(VALUES, DIM, Normalise([0.5], [0.5]), SinCos(GRID, DIM))
    readouts = readouts or {"main": Readout(decoder(), {"pixels": objective()})}
    encoder = ViT(Trunk(DIM, 2, 2), embed, ClsToken(DIM))
    return MaskedAutoencoder(
        Patchify([2, 2], (8, 8), 1), masker or RandomMasker(0.75), encoder, readouts, teachers, **more
    )


def decoder() -> Counting:
    return Counting(DIM, DIM, Trunk(DIM, 1, 2), SinCos(GRID, DIM))


def batch(count: int = 3) -> Batch:
    return Batch({"image": torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_generator_decides_everything():
    made = method()
    first, second, other = (made(batch(), generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.loss, second.loss) and torch.equal(
        first.masks["image"].hidden, second.masks["image"].hidden
    )
    assert not torch.equal(first.masks["image"].hidden, other.masks["image"].hidden)


def test_forward_changes_nothing():
    made = method()
    before = copy.deepcopy(made.state_dict())
    made(batch(), generator=seeded()).loss.backward()
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


def test_masks_and_draws_replay():
    made = method()
    out = made(batch(), generator=seeded())
    assert torch.equal(made(batch(), masks=out.masks).loss, out.loss)
    ctx = ForwardContext(batch(), made.tokenizer.tokenize_views(batch().views))
    draws = made.masker.draw(ctx.tokens, seeded(), ctx)
    assert torch.equal(made(batch(), draws=draws).loss, out.loss)


def test_predict_is_forward_without_scoring():
    made = method()
    out = made(batch(), generator=seeded())
    latent, predictions = made.predict(made.tokenizer.tokenize_views(batch().views), out.masks)
    assert torch.equal(predictions["pixels"], out.predictions["pixels"])
    assert torch.equal(latent["image"].features, out.latents["image"].features)


def test_predict_computes_what_is_named():
    one, two = decoder(), decoder()
    made = method({"a": Readout(one, {"x": objective()}), "b": Readout(two, {"y": objective()})})
    mask = made(batch(), generator=seeded()).masks
    one.calls = two.calls = 0
    _, predictions = made.predict(made.tokenizer.tokenize_views(batch().views), mask, names={"y"})
    assert set(predictions) == {"y"} and (one.calls, two.calls) == (0, 1)


def test_the_loss_is_the_weighted_sum_of_terms():
    made = method({"main": Readout(decoder(), {"x": objective(0.5), "y": objective(2.0, ["visible"])})})
    out = made(batch(), generator=seeded())
    assert set(out.terms) == {"x", "y"} and not out.terms["x"].requires_grad
    assert torch.allclose(out.loss, 0.5 * out.terms["x"] + 2 * out.terms["y"])
    for name, rows in (("x", 12), ("y", 4)):
        assert out.predictions[name].shape == out.targets[name].values.shape == (3, rows, VALUES)


@pytest.mark.parametrize("at", ["main", "visible", "grid"])
def test_a_place_that_two_objectives_share_is_decoded_once(at):
    one = decoder()
    made = method(
        {"main": Readout(one, {"x": objective(queries=[at]), "y": objective(queries=[at]), "z": objective()})}
    )
    out = made(batch(), generator=seeded())
    assert len(one.asked) == (1 if at == "main" else 2) and one.calls == 1
    assert set(out.predictions) == {"x", "y", "z"}
    x, y = (made.readouts["main"].objectives[name].head for name in "xy")
    with torch.no_grad():
        y.load_state_dict(x.state_dict())
    again = made(batch(), masks=out.masks)
    assert torch.equal(again.predictions["x"], again.predictions["y"])


def test_an_objective_may_ask_at_several_places():
    made = method({"main": Readout(decoder(), {"x": objective(queries=["main", "visible"])})})
    assert list(made(batch(), generator=seeded()).terms) == ["x/main", "x/visible"]


def test_without_a_decoder_the_latent_answers_or_a_tap_of_it():
    made = method(
        {
            "a": Readout(None, {"x": objective(queries=["visible"])}),
            "b": Readout(None, {"y": objective(queries=["visible"])}, tap="block0"),
        }
    )
    out = made(batch(), generator=seeded())
    latent, heads = out.latents["image"], {n: made.readouts[r].objectives[n].head for r, n in (("a", "x"), ("b", "y"))}
    assert torch.allclose(out.predictions["x"], heads["x"](latent.features), atol=1e-6)
    assert torch.allclose(out.predictions["y"], heads["y"](latent.taps["block0"]), atol=1e-6)


def test_mistakes_in_readouts_are_named():
    with pytest.raises(UserError, match="one name"):
        method({"a": Readout(decoder(), {"x": objective()}), "b": Readout(decoder(), {"x": objective()})})
    with pytest.raises(UserError, match="no tap 'block9'"):
        method({"a": Readout(None, {"x": objective(queries=["visible"])}, tap="block9")})(batch())
    with pytest.raises(UserError, match=r"no query 'man'.*visible, grid, main"):
        method({"a": Readout(decoder(), {"x": objective(queries=["man"])})})(batch())


def test_nothing_hidden_costs_nothing():
    made = method(masker=RandomMasker(0.0))
    out = made(batch(), generator=seeded())
    out.loss.backward()
    assert out.loss == 0 and out.predictions["pixels"].shape == (3, 0, VALUES)


@pytest.mark.parametrize(("ratio", "words"), [(0.0, "nothing to predict"), (0.99, "nothing to see")])
def test_masks_that_leave_no_task_are_refused(ratio, words):
    made = method(masker=RandomMasker(ratio))
    with pytest.raises(UserError, match=words):
        made.check_masks(batch(), Progress(), seeded())


def test_masks_of_a_task_pass():
    method().check_masks(batch(), Progress(), seeded())
    everything = method({"a": Readout(None, {"x": objective(queries=["visible"])})}, masker=RandomMasker(0.0))
    everything.check_masks(batch(), Progress(), seeded())


def test_names_that_are_not_decayed():
    made = method(no_weight_decay=["readouts.main.decoder.mask_token"])
    assert made.no_weight_decay() == {"readouts.main.decoder.mask_token"}


def test_a_copy_is_independent():
    made = method(teachers={"t": Mean(), "f": Following()})
    twin = copy.deepcopy(made)
    with torch.no_grad():
        twin.encoder.trunk.norm.weight += 1
    assert not torch.equal(made.encoder.trunk.norm.weight, twin.encoder.trunk.norm.weight)
    assert twin.moving_teachers["f"] is twin.teachers["f"] and twin.teachers["f"] is not made.teachers["f"]
    assert twin.frozen_teachers[0] is twin.teachers["t"]


def test_doubles():
    made = method().double()
    out = made(Batch({"image": batch().views["image"].double()}), generator=seeded())
    assert out.predictions["pixels"].dtype == torch.float64


# Teachers -------------------------------------------------------------------------------------------------------------


class Mean(nn.Module):
    """A frozen teacher: a linear map of the mean of every patch."""

    def __init__(self):
        super().__init__()
        self.map, self.norm = nn.Linear(1, 2), nn.BatchNorm1d(2)

    def forward(self, ctx: ForwardContext) -> torch.Tensor:
        return self.map(ctx.tokens["image"].content.flatten(2).mean(-1, keepdim=True))


class Following(MovingTeacher):
    def __init__(self):
        super().__init__()
        self.trail: list[str] = []

    def follow(self, method) -> None:
        self.copy = copy.deepcopy(method.encoder).requires_grad_(False)

    def before_step(self, method, progress) -> None:
        self.trail.append(f"before {progress.step}")

    def after_step(self, method, progress) -> None:
        self.trail.append(f"after {progress.step}")

    def forward(self, ctx: ForwardContext) -> torch.Tensor:
        return self.copy(ctx.tokens["image"].unmasked()).features


def test_frozen_teachers_are_no_part_of_the_weights():
    made = method(
        {"main": Readout(None, {"t": Objective(TeacherFeatures("t", 2), mse, Head(DIM, 2), ["visible"])})},
        {"t": Mean()},
    )
    made(batch(), generator=seeded()).loss.backward()
    teacher = made.teachers["t"]
    assert not any("teacher" in name or "map" in name for name in made.state_dict())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not made.train().teachers["t"].training, "no running statistics"
    assert made.to("meta").teachers["t"].map.weight.is_meta


def test_followers_are_saved_and_told_of_every_step():
    made = method(teachers={"f": Following()})
    saved = made.state_dict()
    assert "moving_teachers.f.copy.trunk.norm.weight" in saved and not any(
        name.startswith("teachers") for name in saved
    )
    twin = method(teachers={"f": Following()})
    twin.load_state_dict(saved)
    for step in range(2):
        made.before_step(Progress(step, 2))
        made.after_step(Progress(step, 2))
    assert made.teachers["f"].trail == ["before 0", "after 0", "before 1", "after 1"]


def test_a_second_pass_of_the_model_itself():
    """What a masker's pre-pass does: nothing hidden, every row asked."""
    made = method()
    tokens = made.tokenizer.tokenize_views(batch().views)
    hidden = torch.zeros(3, 16, dtype=torch.bool)
    mask = {"image": Mask(hidden, Rows.all(3, 16), queries={"main": Query(Rows.all(3, 16))})}
    latent, said = made.predict(tokens, mask, names={"pixels"})
    assert said["pixels"].shape == (3, 16, VALUES) and latent["image"].features.shape == (3, 16, DIM)
    shuffled = replace(mask["image"], queries={"main": Query(Rows(torch.arange(15, -1, -1).expand(3, 16)))})
    _, turned = made.predict(tokens, {"image": shuffled})
    assert torch.allclose(turned["pixels"].flip(1), said["pixels"], atol=1e-5)


def test_a_readout_without_its_view_is_skipped():
    """Joint training: a batch of one modality trains the readouts of that modality alone."""
    readouts = {
        "main": Readout(decoder(), {"x": objective()}),
        "sound": Readout(decoder(), {"y": objective()}, view="sound"),
    }
    made = method(readouts)

    with pytest.warns(UserWarning, match="Readout 'sound' is skipped in batches without a mask of 'sound'"):
        out = made(batch(), generator=seeded())
    assert set(out.terms) == {"x"}

    with (
        pytest.warns(UserWarning),
        pytest.raises(UserError, match="No readout of the method reads any of the masks image"),
    ):
        method({"sound": readouts["sound"]})(batch(), generator=seeded())


@pytest.mark.parametrize(
    ("setting", "name"), [("reads", "imge"), ("view", "Image"), ("view", "image/part"), ("reads", "video")]
)
def test_a_misspelt_view_of_a_readout_is_an_error_beside_other_readouts(setting, name):
    readouts = {
        "main": Readout(decoder(), {"x": objective()}),
        "second": Readout(decoder(), {"y": objective()}, **{setting: name}),
    }
    with pytest.raises(UserError, match=rf"method.readouts.second.{setting}={name}: there is no such view.*image"):
        method(readouts).check_readouts(("image",))


def test_views_that_can_be_made_are_no_error():
    readouts = {
        "main": Readout(decoder(), {"x": objective()}, reads="image", view="image"),
        "sound": Readout(decoder(), {"y": objective()}, view="sound"),
    }
    method(readouts).check_readouts(("image", "sound"))


def test_parts_of_views_are_left_to_maskers_that_make_them():
    readouts = {"main": Readout(decoder(), {"x": objective()}, reads="image/context")}
    made = method(readouts)
    made.masker = type("PartMasker", (Masker,), {"draw": None, "__call__": None})()
    made.check_readouts(("image",))
    made.readouts["main"].reads = "imag/context"
    with pytest.raises(UserError, match="there is no such view"):
        made.check_readouts(("image",))
