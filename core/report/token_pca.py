"""Tokens as colours: the first three principal components of patch features, by their places."""

from html import escape

import numpy as np
import torch

from core.evaluation.projection import fit_components
from core.reconstruction.pictures import Panel, Raster, encode
from core.report.features import Encoded, TokenGrids
from core.report.images import panels

TAILS = (1, 99)  # percentiles of a component that become 0 and 1
SIDE = 192  # pixels of the longer side of one grid


def token_pca(encoded: Encoded) -> str:
    """Pictures of a few held-out samples, each beside its tokens; the reason where tokens lie on no grid."""
    if encoded.grids is None:
        return f"<p>{escape(encoded.reason or 'Not drawn: tokens lie on no grid.')}</p>"

    grids, content = encoded.grids, []
    colours, share = token_colours(grids)
    for number, key in enumerate(grids.keys):
        rasters = [*grids.pictures[number : number + 1], _raster(colours[number], key)]
        content.append(Panel(key, rasters))

    note = f"Red, green and blue are the first three principal components of all tokens shown ({share:.0%} of their "
    note += "variance): like colours are like features, also between samples."
    return f'<p class="notes">{escape(note)}</p>{panels(content)}'


def token_colours(grids: TokenGrids) -> tuple[np.ndarray, float]:
    """Features (n, *grid, D) → colours (n, *grid, 3) from 0 to 1, and the components' share of the variance."""
    table = torch.from_numpy(grids.features.reshape(-1, grids.features.shape[-1]))
    plane = fit_components(table, 3).project(table).numpy()
    plane = np.pad(plane, ((0, 0), (0, 3 - plane.shape[1])))

    total = float(table.double().var(0, correction=0).sum())
    share = float(plane.astype(np.float64).var(0).sum()) / max(total, 1e-30)

    low, high = np.percentile(plane, TAILS, axis=0)
    colours = ((plane - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
    return colours.reshape(*grids.features.shape[:-1], 3), share


def _raster(colours: np.ndarray, key: str) -> Raster:
    """Colours (*grid, 3) as a picture: one axis as a strip, three as slots side by side."""
    grid = colours.shape[:-1]
    if len(grid) == 1:
        colours = colours[None]
    if len(grid) == 3:
        colours = _side_by_side(colours)

    # Whole pixels for each token, as many as fit.
    size = max(1, SIDE // max(colours.shape[0], min(colours.shape[1], 24)))
    large = colours.repeat(size, 0).repeat(size, 1)
    if len(grid) == 1:
        large = large.repeat(max(1, 24 // size), 0)
    return encode(torch.from_numpy(large)[None].float(), "tokens", f"token components of {key}", exact=True)


def _side_by_side(colours: np.ndarray) -> np.ndarray:
    """Slots (T, H, W, 3) in a row, with white columns between them: (H, T · (W + 1) − 1, 3)."""
    spaced = np.pad(colours, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=1.0)
    return np.concatenate(list(spaced), axis=1)[:, :-1]
