import numpy as np
import pytest
import torch

from core.evaluation.reconstruction import evaluate_reconstruction
from core.evaluation.settings import LoaderSettings
from core.maskers import ViewMasker
from core.reconstruction.baseline import HarmonicInterpolation
from core.tokens import Mask, Query, Rows


@pytest.fixture
def evaluate(reader, squares):
    def run(method, source=None, samples=32, seed=0, batch_size=8):
        loader = LoaderSettings(reader, batch_size)
        return evaluate_reconstruction(method, source or squares(), loader, samples=samples, seed=seed)

    return run


def answering(method, monkeypatch, answer):
    """The method, made to predict `answer(objective, step, view, place)`."""

    def predict(tokens, mask, names=None, ctx=None):
        return {}, {name: answer(*asked[:1], ctx, *asked[1:]) for name, asked in method.prediction_tasks(mask).items()}

    monkeypatch.setattr(method, "predict", predict)
    return method


def truth(objective, step, view, place):
    return objective.target(step, view, place).values


def filled(objective, ctx, view, place):
    """What the filler's picture looks like through the objective's target, computed apart from the code under test."""
    picture = HarmonicInterpolation().predict(
        ctx.method.tokenizer, ctx.batch.views[view], ctx.tokens[view], ctx.masks[view].hidden
    )
    content = place.rows.gather(ctx.method.tokenizer(picture).content)
    values = objective.target.values(content)
    mean, std = objective.target.statistics(values)
    return ((values - mean) / std).flatten(2)


@pytest.mark.parametrize("per", ["none", "patch", "channel"])
def test_skill_of_known_answers(make_method, evaluate, monkeypatch, per):
    """Right answers have skill 1; the filler's own answers 0 or less (exactly 0 where it beats zero)."""
    method = answering(make_method(per), monkeypatch, truth)
    figures = evaluate(method)["figures"]["pixels"]
    assert all(figures[region]["skill"] == {"value": 1, "low": 1, "high": 1} for region in figures)
    assert all(figures[region]["result"] == "wins" for region in figures)
    figures = evaluate(answering(method, monkeypatch, filled))["figures"]["pixels"]
    for region in figures.values():
        if region["better_reference"] == "filler":
            assert region["skill"]["value"] == pytest.approx(0, abs=1e-3)
        assert region["result"] != "wins"
        assert region["error"]["prediction"] == pytest.approx(region["error"]["filler"], rel=1e-3)


def test_zero_is_the_reference_where_the_filler_is_worse(make_method, evaluate, monkeypatch):
    """Standardised patches of noise: the filler's patches are smooth, and scaled up; zero is better."""
    method = answering(make_method("patch"), monkeypatch, lambda *asked: torch.zeros_like(truth(*asked)))
    figures = evaluate(method)["figures"]["pixels"]
    assert figures["total"]["better_reference"] == "zero" and figures["total"]["skill"]["value"] == 0


def test_worse_than_the_filler_is_negative(make_method, evaluate, monkeypatch):
    method = answering(make_method(), monkeypatch, lambda *asked: truth(*asked) + 5)
    total = evaluate(method)["figures"]["pixels"]["total"]
    assert total["skill"]["high"] < 0 and total["result"] == "worse than harmonic interpolation"


def test_an_untrained_method_does_not_win(make_method, evaluate):
    result = evaluate(make_method())
    assert result["figures"]["pixels"]["total"]["result"] != "wins"
    assert result["counts"] == {"test": 32, "skipped": 0}
    assert "harmonic" in result["protocol"]["filler"]


def test_object_and_background_are_told_apart(make_method, evaluate, monkeypatch):
    """Tokens at least half covered by the square are answered by zero, all others rightly."""
    covered = []

    def only_background(objective, ctx, view, place):
        values = truth(objective, ctx, view, place)
        bright = ctx.batch.views[view].float().mean(1, keepdim=True) > 95
        shares = ctx.method.tokenizer(bright.expand(-1, 3, -1, -1)).content.float().mean((2, 3, 4))
        is_object = place.rows.gather(shares) >= 0.5
        covered.append(int(is_object.sum()))
        return torch.where(is_object[..., None], 0.0, values)

    figures = evaluate(answering(make_method(), monkeypatch, only_background))["figures"]["pixels"]
    assert figures["background"]["skill"]["value"] == 1
    assert figures["object"]["error"]["prediction"] == figures["object"]["error"]["zero"] > 0
    assert figures["object"]["tokens"] == sum(covered) > 0
    assert figures["object"]["tokens"] + figures["background"]["tokens"] == figures["total"]["tokens"] == 32 * 12


def test_without_known_objects_only_the_total_is_given(make_method, evaluate, squares):
    source = squares()
    items = [type(item)(item.key, item.path) for item in source.items("test")]
    source.items = lambda split: items
    assert evaluate(make_method(), source)["figures"]["pixels"].keys() == {"total"}


class Overlapping(ViewMasker):
    """Hides the first half of the rows, and asks for the middle half: rows that the encoder saw among them."""

    def draw_view(self, tokens, generator, ctx):
        return None

    def mask_view(self, tokens, draws, ctx):
        batch, count = tokens.content.shape[0], tokens.layout.count
        hidden = (torch.arange(count) < count // 2).expand(batch, count)
        rows = Rows(torch.arange(count // 4, count * 3 // 4).expand(batch, -1))
        return Mask(hidden, Rows.from_mask(~hidden), queries={"main": Query(rows)})


@pytest.mark.parametrize("count", ["all", "hidden"])
def test_rows_that_were_seen_do_not_count(make_method, evaluate, monkeypatch, count):
    def seen_rows_wrong(objective, ctx, view, place):
        values = truth(objective, ctx, view, place)
        hidden = place.rows.gather(ctx.masks[view].hidden)
        return torch.where(hidden[..., None], values, 100.0)

    method = answering(make_method(masker=Overlapping(), count=count), monkeypatch, seen_rows_wrong)
    total = evaluate(method)["figures"]["pixels"]["total"]
    assert total["skill"]["value"] == 1 and total["tokens"] == 32 * 4


def test_masks_are_the_same_every_time(make_method, evaluate):
    method = make_method()
    method.train()
    first = evaluate(method)
    torch.rand(3)
    assert evaluate(method) == first and method.training
    assert evaluate(method, seed=1)["figures"] != first["figures"]


def test_at_most_so_many_samples(make_method, evaluate):
    result = evaluate(make_method(), samples=10)
    assert result["counts"]["test"] == 10 and result["figures"]["pixels"]["total"]["samples"] == 10


def test_bad_samples_are_left_out_and_named(make_method, evaluate, squares):
    source = squares()
    items = source.items("test")
    np.save(items[3].path, np.zeros((3, 8, 8), dtype=np.uint8))
    source.items = lambda split: items
    result = evaluate(make_method(), source)
    assert result["counts"] == {"test": 31, "skipped": 1}
    assert result["skipped"] == [[items[3].key, "has shape (3, 8, 8)"]]


def test_the_ceiling_is_what_a_perfect_picture_scores(make_method, evaluate, squares):
    source = squares()
    source.clean = lambda key: torch.from_numpy(np.load(source.folder / key))
    figures = evaluate(make_method(), source)["figures"]["pixels"]
    assert figures["total"]["ceiling"]["value"] == 1  # .npy files lose nothing
    source.clean = lambda key: torch.from_numpy(np.load(source.folder / key)) // 32 * 32
    assert 0 < evaluate(make_method(), source)["figures"]["pixels"]["total"]["ceiling"]["value"] < 1
