"""A training step of Point-MAE at its published size, beside the published structure written straight; and waiting.

    OMP_NUM_THREADS=1 python -m benchmarks.point_step

"straight": groups are cut within the step, all groups are embedded, hidden ones too, and blocks are timm's; the same
sizes, optimiser, loss and precision. Ours has its groups from the loader's workers and embeds visible groups alone.
The sides take turns; a ratio is the median of ours / theirs with its 95 % interval. "waiting": the share of the time
that a run of ours waits for its clouds, groups included, with one worker and with two. Writes
docs/benchmarks/point_step.json and renders the table.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import ratio, record, take_turns
from core.config import compose
from core.config.build import build_method
from core.tokens import Batch
from modalities.point.clouds import Clouds

POINTS, GROUPS, MEMBERS, HIDDEN = 1024, 64, 32, 38
DIM, DEPTH, HEADS, DECODER = 384, 12, 6, 4
BATCH = 8


class Straight(nn.Module):
    """Clouds (B, 1024, 3) -> loss, as the card of Point-MAE describes the step. Random masks of 38 of 64 groups."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(3, 128, 1), nn.BatchNorm1d(128), nn.ReLU(), nn.Conv1d(128, 256, 1))
        self.second = nn.Sequential(nn.Conv1d(512, 512, 1), nn.BatchNorm1d(512), nn.ReLU(), nn.Conv1d(512, DIM, 1))
        self.positions, self.decoder_positions = _positions(), _positions()
        self.blocks, self.decoder = _blocks(DEPTH), _blocks(DECODER)
        self.norm, self.decoder_norm = nn.LayerNorm(DIM, 1e-5), nn.LayerNorm(DIM, 1e-5)
        self.mask_token = nn.Parameter(torch.zeros(DIM))
        self.head = nn.Linear(DIM, 3 * MEMBERS)

    def forward(self, clouds: Tensor) -> Tensor:
        centres = _take(clouds, _farthest(clouds))
        members = torch.cdist(centres, clouds).topk(MEMBERS, largest=False).indices
        groups = _take(clouds, members.flatten(1)).unflatten(1, (GROUPS, MEMBERS)) - centres[:, :, None]

        order = torch.rand(len(clouds), GROUPS).argsort(1)
        hidden, visible = order[:, :HIDDEN].sort(1).values, order[:, HIDDEN:].sort(1).values
        x, places = _take(self.embed(groups), visible), self.positions(_take(centres, visible))
        for block in self.blocks:
            x = block(x + places)
        x = self.norm(x)

        x = torch.cat([x, self.mask_token.expand(len(x), HIDDEN, -1)], 1)
        places = self.decoder_positions(_take(centres, torch.cat([visible, hidden], 1)))
        for block in self.decoder:
            x = block(x + places)
        predicted = self.head(self.decoder_norm(x[:, -HIDDEN:])).unflatten(2, (MEMBERS, 3))
        squares = (predicted[:, :, :, None] - _take(groups, hidden)[:, :, None]).square().sum(4)
        return squares.amin(3).mean() + squares.amin(2).mean()

    def embed(self, groups: Tensor) -> Tensor:
        """(B, G, S, 3) -> (B, G, D)."""
        x = self.first(groups.flatten(0, 1).transpose(1, 2))
        x = torch.cat([x.amax(2, keepdim=True).expand_as(x), x], 1)
        return self.second(x).amax(2).unflatten(0, groups.shape[:2])


def _positions() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, DIM))


def _blocks(count: int) -> nn.ModuleList:
    blocks = [Block(DIM, HEADS, qkv_bias=False, norm_layer=partial(nn.LayerNorm, eps=1e-5)) for _ in range(count)]
    return nn.ModuleList(blocks)


def _take(x: Tensor, rows: Tensor) -> Tensor:
    return x[torch.arange(len(x))[:, None], rows]


def _farthest(clouds: Tensor) -> Tensor:
    rows, nearest = [torch.zeros(len(clouds), dtype=torch.long)], torch.full(clouds.shape[:2], torch.inf)
    for _ in range(GROUPS - 1):
        last = _take(clouds, rows[-1][:, None])
        nearest = torch.minimum(nearest, (clouds - last).square().sum(2))
        rows.append(nearest.argmax(1))
    return torch.stack(rows, 1)


def ours() -> tuple[nn.Module, Callable[[], Tensor]]:
    """Our method of the published shape; its groups are there before the step."""
    method = build_method(compose(["modality=point", "size=small", "data=folder", "data.root=none"])).train()
    clouds = Clouds(surface())
    data = Batch({"point": Clouds(clouds.points, plans=method.tokenizer.grouping(clouds))})
    return method, lambda: method(data).loss


def theirs() -> tuple[nn.Module, Callable[[], Tensor]]:
    model, clouds = Straight().train(), surface()
    return model, lambda: model(clouds)


def surface() -> Tensor:
    return F.normalize(torch.randn(BATCH, POINTS, 3, generator=torch.Generator().manual_seed(0)), dim=2)


def stepper(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    step()
    return step


def operations(loss: Callable[[], Tensor]) -> float:
    """GFLOP of forward and backward."""
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops() / 1e9


def waiting(workers: int, steps: int = 40) -> float:
    """Median share of a run's time that it waits for its batches, by the run's own log."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "core.train", "modality=point", "size=small", f"batch_size={BATCH}"]
        command += ["modality.points=1024", "modality.groups=[64]", "data.source.train=512", "data.source.test=16"]
        command += [f"steps={steps}", "engine.log_every=5", f"engine.workers={workers}", f"run_dir={folder}/run"]
        subprocess.run(command, check=True, capture_output=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return statistics.median([row["data_wait"] for row in rows if "data_wait" in row][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)

    sides = {"ours": ours(), "straight": theirs()}
    counted = {name: operations(loss) for name, (_, loss) in sides.items()}
    steps = {name: stepper(model, loss) for name, (model, loss) in sides.items()}
    wall, cpu = take_turns(steps, args.rounds)
    found = {
        "subject": "point_mae",
        "batch": BATCH,
        "rounds": args.rounds,
        "seconds": {name: statistics.median(seconds) for name, seconds in wall.items()},
        "ratio": ratio(wall["ours"], wall["straight"]),
        "cpu_ratio": ratio(cpu["ours"], cpu["straight"]),
        "gflop": counted,
        "waiting": {str(workers): waiting(workers) for workers in (1, 2)},
    }
    record("point_step", "python -m benchmarks.point_step", found)


if __name__ == "__main__":
    main()
