"""Samples along one axis in a report, as curves: signals in time, spectra, profiles."""

from collections.abc import Mapping, Sequence
from html import escape

import torch
from torch import Tensor

from core.errors import UserError
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.reconstruction.baseline import Baseline, HarmonicInterpolation
from core.reconstruction.pictures import Gallery, GridViews, Panel, Pictures, Raster, grid_views
from core.tokenizers import unit
from core.tokens import Batch, Mask

WIDTH, BAND, MARGIN = 460, 92, 8  # of a drawing, and the height of one channel in it
CHANNELS = 4  # drawn at most
POINTS = 460  # of a curve
SVG = "image/svg+xml"
INK, PREDICTED, BASELINE, HIDDEN = "#33383e", "#c4560c", "#3b93c4", "#f4e3c1"


class LinePictures(Pictures):
    """Draws samples (B, C, L) of any number of channels, each as a curve, with hidden stretches shaded."""

    def __init__(self, baseline: Baseline | None = None):
        self.baseline = baseline or HarmonicInterpolation()

    def draw(self, method: MaskedAutoencoder, batch: Batch, masks: Mapping[str, Mask]) -> Gallery:
        (view,) = {name.partition("/")[0] for name in masks}
        if batch.views[view].dim() != 3:
            raise UserError(f"Curves are of samples (C, L), not {tuple(batch.views[view].shape[1:])}.")

        views = grid_views(method, batch, view, masks, self.baseline, in_unit=False)
        hidden, panels = [], []
        for index, key in enumerate(batch.keys):
            hidden.append(Panel(key, [_drawing(views, index, {}, "mask", key)]))
            curves = {BASELINE: views.interpolation}
            if views.reconstruction is not None:
                curves[PREDICTED] = views.reconstruction
            panels.append(Panel(key, [_drawing(views, index, curves, "input, interpolation, reconstruction", key)]))

        legend = "Grey: the input; shaded: hidden; blue: interpolation; orange: reconstruction."
        channels = batch.views[view].shape[1]
        if channels > CHANNELS:
            legend += f" Of {channels} channels the first {CHANNELS} are drawn."
        return Gallery(hidden, panels, [legend, *views.notes])

    def thumbnails(self, batch: Batch, side: int) -> Sequence[Raster]:
        (view,) = batch.views
        data = unit(batch.views[view]).float().cpu()
        return [_thumbnail(data[index], key, side) for index, key in enumerate(batch.keys)]


def _drawing(views: GridViews, index: int, curves: Mapping[str, Tensor], label: str, key: str) -> Raster:
    """One sample: a band for each channel, in which hidden stretches show the given curves too."""
    original, hidden = views.input[index].float().cpu(), views.hidden[index].cpu()
    channels, length = min(len(original), CHANNELS), original.shape[1]
    height = channels * BAND

    shapes = []
    for start, end in _stretches(hidden):
        x, width = MARGIN + start / length * _inner(), (end - start) / length * _inner()
        shapes.append(f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="{height}" fill="{HIDDEN}"/>')

    for channel in range(channels):
        lines = {INK: original[channel]}
        for colour, values in curves.items():
            # Visible places are the input's own.
            lines[colour] = torch.where(hidden, values[index, channel].float().cpu(), original[channel])
        everything = torch.stack(list(lines.values()))
        low, high = float(everything.min()), float(everything.max())
        for colour, values in reversed(lines.items()):
            shapes.append(_curve(values, low, high, channel * BAND, colour))

    return _raster(shapes, (WIDTH, height), label, f"{label} of {key}")


def _thumbnail(sample: Tensor, key: str, side: int) -> Raster:
    """The first channel as a small curve."""
    values = sample[0]
    curve = _curve(values, float(values.min()), float(values.max()), 0, INK)
    scale = f'<g transform="scale({side / WIDTH:.4f} {side / 2 / BAND:.4f})">{curve}</g>'
    return _raster([scale], (side, side // 2), "input", f"input of {key}")


def _curve(values: Tensor, low: float, high: float, top: float, colour: str) -> str:
    """Values (L,) as a line in the band that begins at `top`; long ones are thinned."""
    rows = torch.linspace(0, len(values) - 1, min(POINTS, len(values))).round().long()
    heights = (values[rows] - low) / ((high - low) or 1.0)

    points = []
    for row, height in zip(rows.tolist(), heights.tolist(), strict=True):
        x = MARGIN + (row + 0.5) / len(values) * _inner()
        points.append(f"{x:.1f},{top + BAND - MARGIN - height * (BAND - 2 * MARGIN):.1f}")
    return (
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.6" '
        'stroke-linejoin="round"/>'
    )


def _stretches(hidden: Tensor) -> list[tuple[int, int]]:
    """Start and end of every run of True in flags (L,)."""
    flags = torch.cat([torch.tensor([False]), hidden.bool(), torch.tensor([False])]).int()
    edges = flags.diff()
    return list(zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist(), strict=True))


def _inner() -> int:
    return WIDTH - 2 * MARGIN


def _raster(shapes: Sequence[str], size: tuple[int, int], label: str, alt: str) -> Raster:
    width, height = size
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<title>{escape(alt)}</title><rect width="{width}" height="{height}" fill="#fff"/>{"".join(shapes)}</svg>'
    )
    return Raster(label, alt, data=text.encode(), size=size, mime=SVG)
