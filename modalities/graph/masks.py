"""Masks of graphs: nodes of a whole batch at random (GraphMAE, GraphMAE2), atoms of each molecule."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from core.maskers import Masker, checked_ratio, uniform
from core.tokens import ForwardContext, Layout, Mask, Query, Rows, Tokens


class NodeMasker(Masker):
    """Hides int(N · ratio) nodes, drawn over all graphs of a batch together; at least one.

    Of the M hidden nodes int(M · (1 − replace)) are erased and int(M · replace) get the features of random nodes; what
    rounding leaves keeps its own (as published) and counts in the loss like the others.

    `remask`: what is erased again before decoding. "hidden": the hidden nodes (GraphMAE); "random": `decodings` of them,
    each with int(N · remask_ratio) nodes drawn from all (GraphMAE2), at places main/0, main/1, …; "none" (MLP decoder).
    `latent`: also a place "latent": the roots of sampled subgraphs, or all nodes (GraphMAE2).
    `drop_edges`: share of edges that the encoder does not see. `loops`: GraphMAE drops self-loops like other edges and
    adds a fresh one to every node, so that most have two ("doubled"); GraphMAE2 keeps one ("single").
    `view`: only this view is masked.
    Draws, in the published order: permutations of all nodes, of the hidden ones and of all again (where replace > 0),
    edges; then a permutation per view of "random".
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
        self.ratio, self.replace, self.drop_edges = checked_ratio(ratio), checked_ratio(replace), drop_edges
        self.loops, self.remask, self.decodings, self.remask_ratio = loops, remask, decodings, remask_ratio
        self.latent, self.view = latent, view

    def hidden_count(self, nodes: int) -> int:
        """The published int(N · ratio), but no fewer than one: a graph of one node has something to predict too."""
        return max(int(nodes * self.ratio), min(nodes, 1))

    def draw(self, tokens: Mapping[str, Tokens], generator: torch.Generator | None, ctx: ForwardContext) -> dict:
        layout, device = tokens[self.view].layout, tokens[self.view].content.device
        count, hidden = layout.count, self.hidden_count(layout.count)
        draws = {"nodes": permutation(count, generator, device)}
        if self.replace:
            draws["masked"] = permutation(hidden, generator, device)
            draws["noise"] = permutation(count, generator, device)
        if self.drop_edges:
            share = torch.full((layout.edges.shape[1],), 1 - self.drop_edges, device=_home(generator))
            draws["edges"] = torch.bernoulli(share, generator=generator).bool().to(device, non_blocking=True)
        if self.remask == "random":
            draws["remask"] = torch.stack([permutation(count, generator, device) for _ in range(self.decodings)])
        return {self.view: draws}

    def __call__(self, tokens: Mapping[str, Tokens], draws: Mapping, ctx: ForwardContext) -> dict[str, Mask]:
        layout, drawn = tokens[self.view].layout, draws[self.view]
        count, hidden = layout.count, self.hidden_count(layout.count)
        chosen, kept = drawn["nodes"][:hidden], drawn["nodes"][hidden:]
        flag = torch.zeros(count, dtype=torch.bool, device=chosen.device).index_fill(0, chosen, True)
        source = torch.arange(count, device=chosen.device)
        if self.replace:
            order, noisy = chosen[drawn["masked"]], int(self.replace * hidden)
            source = source.index_fill(0, order[: int((1 - self.replace) * hidden)], -1)
            source = source.index_copy(0, order[hidden - noisy :], drawn["noise"][:noisy])
        else:
            source = source.index_fill(0, chosen, -1)
        encoded = None if "edges" not in drawn else drop_edges(layout, drawn["edges"], self.loops)
        predict = self._queries(Rows(chosen[None]), count, drawn)
        if self.latent:
            roots = tokens[self.view].side.get("roots")
            predict["latent"] = Query(Rows.all(1, count, chosen.device) if roots is None else Rows(roots[None]))
        return {self.view: Mask(flag[None], Rows(kept[None]), predict, source[None], encoded)}

    def _queries(self, rows: Rows, count: int, drawn: Mapping[str, Tensor]) -> dict[str, Query]:
        if self.remask != "random":
            return {"main": Query(rows, rows if self.remask == "hidden" else None)}
        erased = drawn["remask"][:, : int(count * self.remask_ratio)]
        return {f"main/{i}": Query(rows, Rows(nodes[None])) for i, nodes in enumerate(erased)}


class AtomMasker(Masker):
    """Hides int(n · ratio + 1) atoms of each molecule of n; they are erased, and again before decoding.

    Draws: noise (N,), the lowest of each molecule are hidden; or the hidden nodes themselves (long), to replay.
    Source: THUDM/GraphMAE, folder chem.
    """

    def __init__(self, ratio: float, view: str = "graph"):
        self.ratio, self.view = checked_ratio(ratio), view

    def draw(self, tokens: Mapping[str, Tokens], generator: torch.Generator | None, ctx: ForwardContext) -> dict:
        return {self.view: uniform((tokens[self.view].layout.count,), tokens[self.view].content.device, generator)}

    def __call__(self, tokens: Mapping[str, Tokens], draws: Mapping, ctx: ForwardContext) -> dict[str, Mask]:
        layout, drawn = tokens[self.view].layout, draws[self.view]
        chosen = self._lowest(drawn, layout) if drawn.is_floating_point() else drawn
        hidden = torch.zeros(layout.count, dtype=torch.bool, device=chosen.device).index_fill(0, chosen, True)
        kept = Rows.from_mask(~hidden[None], layout.count - len(chosen))
        return {self.view: Mask(hidden[None], kept, {"main": Query(Rows(chosen[None]), Rows(chosen[None]))})}

    def _lowest(self, noise: Tensor, layout: Layout) -> Tensor:
        order = (layout.sample + noise.double()).argsort()  # by molecule, then noise
        spans, start = [], 0
        for count in layout.counts:
            spans.append(order[start : start + min(int(count * self.ratio + 1), count)])
            start += count
        return torch.cat(spans)


def drop_edges(layout: Layout, keep: Tensor, loops: Literal["doubled", "single"]) -> Layout:
    """The layout with the flagged edges alone, (E,), and a fresh self-loop on every node."""
    if loops == "single":
        keep = keep & (layout.edges[0] != layout.edges[1])
    fresh = torch.arange(layout.count, device=keep.device).expand(2, -1)
    edges = torch.cat([layout.edges[:, keep], fresh], 1)
    order = edges[1].argsort(stable=True)
    content = layout.edge_content
    if content is not None:
        own = layout.edges[0] == layout.edges[1]
        content = torch.cat([content[keep], content[own]])[order]
    return replace(layout, edges=edges[:, order], edge_content=content)


def permutation(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Drawn where the generator lives, so that masks do not depend on the device."""
    drawn = torch.randperm(count, generator=generator, device=_home(generator))
    return drawn.to(device, non_blocking=True)


def _home(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device
