"""Graphs in a report: which nodes are hidden, and how far off each one's reconstruction is."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from core.evaluation.reconstruction import Comparison, compare, context_of
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.pictures import SCORED, Gallery, Panel, Pictures, Raster
from core.tokens import Batch, Mask
from modalities.graph.drawing import SIDE, Sketch, around, svg
from modalities.graph.graphs import Graphs
from modalities.graph.reconstruction import NeighbourMean

WHOLE = 150  # nodes of the largest graph that is drawn whole
PART = 60  # nodes of a part of a larger one, at most
SVG = "image/svg+xml"
PARTS = 6  # drawn of a larger one
VISIBLE = "#dfe3e7"
HIDDEN = "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in SCORED))
FILLED = "mean of neighbours"
SCALE = ("#fff7ec", "#fee0b5", "#fdbb84", "#fc8d59", "#e34a33", "#a81010", "#5a0000")  # of errors, from 0 on


class GraphPictures(Pictures):
    """Draws graphs: small ones whole, of a large one what is round some hidden nodes."""

    def draw(self, method: MaskedAutoencoder, batch: Batch, masks: Mapping[str, Mask]) -> Gallery:
        graphs: Graphs = batch.views["graph"]
        found, notes = _compared(method, batch, masks), []
        hidden = masks["graph"].hidden[0].cpu().numpy()
        if found is None:
            notes.append("This method predicts no features of hidden nodes, so there is no error to show.")
            errors = {}
        else:
            errors = _by_node(found, len(graphs.x))
            hidden = ~np.isnan(errors["this method"])
            notes += _explain(found)
        darkest = (2 * float(np.nanmean(errors[FILLED])) if errors else 0.0) or 1.0
        panels, drawn = [], []
        for title, sketch in _sketches(graphs, batch.keys, hidden):
            marked = hidden[sketch.nodes]
            mask = Raster("hidden nodes", f"mask of {title}", _masked(sketch, marked), (SIDE, SIDE), SVG)
            panels.append(Panel(title, [mask]))
            drawn.append(
                Panel(title, [mask, *(_error(sketch, marked, n, v, title, darkest) for n, v in errors.items())])
            )
        if len(graphs.x) > WHOLE:
            notes.append(
                f"Of graphs above {WHOLE} nodes, what is round some hidden nodes is drawn, up to {PART} nodes."
            )
        notes.append("Nodes are placed by their distances along links alone: features play no part.")
        return Gallery(panels, drawn, notes)


@torch.no_grad()
def _compared(method: MaskedAutoencoder, batch: Batch, masks: Mapping[str, Mask]) -> Comparison | None:
    ctx = context_of(method, batch)
    ctx.masks.update(masks)
    return next((found for found in compare(method, ctx, NeighbourMean()) if found.view == "graph"), None)


def _by_node(found: Comparison, nodes: int) -> dict[str, np.ndarray]:
    """Errors (N,) of the filler and the method, NaN where a node does not count."""
    rows = found.query.rows.index[0]

    def spread(error: Tensor) -> np.ndarray:
        error = torch.where(found.scored[0], error[0].float(), torch.nan)
        return error.new_full((nodes,), torch.nan).index_copy(0, rows, error).cpu().numpy()

    return {FILLED: spread(found.errors["filler"]), "this method": spread(found.errors["prediction"])}


def _sketches(graphs: Graphs, keys: Sequence[str], hidden: np.ndarray) -> list[tuple[str, Sketch]]:
    edges, start, found = graphs.edge_index.cpu().numpy(), 0, []
    for key, count in zip(keys, graphs.counts, strict=True):
        nodes = np.arange(start, start + count)
        start += count
        if not count:
            continue
        if count <= WHOLE:
            found.append((key, Sketch.of(edges, nodes)))
            continue
        for root in _roots(edges, nodes[hidden[nodes]] if hidden[nodes].any() else nodes):
            found.append((f"{key}, round node {root - nodes[0]}", Sketch.of(edges, around(edges, int(root), PART))))
    return found


def _roots(edges: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """A few nodes, drawn by a fixed seed, of those that have neighbours where any has."""
    linked = nodes[np.isin(nodes, edges[1][edges[0] != edges[1]])]
    rng = np.random.Generator(np.random.PCG64(0))
    return np.sort(rng.permutation(linked if len(linked) else nodes)[:PARTS])


def _masked(sketch: Sketch, marked: np.ndarray) -> bytes:
    return svg(sketch, [HIDDEN if flag else VISIBLE for flag in marked], marked)


def _error(sketch: Sketch, marked: np.ndarray, name: str, values: np.ndarray, title: str, darkest: float) -> Raster:
    here = values[sketch.nodes]
    place = np.clip(np.nan_to_num(here) / darkest * (len(SCALE) - 1), 0, len(SCALE) - 1).round().astype(int)
    fill = [SCALE[i] if flag else VISIBLE for i, flag in zip(place, marked, strict=True)]
    label = f"{name}: error {np.nanmean(here):.2g}" if marked.any() else name
    picture = svg(sketch, fill, marked, SCALE)
    return Raster(label, f"error of {name} at hidden nodes of {title}", picture, (SIDE, SIDE + 18), SVG)


def _explain(found: Comparison) -> list[str]:
    zero = float(found.errors["zero"][found.scored].mean())
    return [
        f"Errors are those of the objective {found.name!r} at hidden nodes (bold outlines); answering zero costs "
        f"{zero:.2g}. Pale is none, darkest is twice what the mean of neighbours costs, or more. Grey: nodes that the "
        "encoder sees.",
        f"Mean of neighbours: {NeighbourMean.name}.",
    ]
