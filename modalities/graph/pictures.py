"""Graphs in a report: hidden nodes, and the error of each one's reconstruction."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from core.methods.masked_autoencoder import MaskedAutoencoder
from core.reconstruction.errors import TokenErrors, context_of, token_errors
from core.reconstruction.pictures import SCORED, Gallery, Panel, Pictures, Raster
from core.tokens import Batch, Mask
from modalities.graph.baseline import NeighbourMean
from modalities.graph.drawing import SCALE_HEIGHT, SIDE, Sketch, neighbourhood, svg
from modalities.graph.graphs import Graphs

MOST_NODES = 150  # of a graph that is drawn completely
PART_NODES = 60  # of a part of a larger one, at most
PARTS = 6  # drawn of a larger one
SVG = "image/svg+xml"
VISIBLE = "#dfe3e7"
HIDDEN = "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in SCORED))
BASELINE, METHOD = "mean of neighbours", "this method"
SCALE = ("#fff7ec", "#fee0b5", "#fdbb84", "#fc8d59", "#e34a33", "#a81010", "#5a0000")  # of errors, from 0 on


class GraphPictures(Pictures):
    """Draws small graphs completely, of a large one the neighbourhoods of some hidden nodes."""

    def draw(self, method: MaskedAutoencoder, batch: Batch, masks: Mapping[str, Mask]) -> Gallery:
        graphs: Graphs = batch.views["graph"]
        hidden = masks["graph"].hidden[0].cpu().numpy()

        comparison = _compare(method, batch, masks)
        if comparison is None:
            errors, darkest = {}, 1.0
            notes = ["This method predicts no features of hidden nodes, so there is no error to show."]
        else:
            # Nodes whose features are visible elsewhere count as visible here.
            errors = _errors_by_node(comparison, len(graphs.x))
            hidden = ~np.isnan(errors[METHOD])
            darkest = 2 * float(np.nanmean(errors[BASELINE])) or 1.0
            notes = _explain(comparison)

        mask_panels, error_panels = [], []
        for title, sketch in _sketches(graphs, batch.keys, hidden):
            marked = hidden[sketch.nodes]
            rasters = [_mask_raster(sketch, marked, title)]
            mask_panels.append(Panel(title, rasters[:]))
            for name, values in errors.items():
                rasters.append(_error_raster(sketch, marked, name, values[sketch.nodes], title, darkest))
            error_panels.append(Panel(title, rasters))

        if len(graphs.x) > MOST_NODES:
            notes.append(
                f"Of graphs above {MOST_NODES} nodes, the neighbourhoods of some hidden nodes are drawn, up to "
                f"{PART_NODES} nodes."
            )
        notes.append("Nodes are placed by their distances along links alone: features play no part.")
        return Gallery(mask_panels, error_panels, notes)

    def thumbnails(self, batch: Batch, side: int) -> Sequence[Raster]:
        """Small graphs whole; none where one is too large for that."""
        graphs: Graphs = batch.views["graph"]
        if max(graphs.counts) > MOST_NODES or min(graphs.counts) == 0:
            return []

        edges, start, rasters = graphs.edge_index.cpu().numpy(), 0, []
        for key, count in zip(batch.keys, graphs.counts, strict=True):
            sketch = Sketch.of(edges, np.arange(start, start + count))
            start += count
            unmarked = np.zeros(count, dtype=bool)
            drawing = svg(sketch, np.full(count, VISIBLE), unmarked)
            rasters.append(Raster("graph", f"drawing of {key}", data=drawing, size=(side, side), mime=SVG))
        return rasters


@torch.no_grad()
def _compare(method: MaskedAutoencoder, batch: Batch, masks: Mapping[str, Mask]) -> TokenErrors | None:
    ctx = context_of(method, batch)
    ctx.masks.update(masks)
    comparisons = token_errors(method, ctx, NeighbourMean())
    return next((comparison for comparison in comparisons if comparison.view == "graph"), None)


def _errors_by_node(comparison: TokenErrors, nodes: int) -> dict[str, np.ndarray]:
    """Errors (N,) of the baseline and the method, NaN where a node does not count."""
    rows = comparison.query.rows.index[0]

    def spread(error: Tensor) -> np.ndarray:
        error = torch.where(comparison.scored[0], error[0].float(), torch.nan)
        return error.new_full((nodes,), torch.nan).index_copy(0, rows, error).cpu().numpy()

    return {BASELINE: spread(comparison.errors["baseline"]), METHOD: spread(comparison.errors["prediction"])}


def _sketches(graphs: Graphs, keys: Sequence[str], hidden: np.ndarray) -> list[tuple[str, Sketch]]:
    """Drawings with their titles: each small graph, parts of each large one."""
    edges, start, sketches = graphs.edge_index.cpu().numpy(), 0, []
    for key, count in zip(keys, graphs.counts, strict=True):
        nodes = np.arange(start, start + count)
        start += count

        if 0 < count <= MOST_NODES:
            sketches.append((key, Sketch.of(edges, nodes)))
        elif count:
            hidden_nodes = nodes[hidden[nodes]]
            for root in _roots(edges, hidden_nodes if len(hidden_nodes) else nodes):
                part = neighbourhood(edges, int(root), PART_NODES)
                sketches.append((f"{key}, round node {root - nodes[0]}", Sketch.of(edges, part)))
    return sketches


def _roots(edges: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """A few nodes, drawn by a fixed seed, of those that have neighbours where any has."""
    linked = nodes[np.isin(nodes, edges[1][edges[0] != edges[1]])]
    if len(linked):
        nodes = linked
    rng = np.random.Generator(np.random.PCG64(0))
    return np.sort(rng.permutation(nodes)[:PARTS])


def _mask_raster(sketch: Sketch, marked: np.ndarray, title: str) -> Raster:
    drawing = svg(sketch, np.where(marked, HIDDEN, VISIBLE), marked)
    return Raster("hidden nodes", f"mask of {title}", data=drawing, size=(SIDE, SIDE), mime=SVG)


def _error_raster(
    sketch: Sketch, marked: np.ndarray, name: str, errors: np.ndarray, title: str, darkest: float
) -> Raster:
    """Hidden nodes coloured by their errors (n,); those from `darkest` on have the last colour."""
    shade = np.clip(np.nan_to_num(errors) / darkest * (len(SCALE) - 1), 0, len(SCALE) - 1).round().astype(int)
    fill = np.where(marked, np.array(SCALE)[shade], VISIBLE)
    drawing = svg(sketch, fill, marked, SCALE)

    label = f"{name}: error {np.nanmean(errors):.2g}" if marked.any() else name
    alt = f"error of {name} at hidden nodes of {title}"
    return Raster(label, alt, data=drawing, size=(SIDE, SIDE + SCALE_HEIGHT), mime=SVG)


def _explain(comparison: TokenErrors) -> list[str]:
    zero = float(comparison.errors["zero"][comparison.scored].mean())
    return [
        f"Errors are those of the objective {comparison.objective!r} at hidden nodes (bold outlines); a prediction of "
        f"zero costs {zero:.2g}. Pale is none, darkest is twice the cost of the mean of neighbours, or more. "
        "Grey: visible nodes.",
        f"Mean of neighbours: {NeighbourMean.name}.",
    ]
