"""A small method and stream of batches with every kind of randomness and state that training has to reproduce."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from core.engine.distributed import Distributed
from core.engine.loop import train_steps
from core.engine.optim import AdamW
from core.settings import Engine, Plan
from core.tokens import Batch, Progress

CPU = Distributed()


@dataclass(frozen=True)
class Output:
    loss: Tensor
    terms: dict[str, Tensor]


class ToyMethod(nn.Module):
    """Masks by the generator, dropout by the global state, a buffer by `after_step`, BatchNorm statistics."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, width), nn.Linear(width, width)])
        self.norm, self.drop, self.head = nn.BatchNorm1d(width), nn.Dropout(0.1), nn.Linear(width, 8)
        self.token = nn.Parameter(torch.zeros(1, 8))
        self.register_buffer("mean", torch.zeros(8))

    def no_weight_decay(self) -> set[str]:
        return {"token"}

    def check_masks(self, batch: Batch, progress: Progress, generator: torch.Generator) -> None: ...

    def before_step(self, progress: Progress) -> None: ...

    def after_step(self, progress: Progress) -> None:
        with torch.no_grad():
            self.mean.lerp_(self.head.bias, 0.1)

    def forward(self, batch: Batch, progress: Progress, generator: torch.Generator) -> Output:
        x = batch.views["toy"].float()
        hidden = torch.rand(x.shape, generator=generator, device=x.device) < 0.5
        y = torch.where(hidden, self.token, x)
        for block in self.blocks:
            y = torch.relu(block(y))
        loss = ((self.head(self.drop(self.norm(y))) - x).square() * hidden).mean()
        return Output(loss, {"pixels": loss.detach()})


@dataclass(frozen=True)
class ToyBatches:
    """Batch k of `rank`, from k = `start` on; `poison` is the batch whose second sample holds a NaN."""

    start: int = 0
    size: int = 8
    steps_per_epoch: int = 10
    rank: int = 0
    poison: int | None = None

    def __iter__(self):
        k = self.start
        while True:
            generator = torch.Generator().manual_seed(1000 * k + self.rank)
            x = torch.randn(self.size, 1, generator=generator) + 0.3 * torch.randn(self.size, 8, generator=generator)
            if k == self.poison:
                x[1] = torch.nan
            skipped = [(f"bad{k}", "empty")] if k % 10 == 3 else []
            yield Batch({"toy": x}, [f"s{k}.{i}" for i in range(self.size)], labels={}, skipped=skipped)
            k += 1


def train_toy(
    run_dir: Path,
    steps: int = 20,
    width: int = 16,
    distributed: Distributed = CPU,
    poison: int | None = None,
    recipe=None,
    plan=None,
    **engine,
) -> ToyMethod:
    """One run from scratch or on from its newest checkpoint; the trained method."""
    torch.manual_seed(0)
    method = ToyMethod(width)
    recipe = recipe or AdamW(lr=1e-2, warmup_steps=5, ema=0.9)
    size = 8 // distributed.size // recipe.accumulate
    settings = Engine(**{"workers": 0, "checkpoint_every": 5, **engine})
    plan = plan or Plan(batch_size=8, seed=1, steps=steps, precision="fp32")
    run_dir.mkdir(parents=True, exist_ok=True)
    train_steps(
        method,
        lambda k: ToyBatches(k, size, 10, distributed.rank, poison),
        recipe,
        plan,
        settings,
        run_dir,
        distributed,
    )
    return method


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
