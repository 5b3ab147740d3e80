"""A GraphMAE training step on Cora's shape, one thread: ours beside two plainer ways of computing the same.

    OMP_NUM_THREADS=1 python -m benchmarks.graphmae [--root …/planetoid/Cora]

"official": the official structure: fused messages, dense features, every row decoded, projection before the sum.
"index_add": the same with one message per edge in memory. All sides share weights, draws and optimiser; that they give
equal losses and gradients is checked without dropout before anything is timed. Steps of the sides alternate; ratios are
medians of ours / theirs in one run. Peak memory is taken in a process of its own. Without --root a random graph of
Cora's shape is used.
Writes docs/benchmarks/graphmae_cpu.json.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.build import build_method
from core.config import compose
from core.decoders import Decoder
from core.engine.optim import Adam
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, Latent, Layout, Place, Progress
from modalities.graph import gnn, messages
from modalities.graph.decoders import GATDecoder
from modalities.graph.files import read
from modalities.graph.graphs import Graphs, to_dense
from modalities.graph.messages import Links

NODES, EDGES, FEATURES, WORDS = 2708, 5278, 1433, 18
SIDES = ("ours", "official", "index_add")


class DenseInput(nn.Module):
    """Features as dense rows, whatever they are kept as."""

    def __init__(self, plain: gnn.Input):
        super().__init__()
        self.plain = plain

    def forward(self, seen, drop: float = 0.0) -> Tensor:
        return self.plain(seen, drop)

    def project(self, seen, weight: Tensor, drop: float) -> Tensor:
        return F.linear(self.plain(seen, drop), weight)


class EveryRow(Decoder):
    """The bridge and one GAT layer at every node, rows emptied by multiplication, projection before the sum."""

    def __init__(self, plain: GATDecoder, sum_of: Callable):
        super().__init__()
        self.plain, self.dim, self.sum_of = plain, plain.dim, sum_of

    def forward(
        self, latent: Latent, layout: Layout, places: Mapping[str, Place], others: Mapping[str, Latent]
    ) -> dict[str, Tensor]:
        plain, links, answers = self.plain, Links.of(layout), {}
        for name, place in places.items():
            codes = plain.bridge(latent.features[0])
            codes = codes * (~place.remask.flag(layout.count)[0])[:, None]
            f = plain.linear(F.dropout(codes, plain.feat_drop, self.training)).unflatten(1, (plain.heads, -1))
            sent, received = (f * plain.sender).sum(2), (f * plain.receiver).sum(2)
            logits = F.leaky_relu(sent[links.source] + received[links.row], plain.slope)
            attention = F.dropout(messages.edge_softmax(logits, links), plain.attn_drop, self.training)
            out = self.sum_of(f, attention, links).flatten(1) + plain.bias
            answers[name] = place.rows.take(out[None])
        return answers


def made(side: str, features: int, drop: bool) -> MaskedAutoencoder:
    overrides = ["experiment=graphmae_cora", "data.root=none", f"modality.features={features}"]
    if not drop:
        overrides += ["method.encoder.feat_drop=0.0", "method.encoder.attn_drop=0.0"]
    torch.manual_seed(0)
    method = build_method(compose(overrides)).train()
    if side != "ours":
        sum_of = messages.weighted_sum if side == "official" else messages.plain_weighted_sum
        method.encoder.input = DenseInput(method.encoder.input)
        method.readouts["main"].decoder = EveryRow(method.readouts["main"].decoder, sum_of)
    return method


def batch_for(side: str, graph: Graphs) -> Batch:
    """The plain sides keep dense features."""
    return Batch({"graph": graph if side == "ours" else replace(graph, x=to_dense(graph.x, graph.features))})


def stepper(side: str, graph: Graphs) -> Callable[[], float]:
    """One training step; returns its seconds."""
    method, batch, generator = made(side, graph.features, drop=True), batch_for(side, graph), torch.Generator()
    recipe = Adam(lr=1e-3, weight_decay=2e-4, betas=(0.9, 0.999), warmup_share=0.0, decay_all=True)
    optimizer = recipe.optimizer(method)
    recipe.set(optimizer, Progress(), 1)
    plain_sum = gnn.weighted_sum

    def step() -> float:
        gnn.weighted_sum = messages.plain_weighted_sum if side == "index_add" else plain_sum
        start = time.perf_counter()
        method(batch, generator=generator).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
        gnn.weighted_sum = plain_sum
        return seconds

    return step


def check_equal(graph: Graphs) -> float:
    """Largest relative difference of a gradient between the sides, without dropout. Raises where it is above 1e-4."""
    found = {}
    for side in SIDES:
        method = made(side, graph.features, drop=False)
        # A bias away from zero: at zero a node with no visible neighbour has a gradient of 1e10.
        plain = method.readouts["main"].decoder if side == "ours" else method.readouts["main"].decoder.plain
        nn.init.constant_(plain.bias, 0.01)
        method(batch_for(side, graph), generator=torch.Generator().manual_seed(0)).loss.backward()
        found[side] = [p.grad for p in method.parameters()]
    worst = 0.0
    for side in SIDES[1:]:
        largest = max(float(g.abs().max()) for g in found["ours"])
        for a, b in zip(found["ours"], found[side], strict=True):
            worst = max(worst, float((a - b).abs().max()) / max(float(b.abs().max()), 1e-3 * largest))
    if worst > 1e-4:
        raise AssertionError(f"the sides do not compute the same: gradients differ by {worst:.1e}")
    return worst


def cora(root: str | None) -> Graphs:
    if root:
        return read(root).graphs[0]
    drawn = torch.Generator().manual_seed(0)
    x = torch.zeros(NODES, FEATURES).scatter(1, torch.randint(FEATURES, (NODES, WORDS), generator=drawn), 1 / WORDS)
    edges = torch.randint(NODES, (2, EDGES), generator=drawn)
    return Graphs.of(x, torch.cat([edges, edges.flip(0)], 1)).compact()


def compare(graph: Graphs, rounds: int, root: str | None) -> dict:
    worst = check_equal(graph)
    steps = {side: stepper(side, graph) for side in SIDES}
    for step in steps.values():
        step(), step()
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for index in range(rounds):
        for side in SIDES if index % 2 else SIDES[::-1]:
            times[side].append(steps[side]())
    ratios = {
        side: statistics.median(a / b for a, b in zip(times["ours"], times[side], strict=True)) for side in SIDES[1:]
    }
    return {
        "ms": {side: round(1e3 * statistics.median(values), 1) for side, values in times.items()},
        "ratio_to": {side: round(ratio, 3) for side, ratio in ratios.items()},
        "gradients_differ_by": worst,
        "peak_mib": {side: peak_memory(side, root) for side in SIDES},
    }


def peak_memory(side: str, root: str | None) -> float:
    command = [sys.executable, "-m", "benchmarks.graphmae", "--memory-of", side, *(["--root", root] if root else [])]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of raw Cora")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    graph = cora(args.root)
    if args.memory_of:
        step = stepper(args.memory_of, graph)
        step(), step(), step()
        print(round(resident(), 1))
        return
    record = {
        "benchmark": "graphmae",
        "command": "python -m benchmarks.graphmae" + (" --root $DATA_DIR/planetoid/Cora" if args.root else ""),
        "device": platform.processor() or platform.machine(),
        "threads": 1,
        "torch": torch.__version__,
        "graph": "Cora" if args.root else "random, Cora's shape",
        **compare(graph, args.rounds, args.root),
    }
    folder = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graphmae_cpu.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
