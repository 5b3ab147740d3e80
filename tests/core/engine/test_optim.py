import pytest
import torch

from core.engine.clock import Clock
from core.engine.optim import Adam, AdamW
from core.errors import UserError
from core.settings import Engine, Plan
from core.tokens import Progress
from tests.core.engine.toy import ToyMethod


def groups(recipe):
    method = ToyMethod()
    names = {p: name for name, p in method.named_parameters()}
    found = recipe.optimizer(method).param_groups
    return {g["weight_decay"]: {names[p] for p in g["params"]} for g in found}


def test_only_matrices_decay():
    found = groups(AdamW())
    assert found[0.05] == {"blocks.0.weight", "blocks.1.weight", "head.weight"}
    assert found[0.0] == {"token", "norm.weight", "norm.bias", "blocks.0.bias", "blocks.1.bias", "head.bias"}


def test_everything_decays_when_asked():
    assert set(groups(Adam(decay_all=True, weight_decay=0.1))) == {0.1}


def test_frozen_parameters_are_left_out():
    method = ToyMethod()
    method.head.requires_grad_(False)
    optimizer = AdamW().optimizer(method)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 7


def test_rate_scales_with_the_batch():
    assert AdamW(base_lr=1.5e-4).peak(4096) == pytest.approx(2.4e-3)
    assert AdamW(lr=1e-3).peak(4096) == 1e-3


@pytest.mark.parametrize("warmup", [{"warmup_epochs": 5.0}, {"warmup_steps": 50}, {"warmup_share": 0.05}])
def test_three_ways_to_give_the_warmup(warmup):
    recipe, clock = AdamW(lr=1.0, min_lr=0.1, **warmup), Clock(1000, 10.0)
    rates = [recipe.rate(clock.at(step), 8) for step in range(1001)]
    assert rates[0] == 0.0
    assert rates[25] == pytest.approx(0.5)
    assert rates[50] == max(rates) == pytest.approx(1.0)
    assert rates[525] == pytest.approx(0.55)
    assert rates[1000] == pytest.approx(0.1)


def test_constant_schedule_keeps_the_peak():
    recipe = AdamW(lr=1.0, schedule="constant", warmup_steps=10)
    assert [recipe.rate(Progress(step, 100, step, 100), 8) for step in (0, 5, 10, 99)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    "epoch, rate",
    [(0, 1e-6), (1, 1e-6), (2, 1.009e-4), (10, 9.001e-4), (11, 9.973e-4), (150, 5.057e-4), (300, 1.03e-6)],
)
def test_rate_once_an_epoch_as_point_mae_steps_it(epoch, rate):
    """Rates measured in the official code (Pang-Yatian/Point-MAE): 300 epochs and one, the first two at the floor."""
    recipe = AdamW(lr=1e-3, min_lr=1e-6, schedule="epochs", schedule_epochs=300, warmup_epochs=10, warmup_start=1e-3)
    clock = Clock(301 * 7, 7.0)
    for step in (0, 3, 6):
        assert recipe.rate(clock.at(7 * epoch + step), 128) == pytest.approx(rate, rel=3e-3)  # three digits


@pytest.mark.parametrize("warmup", [{"warmup_epochs": 1.0}, {"warmup_steps": 100}])
def test_course_that_outlasts_the_run_or_ends_before(warmup):
    clock = Clock(1000, 100.0)
    longer = AdamW(lr=1.0, schedule_epochs=19, **warmup)
    assert longer.rate(clock.at(1000), 8) == pytest.approx(0.5)
    shorter = AdamW(lr=1.0, min_lr=0.1, schedule_epochs=5, **warmup)
    assert shorter.rate(clock.at(300), 8) == pytest.approx(0.55)
    assert shorter.rate(clock.at(800), 8) == pytest.approx(0.1)


def test_decay_moves_along_a_cosine():
    method, recipe = ToyMethod(), AdamW(lr=1.0, weight_decay=0.04, weight_decay_end=0.4)
    optimizer = recipe.optimizer(method)
    recipe.set(optimizer, Progress(50, 100, 5, 10), 8)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(0.22), 0.0]


def test_clipping_returns_the_norm_before():
    method = ToyMethod()
    recipe = AdamW(clip=1.0)
    optimizer = recipe.optimizer(method)
    for p in method.parameters():
        p.grad = torch.ones_like(p)
    count = sum(p.numel() for p in method.parameters())
    assert recipe.clip_gradients(optimizer).item() == pytest.approx(count**0.5)
    assert torch.nn.utils.get_total_norm([p.grad for p in method.parameters()]).item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: AdamW(warmup_epochs=1.0, warmup_steps=1), "both set"),
        (lambda: AdamW(schedule="linear"), "cosine, epochs or constant"),
        (lambda: AdamW(schedule_epochs=0), "schedule_epochs=0"),
        (lambda: AdamW(accumulate=0), "at least 1"),
        (lambda: AdamW(ema=1.0), "below 1"),
        (lambda: Plan(batch_size=8), "steps= or epochs="),
        (lambda: Plan(batch_size=0, steps=1), "batch_size=0"),
        (lambda: Plan(batch_size=8, steps=1, precision="fp8"), "auto, fp32 or bf16"),
        (lambda: Plan(batch_size=9, steps=1).part_size(2, 2), "multiple of 4"),
        (lambda: Clock.of(Plan(batch_size=8, epochs=0.01), 10, 1), "less than one step"),
        (lambda: Engine(keep=0), "engine.keep"),
        (lambda: Engine(checkpoint_minutes=0), "checkpoint_minutes"),
    ],
)
def test_settings_that_make_no_sense(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_steps_win_over_epochs():
    assert Clock.of(Plan(batch_size=8, steps=7, epochs=100), 10, 1).steps == 7
    assert Clock.of(Plan(batch_size=8, epochs=1.5), 10, 2) == Clock(7, 5.0)


def test_workers_are_given_or_one_core_fewer():
    assert Engine(workers=3).loader_workers() == 3
    assert 0 <= Engine().loader_workers() <= 8
