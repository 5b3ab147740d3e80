"""Pictures of held-out samples: input, mask, a baseline without learning and the reconstruction.

Pixels drawn at a hidden place never depend on the hidden content. Where a target is standardised per patch,
its predictions are put back with statistics interpolated from the visible patches.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from math import prod
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from core.errors import UserError
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Objective
from core.reconstruction.baseline import Baseline, interpolate, rows_to_cells
from core.targets import Pixels
from core.tokenizers import Patchify, unit
from core.tokens import Batch, Layout, Mask, Rows, Tokens

COVER = (0.5, 0.5, 0.5)  # colour of hidden cells
SCORED, UNSCORED = (0.90, 0.62, 0.0), (0.0, 0.45, 0.70)  # orange and blue, which the colour-blind tell apart
TINT = 0.65
LOSSLESS = 64  # pixels: frames up to this side are kept exactly, larger ones compressed
QUALITY = 88  # of WebP


@dataclass(frozen=True)
class Raster:
    """An encoded still or moving picture; `size` (width, height) in pixels, `alt`: a text in its place."""

    label: str
    alt: str
    data: bytes = field(repr=False)
    size: tuple[int, int]
    mime: str = "image/webp"


@dataclass(frozen=True)
class PointSet:
    """Points of one kind in space, positions (n, 3), with their colours (n, 3) in [0, 1]."""

    name: str
    positions: np.ndarray
    _: KW_ONLY
    colours: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Sets of points that the reader of a page can turn; `alt`: a text in its place.

    `centre` (3,) and `radius`: the sphere in sight. `up`: the number of the vertical axis.
    """

    label: str
    alt: str
    _: KW_ONLY
    sets: Sequence[PointSet]
    centre: np.ndarray
    radius: float
    up: int = 1


@dataclass(frozen=True)
class Panel:
    """The pictures of one sample: side by side in columns, or in rows below each other.

    `scenes`: the same to be turned, where a page can; the pictures are their stills.
    """

    title: str
    rasters: Sequence[Raster]
    arranged: Literal["columns", "rows"] = "columns"
    scenes: Sequence[Scene] = ()


@dataclass(frozen=True)
class Gallery:
    """Panels of a method for a report, and notes for its reader."""

    masks: Sequence[Panel]
    reconstructions: Sequence[Panel]
    notes: Sequence[str]


class Pictures(ABC):
    """Draws the samples of a modality. The config node `modality.pictures`."""

    @abstractmethod
    def draw(self, method: MaskedAutoencoder, batch: Batch, masks: Mapping[str, Mask]) -> Gallery:
        """Panels of every sample of the batch. Raises UserError where the method's tokens cannot be drawn."""

    def thumbnails(self, batch: Batch, side: int) -> Sequence[Raster]:
        """A picture of every sample, of at most `side` pixels, for galleries; none by default."""
        return []


@dataclass(frozen=True, kw_only=True)
class GridViews:
    """Samples on a grid in several versions, floats in [0, 1] (B, C, *size), and the mask cell by cell.

    `hidden` and `predicted` (by the decoder, in training) are (B, *size) bool. `reconstruction` is None
    where the method predicts no pixels.
    """

    input: Tensor
    interpolation: Tensor
    reconstruction: Tensor | None
    hidden: Tensor
    predicted: Tensor
    notes: tuple[str, ...]


@torch.no_grad()
def grid_views(
    method: MaskedAutoencoder,
    batch: Batch,
    view: str,
    masks: Mapping[str, Mask],
    baseline: Baseline,
    in_unit: bool = True,
) -> GridViews:
    """Runs a method on one view of a batch under given masks.

    `in_unit`: values are those of pictures, from 0 to 1, to which predictions are cut.
    Raises UserError unless tokens are patches of a grid.
    """
    if not isinstance(method.tokenizer, Patchify):
        raise UserError(f"Only patches of a grid can be drawn, not the tokens of {type(method.tokenizer).__name__}.")

    tokens = method.tokenizer.tokenize_views(batch.views)
    mask = next(mask for name, mask in masks.items() if name.partition("/")[0] == view)
    data, grid = batch.views[view], tokens[view].layout.grid
    assert grid is not None, "Patchify's tokens lie on a grid"
    notes = [f"Interpolation: {baseline.name}."]

    interpolation = baseline.predict(method.tokenizer, data, tokens[view], mask.hidden)
    reconstruction, predicted = None, mask.hidden
    task = pixel_task(method, masks, view)
    if task is None:
        notes.append("This method predicts no pixels, so there is no reconstruction to show.")
    else:
        objective, _, query = method.prediction_tasks(masks)[task]
        predicted = query.rows_in(tokens[view].layout, mask.hidden).to_mask(tokens[view].layout.count)
        reconstruction = reconstruct(method, tokens, masks, mask, task)
        notes += _explain(_pixels(objective), bool((mask.hidden & ~predicted).any()))

    if in_unit:
        interpolation = interpolation.clamp(0, 1)
        reconstruction = None if reconstruction is None else reconstruction.clamp(0, 1)
    return GridViews(
        input=unit(data),
        interpolation=interpolation,
        reconstruction=reconstruction,
        hidden=rows_to_cells(mask.hidden, grid, data.shape[2:]),
        predicted=rows_to_cells(predicted, grid, data.shape[2:]),
        notes=tuple(notes),
    )


def reconstruct(
    method: MaskedAutoencoder, tokens: Mapping[str, Tokens], masks: Mapping[str, Mask], mask: Mask, task: str
) -> Tensor:
    """Visible rows from the input, every hidden row from the prediction of `task`: (B, C, *size).

    The decoder predicts all hidden rows, also those that it leaves out in training.
    """
    objective, view, _ = method.prediction_tasks(masks)[task]
    rows, target = Rows.from_mask(mask.hidden), _pixels(objective)

    # Predict every hidden row.
    query_name = _query_name(task, objective)
    mask_name = next(name for name, part in masks.items() if part is mask)
    query = replace(mask.queries[query_name], rows=rows)
    queried = {**masks, mask_name: replace(mask, queries={**mask.queries, query_name: query})}
    prediction = method.predict(tokens, queried, {task})[1][task].float()

    # Put patch statistics back.
    mean, std = visible_statistics(target, tokens[view], mask)
    if target.per != "none":
        mean, std = rows.gather(mean), rows.gather(std)
    layout, content = tokens[view].layout, unit(tokens[view].content)
    pixels = _every_frame(target, target.restore(prediction, mean, std), layout, rows)

    hidden = mask.hidden.reshape(*mask.hidden.shape, *(1,) * (content.dim() - 2))
    patches = torch.where(hidden, rows.scatter(pixels, layout.count).reshape(content.shape), content)
    assert isinstance(method.tokenizer, Patchify), "grid_views refuses others"
    return method.tokenizer.untokenize(patches, layout.grid)


def visible_statistics(target: Pixels, tokens: Tokens, mask: Mask) -> tuple[Tensor, Tensor]:
    """Mean and divisor of every row, from visible patches alone: (B, N, 1, 1 or C) or scalars.

    Hidden rows get the harmonic interpolation over the grid of patches; where no patch is visible, 0 and 1. A
    target that predicts only some frames of a patch standardises by those; here whole patches count.
    """
    if target.per != "none" and mask.visible.count == 0:
        nothing = tokens.content.new_zeros(*mask.hidden.shape, 1, 1, dtype=torch.float32)
        return nothing, nothing + 1

    mean, std = target.statistics(target.values(mask.visible.gather(tokens.content)))
    if target.per == "none":
        return mean, std

    mean = _interpolate_rows(mean[:, :, 0], mask, tokens.layout).unsqueeze(2)
    std = _interpolate_rows(std[:, :, 0], mask, tokens.layout).unsqueeze(2)
    return mean, std


def _interpolate_rows(values: Tensor, mask: Mask, layout: Layout) -> Tensor:
    """(B, V, S) at visible rows -> (B, N, S) at all."""
    assert layout.grid is not None, "Patchify's tokens lie on a grid"
    grid = mask.visible.scatter(values, layout.count).transpose(1, 2).unflatten(2, layout.grid)
    visible = (~mask.hidden).unflatten(1, layout.grid)
    return interpolate(grid, visible, tolerance=1e-5).flatten(2).transpose(1, 2)


def pixel_task(method: MaskedAutoencoder, masks: Mapping[str, Mask], view: str) -> str | None:
    """The name of the first task of this view that predicts pixels at some of its tokens."""
    for name, (objective, task_view, query) in method.prediction_tasks(masks).items():
        is_pixels = isinstance(objective.target, Pixels) and query.rows is not None and query.level == 0
        if is_pixels and task_view == view and _query_name(name, objective) not in ("visible", "grid"):
            return name
    return None


def _pixels(objective: Objective) -> Pixels:
    """The target of a task that `pixel_task` names."""
    assert isinstance(objective.target, Pixels)
    return objective.target


def _query_name(task: str, objective: Objective) -> str:
    return task.partition("/")[2] or objective.queries[0]


def _every_frame(target: Pixels, pixels: Tensor, layout: Layout, rows: Rows) -> Tensor:
    """Predicted pixels (B, M, ·, C); frames that the target leaves out repeat the nearest predicted one."""
    if target.per_slot is None:
        return pixels

    depth = target.patch[0]
    nearest = (target.offsets[:, None] - torch.arange(depth, device=pixels.device)[:, None]).abs().argmin(2)
    pick = nearest[layout.cells(rows) // prod(target.grid[1:])]  # (B, M, depth)
    frames = pixels.unflatten(2, (target.per_slot, -1))
    return frames.gather(2, pick[..., None, None].expand(-1, -1, -1, *frames.shape[3:])).flatten(2, 3)


def _explain(target: Pixels, left_out: bool) -> list[str]:
    notes = []
    if target.per == "none":
        notes.append("The method predicts plain pixels: they are shown as predicted.")
    else:
        over = "all values" if target.per == "patch" else "the pixels of each channel"
        notes.append(
            f"The method predicts patches standardised over {over}. Patch statistics interpolated from visible patches "
            "(harmonic interpolation over the grid of patches) put them back; nothing of a hidden patch is "
            "used, so brightness and contrast of hidden places are a guess."
        )

    if target.per_slot is not None:
        verb = "is" if target.per_slot == 1 else "are"
        frames = f"Of the {target.patch[0]} frames of a patch {target.per_slot} {verb} predicted"
        notes.append(f"{frames}; the others repeat the nearest predicted frame.")

    if left_out:
        notes.append("For these pictures the decoder predicts all hidden patches; in training it leaves some out.")
    return notes


def colour_versions(views: GridViews, index: int, shown: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Sample `index` as colours (*size, 3), by version: input, masked, interpolation and reconstruction."""
    original = as_rgb(views.input[index], shown)
    versions = {
        "input": original,
        "masked": torch.where(views.hidden[index, ..., None], original.new_tensor(COVER), original),
        "interpolation": as_rgb(views.interpolation[index], shown),
    }
    if views.reconstruction is not None:
        versions["reconstruction"] = as_rgb(views.reconstruction[index], shown)
    return versions


def tinted(views: GridViews, index: int, shown: Sequence[int] | None = None) -> Tensor:
    """The mask over the input (*size, 3): hidden cells `SCORED` where they are predicted, else `UNSCORED`.

    Hidden cells lose their own colour, so that visible ones stand out.
    """
    original = as_rgb(views.input[index], shown)
    grey = original.mean(-1, keepdim=True)
    predicted = views.predicted[index, ..., None]
    colour = torch.where(predicted, original.new_tensor(SCORED), original.new_tensor(UNSCORED))
    return torch.where(views.hidden[index, ..., None], grey.lerp(colour, TINT), original)


def as_rgb(values: Tensor, shown: Sequence[int] | None = None) -> Tensor:
    """(C, *size) -> (*size, 3).

    `shown`: one channel or three; by default the first three, or of fewer the first.
    """
    if not shown:
        shown = range(3) if len(values) >= 3 else (0,)
    channels = values[list(shown)]
    return channels.expand(3, *channels.shape[1:]).movedim(0, -1)


def shrink(frames: Tensor, side: int) -> Tensor:
    """(T, H, W, 3) made smaller, if need be, such that the longer side has at most `side` pixels.

    By area means.
    """
    scale = side / max(frames.shape[1:3])
    if scale >= 1:
        return frames
    size = [max(1, round(n * scale)) for n in frames.shape[1:3]]
    return F.interpolate(frames.movedim(3, 1), size, mode="bilinear", antialias=True).movedim(1, 3)


def encode(frames: Tensor, label: str, alt: str, *, exact: bool, milliseconds: int = 0) -> Raster:
    """(T, H, W, 3 or 4) in [0, 1] as WebP: a still, or for T > 1 an endless animation; `exact` without loss.

    The format joins successive frames that are equal.
    """
    values = (frames.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in values]

    options = {"lossless": True, "exact": True} if exact else {"quality": QUALITY}
    if len(pictures) > 1:
        options |= {"save_all": True, "append_images": pictures[1:], "duration": milliseconds, "loop": 0}

    buffer = io.BytesIO()
    pictures[0].save(buffer, "WEBP", method=4, **options)
    return Raster(label, alt, buffer.getvalue(), pictures[0].size)
