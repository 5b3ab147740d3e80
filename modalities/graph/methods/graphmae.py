"""GraphMAE, of nodes and of whole graphs: masks, targets, official checkpoints (THUDM/GraphMAE).

`modalities/graph/official.py` lists the options that are read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from core.errors import UserError
from core.interop import Official, Rule, State
from core.maskers import Masker, checked_ratio
from core.seeding import PlacedGenerator
from core.targets import Target
from core.tokens import Batch, ForwardContext, Layout, Mask, Query, Rows, TargetValues, Tokens
from modalities.graph.graphs import Graphs, to_dense
from modalities.graph.official import (
    COMMON_RULES,
    DECODER,
    Settings,
    edge_flags,
    gnn_overrides,
    graph_sizes,
    kind_of,
    layer_rules,
    node_overrides,
    part_rules,
    refuse_unbuildable,
    residual_of,
)


class NodeMasker(Masker):
    """Hides int(N · ratio) nodes, drawn over all graphs of a batch together; at least one.

    Of the M hidden nodes int(M · (1 − replace)) are erased and int(M · replace) get the features of random
    nodes; the nodes that rounding leaves over keep their features (as published) and count in the loss like
    the others.

    `remask`: the nodes erased again before decoding. "hidden": the hidden ones (GraphMAE); "random":
    `decodings` sets of int(N · remask_ratio) nodes drawn from all (GraphMAE2), for the queries main/0,
    main/1, …; "none" (MLP decoder).
    `latent`: adds the query "latent": the roots of sampled subgraphs, or all nodes (GraphMAE2).
    `drop_edges`: share of edges hidden from the encoder. `loops`: GraphMAE drops self-loops like other edges
    and adds a new one to every node, so that most have two ("doubled"); GraphMAE2 has one ("single").
    `view`: the only one that is masked.

    Draws, in the published order: permutations of all nodes, of the hidden ones and of all again (where
    replace > 0), edges; then a permutation per decoding of "random".
    Shapes: tokens (1, N, …) -> Mask with visible (1, N − M), queries (1, M).
    Source: THUDM/GraphMAE, THUDM/GraphMAE2.
    """

    def __init__(
        self,
        ratio: float,
        replace: float = 0.0,
        drop_edges: float = 0.0,
        loops: Literal["doubled", "single"] = "doubled",
        remask: Literal["hidden", "random", "none"] = "hidden",
        decodings: int = 1,
        remask_ratio: float = 0.5,
        latent: bool = False,
        view: str = "graph",
    ):
        if not 0 <= replace < 1:
            raise UserError(f"method.masker.replace={replace} must be at least 0 and below 1, a share of hidden nodes.")
        self.ratio, self.replace = checked_ratio(ratio), replace
        self.drop_edges, self.loops = drop_edges, loops
        self.remask, self.decodings, self.remask_ratio = remask, decodings, remask_ratio
        self.latent, self.view = latent, view

    def hidden_count(self, nodes: int) -> int:
        """The published int(N · ratio), but at least one, so that a graph of one node trains too."""
        return max(int(nodes * self.ratio), min(nodes, 1))

    def draw(self, tokens: Mapping[str, Tokens], generator: torch.Generator | None, ctx: ForwardContext) -> dict:
        layout, device = tokens[self.view].layout, tokens[self.view].content.device
        count, hidden = layout.count, self.hidden_count(layout.count)

        # Ranks have other numbers of nodes, and equal ones should not hide the same.
        if isinstance(generator, PlacedGenerator):
            generator = generator.apart

        draws = {"nodes": permutation(count, generator, device)}
        if self.replace:
            draws["masked"] = permutation(hidden, generator, device)
            draws["noise"] = permutation(count, generator, device)
        if self.drop_edges:
            share = torch.full((layout.edges.shape[1],), 1 - self.drop_edges, device=_device_of(generator))
            draws["edges"] = torch.bernoulli(share, generator=generator).bool().to(device, non_blocking=True)
        if self.remask == "random":
            orders = []
            for _ in range(self.decodings):
                orders.append(permutation(count, generator, device))
            draws["remask"] = torch.stack(orders)

        return {self.view: draws}

    def __call__(self, tokens: Mapping[str, Tokens], draws: Mapping, ctx: ForwardContext) -> dict[str, Mask]:
        layout, draw = tokens[self.view].layout, draws[self.view]
        count, hidden_count = layout.count, self.hidden_count(layout.count)
        hidden, visible = draw["nodes"][:hidden_count], draw["nodes"][hidden_count:]
        device = hidden.device

        queries = self._queries(Rows(hidden[None]), count, draw)
        if self.latent:
            roots = tokens[self.view].side.get("roots")
            queries["latent"] = Query(Rows.all(1, count, device) if roots is None else Rows(roots[None]))

        # The encoder's own layout, where edges are hidden from it.
        encoded = None
        if "edges" in draw:
            encoded = drop_edges(layout, draw["edges"], self.loops)

        flags = torch.zeros(count, dtype=torch.bool, device=device).index_fill(0, hidden, True)
        mask = Mask(
            flags[None],
            Rows(visible[None]),
            queries=queries,
            content_from=self._content_from(hidden, count, draw)[None],
            layout=encoded,
        )
        return {self.view: mask}

    def _content_from(self, hidden: Tensor, count: int, draw: Mapping[str, Tensor]) -> Tensor:
        """(N,) the node whose features each node gets, -1 where they are erased."""
        source = torch.arange(count, device=hidden.device)
        if not self.replace:
            return source.index_fill(0, hidden, -1)

        # The first of the shuffled nodes are erased, the last replaced; both counts are rounded down.
        shuffled = hidden[draw["masked"]]
        erased, replaced = int((1 - self.replace) * len(hidden)), int(self.replace * len(hidden))
        source = source.index_fill(0, shuffled[:erased], -1)
        return source.index_copy(0, shuffled[len(hidden) - replaced :], draw["noise"][:replaced])

    def _queries(self, rows: Rows, count: int, draw: Mapping[str, Tensor]) -> dict[str, Query]:
        if self.remask == "none":
            return {"main": Query(rows)}
        if self.remask == "hidden":
            return {"main": Query(rows, rows)}
        erased = draw["remask"][:, : int(count * self.remask_ratio)]
        return {f"main/{i}": Query(rows, Rows(nodes[None])) for i, nodes in enumerate(erased)}


def drop_edges(layout: Layout, remaining: Tensor, loops: Literal["doubled", "single"]) -> Layout:
    """The layout with the flagged edges alone, `remaining` (E,) bool, and a new self-loop on every node.

    `loops`: "doubled" leaves the flagged self-loops beside the new ones, "single" drops them.
    """
    is_loop = layout.edges[0] == layout.edges[1]
    if loops == "single":
        remaining = remaining & ~is_loop

    # Edges stay sorted by destination, new loops last.
    new_loops = torch.arange(layout.count, device=remaining.device).expand(2, -1)
    edges = torch.cat([layout.edges[:, remaining], new_loops], 1)
    order = edges[1].argsort(stable=True)

    content = layout.edge_content
    if content is not None:
        content = torch.cat([content[remaining], content[is_loop]])[order]
    return replace(layout, edges=edges[:, order], edge_content=content)


def permutation(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Drawn on the generator's device, so that masks do not depend on the data's."""
    order = torch.randperm(count, generator=generator, device=_device_of(generator))
    return order.to(device, non_blocking=True)


def _device_of(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


class NodeFeatures(Target):
    """The raw features (1, M, C), not normalised: the cosine error does that."""

    def __init__(self, features: int):
        super().__init__()
        self.out = features

    @torch.no_grad()
    def forward(self, ctx: ForwardContext, view: str, query: Query) -> TargetValues:
        content = query.rows.gather(ctx.tokens[view].content)
        if content.dim() == 4:  # sparse, (1, M, 2, K)
            content = to_dense(content, self.out)
        return TargetValues(content.float())


# Official checkpoints -----------------------------------------------------------------------------


def _overrides(state: State, settings: Settings) -> list[str]:
    encoder, decoder = kind_of(state, "encoder"), kind_of(state, "decoder")
    refuse_unbuildable(state, settings, encoder, decoder)
    method = ["method=graphmae_gin"] if encoder == "gin" else []

    # Decoders without messages read each node's code alone: none is hidden from them.
    remask = "none" if decoder in ("mlp", "linear") else "hidden"

    return [
        *method,
        *gnn_overrides(state, settings, encoder, decoder),
        *node_overrides("method.encoder", residual=residual_of(state, settings, encoder)),
        *node_overrides(
            "method.masker",
            replace=settings.get("replace_rate", 0.0),
            remask=remask,
        ),
    ]


def _replay(io: State, settings: Settings) -> tuple[Batch, dict]:
    graphs = Graphs.of(io["x"], io["edge_index"], graph_sizes(io))

    draws = {"nodes": io["randperm_0_nodes"]}
    if "randperm_1_masked" in io:
        draws |= {"masked": io["randperm_1_masked"], "noise": io["randperm_2_noise"]}
    if "dropped_edge_index" in io:
        # Its last columns are the fresh self-loops.
        draws["edges"] = edge_flags(graphs, io["dropped_edge_index"][:, : -len(io["x"])])
    return Batch({"graph": graphs}), {"graph": draws}


_MLP = (
    ("linears.0", "linear1"),
    ("linears.1", "linear2"),
    ("norms.0", "norm"),
    ("activations.0", "activation"),
)

GRAPHMAE = Official(
    method="graphmae",
    modality="graph",
    overrides=_overrides,
    replay=_replay,
    rules=(
        *COMMON_RULES,
        *layer_rules(r"encoder\.gcn_layers\.(\d+)", r"encoder.layers.\1"),
        *layer_rules(r"decoder\.gcn_layers\.(\d+)", rf"{DECODER}.layers.\1"),
        Rule(r"decoder\.0\.(weight|bias)", (rf"{DECODER}.mlp.linear1.\1",)),
        Rule(r"decoder\.1\.weight", (f"{DECODER}.mlp.activation.weight",)),
        Rule(r"decoder\.3\.(weight|bias)", (rf"{DECODER}.mlp.linear2.\1",)),
        Rule(r"decoder\.(weight|bias)", (rf"{DECODER}.linear.\1",)),
        Rule(r"encoder\.layers\.(\d+)\.eps", (r"encoder.layers.\1.eps",)),
        *part_rules(_MLP, r"encoder\.layers\.(\d+)\.apply_func(?:\.mlp)?", r"encoder.layers.\1.mlp"),
        Rule(r"encoder\.layers\.(\d+)\.apply_func\.norm\.(\w+)", (r"encoder.layers.\1.norm.\2",)),
        Rule(r"encoder\.layers\.(\d+)\.apply_func\.act\.weight", (r"encoder.layers.\1.activation.weight",)),
        Rule(r"encoder\.layers\.(\d+)\.res_fc\.weight", (r"encoder.layers.\1.residual.weight",)),
        Rule(r"decoder\.layers\.0\.eps", (f"{DECODER}.eps",)),
        *part_rules(_MLP, r"decoder\.layers\.0\.apply_func", f"{DECODER}.mlp"),
    ),
)
