"""A GraphMAE training step on Cora, one thread: ours beside two plainer ways of computing the same.

    OMP_NUM_THREADS=1 python -m benchmarks.graphmae --root $DATA_DIR/planetoid/Cora

"official": the official structure: dense features, every row decoded, projection before a fused sum of messages.
"index_add": the same with one message per edge in memory. All sides have the same weights, masks and optimiser; that
they give equal losses and gradients is checked without dropout before anything is timed. The sides take turns; a ratio
is the median of ours / theirs with its 95 % interval. Peak memory is that of a process of its own.
Without --root a random graph of Cora's shape is used. Writes docs/benchmarks/graphmae.json and renders the table.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import printed_by, ratio, record, take_turns
from core.config import compose
from core.config.build import build_method
from core.engine.meter import memory_mb
from core.engine.optim import Adam
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, ForwardContext, Progress
from modalities.graph.formats.files import read
from modalities.graph.graphs import Graphs, to_dense
from modalities.graph.nn.layers import GATLayer
from modalities.graph.nn.message_passing import EdgeIndex, edge_softmax, plain_weighted_sum, weighted_sum

NODES, EDGES, FEATURES, WORDS = 2708, 5278, 1433, 18
GAMMA = 3.0  # of the loss, in experiment=graphmae_cora
SUMS = {"official": weighted_sum, "index_add": plain_weighted_sum}
SIDES = ("ours", *SUMS)
Loss = Callable[[torch.Generator], Tensor]


def made(features: int) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return build_method(compose(["experiment=graphmae_cora", "data.root=none", f"modality.features={features}"]))


def loss_of(side: str, method: MaskedAutoencoder, graph: Graphs) -> Loss:
    """What computes the loss of one side from our method's weights."""
    batch = Batch({"graph": graph})
    if side == "ours":
        return lambda generator: method(batch, generator=generator).loss
    x, tokens = (
        to_dense(graph.x, graph.features) if graph.is_sparse else graph.x,
        method.tokenizer.tokenize_views(batch.views),
    )
    return lambda generator: plain_loss(method, x, ForwardContext(batch, tokens, generator=generator), SUMS[side])


def plain_loss(method: MaskedAutoencoder, x: Tensor, ctx: ForwardContext, sum_of: Callable) -> Tensor:
    """The loss in the order and by the operations of the official code; x (N, C)."""
    mask, links = method.draw_mask(ctx)["graph"], EdgeIndex.of(ctx.tokens["graph"].layout)
    encoder, decoder = method.encoder, method.readouts["main"].decoder
    hidden, source = mask.queries["main"].rows.index[0], mask.content_from[0]
    erased, noisy = hidden[source[hidden] < 0], hidden[source[hidden] >= 0]
    h = x.clone()
    h[erased] = 0.0
    h[noisy] = x[source[noisy]]
    h[erased] += encoder.input.mask_token
    for layer in encoder.layers:
        h = F.prelu(
            attend(layer, F.dropout(h, encoder.feat_drop, method.training), links, sum_of), layer.activation.weight
        )
    codes = decoder.bridge(h)
    codes[hidden] = 0.0
    answer = attend(decoder.layers[-1], F.dropout(codes, decoder.feat_drop, method.training), links, sum_of)
    prediction, truth = F.normalize(answer[hidden], dim=-1), F.normalize(x[hidden], dim=-1)
    return (1 - (prediction * truth).sum(-1)).pow(GAMMA).mean()


def attend(part: GATLayer, h: Tensor, edges: EdgeIndex, sum_of: Callable) -> Tensor:
    f = part.linear(h).unflatten(1, (part.heads, -1))
    sent, received = (f * part.sender).sum(2), (f * part.receiver).sum(2)
    attention = edge_softmax(F.leaky_relu(sent[edges.source] + received[edges.row], part.slope), edges)
    return sum_of(f, F.dropout(attention, part.attn_drop, part.training), edges).flatten(1) + part.bias


def stepper(side: str, graph: Graphs) -> Callable[[], None]:
    """One training step."""
    method, generator = made(graph.features).train(), torch.Generator()
    loss = loss_of(side, method, graph)
    recipe = Adam(lr=1e-3, weight_decay=2e-4, betas=(0.9, 0.999), warmup_share=0.0, decay_all=True)
    optimizer = recipe.optimizer(method)
    recipe.set(optimizer, Progress(), 1)

    def step() -> None:
        loss(generator).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def difference(graph: Graphs) -> float:
    """Largest relative difference of loss and gradients between the sides, without dropout."""
    method, found = made(graph.features).eval(), {}
    # A bias away from zero: at zero a node with no visible neighbour has a gradient of 1e10.
    nn.init.constant_(method.readouts["main"].decoder.layers[-1].bias, 0.01)
    for side in SIDES:
        loss = loss_of(side, method, graph)(torch.Generator().manual_seed(0))
        found[side] = [loss.detach(), *torch.autograd.grad(loss, list(method.parameters()))]
    # What rounding leaves of sums that are nearly zero is measured by the largest.
    least = 1e-3 * max(float(g.abs().max()) for g in found["ours"])
    return max(
        float((a - b).abs().max()) / max(float(b.abs().max()), least)
        for side in SUMS
        for a, b in zip(found["ours"], found[side], strict=True)
    )


def cora(root: Path | None) -> Graphs:
    if root is not None:
        return read(str(root)).graphs[0]
    drawn = torch.Generator().manual_seed(0)
    x = torch.zeros(NODES, FEATURES).scatter(1, torch.randint(FEATURES, (NODES, WORDS), generator=drawn), 1 / WORDS)
    edges = torch.randint(NODES, (2, EDGES), generator=drawn)
    return Graphs.of(x, torch.cat([edges, edges.flip(0)], 1)).compact()


def compare(graph: Graphs, rounds: int, more: list[str]) -> dict:
    differ = difference(graph)
    if differ > 1e-4:
        raise AssertionError(f"the sides do not compute the same: losses or gradients differ by {differ:.1e}")
    steps = {side: stepper(side, graph) for side in SIDES}
    take_turns(steps, 2)
    wall, cpu = take_turns(steps, rounds)
    return {
        "rounds": rounds,
        "ms": {side: 1e3 * statistics.median(seconds) for side, seconds in wall.items()},
        "ratio": {side: ratio(wall["ours"], wall[side]) for side in SUMS},
        "cpu_ratio": {side: ratio(cpu["ours"], cpu[side]) for side in SUMS},
        "largest_difference": differ,
        "peak_mib": {side: float(printed_by("benchmarks.graphmae", "--memory-of", side, *more)) for side in SIDES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of raw Cora")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    graph = cora(args.root)
    if args.memory_of:
        take_turns({args.memory_of: stepper(args.memory_of, graph)}, 3)
        print(memory_mb(torch.device("cpu")))
        return
    more = [] if args.root is None else ["--root", str(args.root)]
    command = "python -m benchmarks.graphmae" + (" --root $DATA_DIR/planetoid/Cora" if more else "")
    record(
        "graphmae", command, {"graph": "Cora" if more else "random, Cora's shape", **compare(graph, args.rounds, more)}
    )


if __name__ == "__main__":
    main()
