"""SparK's published recipe: rate and decay by the official formulas, and LAMB as its version of timm had it."""

import math
from pathlib import Path

import pytest
import torch

import configs
from core.config import compose
from core.config.build import build
from core.engine.average import WeightEMA
from core.engine.checkpoint import collect, restore
from core.engine.clock import Clock

PUBLISHED = sorted(path.stem for path in Path(configs.__path__[0], "experiment").glob("spark_*.yaml"))


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_the_published_course_of_rate_and_decay(experiment):
    """The official formulas, by iteration: warm-up from 0.5 % of the peak, cosines to 0.1 % and from 0.04 to 0.2."""
    config = compose([f"experiment={experiment}", "data.root=none"])
    recipe, per_epoch = build(config["optim"], key="optim"), 10
    total, warm, peak = 1600 * per_epoch, 40 * per_epoch, 3.2e-3
    optimizer = recipe.optimizer(Layer(4, 4))
    for it in (0, 1, warm - 1, warm, warm + 1, total // 3, total - 1):
        if it < warm:
            rate = peak * (0.005 + 0.995 * it / warm)
        else:
            rate = peak * (0.001 + 0.999 * (0.5 + 0.5 * math.cos(math.pi * (it - warm) / (total - 1 - warm))))
        decay = 0.2 + (0.04 - 0.2) * (0.5 + 0.5 * math.cos(math.pi * it / (total - 1)))
        ours = recipe.set(optimizer, Clock(total, per_epoch).at(it), config["batch_size"])
        # The official cosines end one iteration earlier.
        assert ours == pytest.approx(rate, abs=2e-4 * peak) and (it >= warm or ours == pytest.approx(rate, rel=1e-12))
        assert [g["weight_decay"] for g in optimizer.param_groups] == [pytest.approx(decay, abs=4e-5), 0.0]


class Layer(torch.nn.Linear):
    def no_weight_decay(self) -> set[str]:
        return set()


def test_lamb_steps_as_published():
    """timm 0.5.4's: moments corrected for bias, decay in the update, steps as long as the decayed weights, clipped."""
    recipe = build(compose(["experiment=spark_resnet50_imagenet", "data.root=none"])["optim"], key="optim")
    layer = Layer(5, 3).double()
    state = [(p.detach().clone(), torch.zeros_like(p), torch.zeros_like(p)) for p in layer.parameters()]
    optimizer, rate, (b1, b2) = recipe.optimizer(layer), 0.01, (0.9, 0.95)
    for step in range(1, 5):
        gradients = [torch.randn(p.shape, dtype=p.dtype) * 4 for p in layer.parameters()]
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        assert norm > 5, "otherwise nothing is clipped"
        for p, g in zip(layer.parameters(), gradients, strict=True):
            p.grad = g.clone()
        recipe.clip_gradients(optimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for i, (p, m, v) in enumerate(state):
            g, decay = gradients[i] * 5 / norm, 0.04 if p.dim() > 1 else 0.0
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            update = m / (1 - b1**step) / ((v / (1 - b2**step)).sqrt() + 1e-6) + decay * p
            trust = p.norm() / update.norm() if decay else 1.0
            state[i] = (p - rate * trust * update, m, v)
    for p, (expected, _, _) in zip(layer.parameters(), state, strict=True):
        assert torch.allclose(p, expected, rtol=1e-6, atol=0)


def test_lamb_goes_on_from_a_checkpoint_as_if_it_had_not_stopped():
    recipe = build(compose(["experiment=spark_resnet50_imagenet", "data.root=none"])["optim"], key="optim")

    def steps(layer: Layer, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            recipe.set(optimizer, Clock(16000, 10).at(number), 4096)
            layer(torch.randn(4, 5, generator=torch.Generator().manual_seed(number))).square().sum().backward()
            optimizer.step(), optimizer.zero_grad()

    layer, again = Layer(5, 3), Layer(5, 3)
    optimizer, other = recipe.optimizer(layer), recipe.optimizer(again)
    steps(layer, optimizer, range(3))
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    saved = {name: value.clone() for name, value in collect(layer, optimizer, WeightEMA(layer, None)).items()}
    steps(layer, optimizer, range(3, 5))
    again.load_state_dict(weights)
    restore(saved, again, other, WeightEMA(again, None))
    steps(again, other, range(3, 5))
    for a, b in zip(layer.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
