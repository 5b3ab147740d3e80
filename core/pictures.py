"""Pictures of held-out samples: input, mask, a trivial filler and the reconstruction.

What is drawn at a hidden place never depends on what is hidden there. Where a target is standardised per patch, its
predictions are put back with statistics interpolated from the visible patches.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from core.errors import UserError
from core.evaluation.fillers import Filler, cells_of, harmonic
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.targets import Pixels
from core.tokenizers import Patchify, unit
from core.tokens import Batch, Layout, Mask, Rows, Tokens

COVER = (0.5, 0.5, 0.5)  # what stands for hidden cells
SCORED, UNASKED = (0.90, 0.62, 0.0), (0.0, 0.45, 0.70)  # an orange and a blue that the colour-blind tell apart
TINT = 0.65
LOSSLESS = 64  # pixels: frames up to this side are kept exactly, larger ones compressed
QUALITY = 88  # of WebP


@dataclass(frozen=True)
class Raster:
    """An encoded still or moving picture; `size` (width, height) in pixels, `alt` for those who cannot see it."""

    label: str
    alt: str
    data: bytes
    size: tuple[int, int]
    mime: str = "image/webp"


@dataclass(frozen=True)
class Panel:
    """The pictures of one sample: side by side in columns, or in rows below each other."""

    title: str
    rasters: Sequence[Raster]
    arranged: Literal["columns", "rows"] = "columns"


@dataclass(frozen=True)
class Gallery:
    """What a report shows of a method, and what a reader must know of it."""

    masks: Sequence[Panel]
    reconstructions: Sequence[Panel]
    notes: Sequence[str]


class Pictures(ABC):
    """How a modality shows samples. The config node `modality.pictures`."""

    @abstractmethod
    def draw(self, method: MaskedAutoencoder, batch: Batch, masks: Mapping[str, Mask]) -> Gallery:
        """Panels of every sample of the batch. Raises UserError where the method's tokens cannot be drawn."""


@dataclass(frozen=True)
class GridViews:
    """Samples on a grid in several versions, floats in [0, 1] (B, C, *size), and cell by cell what the mask does.

    `hidden` and `answered` (by the decoder, in training) are (B, *size) bool.
    """

    input: Tensor
    filled: Tensor
    reconstruction: Tensor | None  # None where the method predicts no pixels
    hidden: Tensor
    answered: Tensor
    notes: tuple[str, ...]


@torch.no_grad()
def look(method: MaskedAutoencoder, batch: Batch, view: str, masks: Mapping[str, Mask], filler: Filler) -> GridViews:
    """Runs a method on one view of a batch under given masks. Raises UserError unless tokens are patches of a grid."""
    if not isinstance(method.tokenizer, Patchify):
        raise UserError(f"Only patches of a grid can be drawn, not the tokens of {type(method.tokenizer).__name__}.")
    tokens = method.tokenizer.tokenize_views(batch.views)
    mask = next(mask for name, mask in masks.items() if name.partition("/")[0] == view)
    data, grid = batch.views[view], tokens[view].layout.grid
    notes = [f"Interpolation: {filler.name}."]
    asked = _pixel_question(method, masks, view)
    reconstruction, answered = None, mask.hidden
    if asked is None:
        notes.append("This method predicts no pixels, so there is no reconstruction to show.")
    else:
        question = method.prediction_tasks(masks)[asked]
        answered = question.query.rows.to_mask(tokens[view].layout.count)
        reconstruction = reconstruct(method, tokens, masks, mask, asked)
        notes += _explain(question.objective.target, bool((mask.hidden & ~answered).any()))
    return GridViews(
        unit(data),
        filler.fill(method.tokenizer, data, tokens[view], mask.hidden).clamp(0, 1),
        reconstruction,
        cells_of(mask.hidden, grid, data.shape[2:]),
        cells_of(answered, grid, data.shape[2:]),
        tuple(notes),
    )


def reconstruct(
    method: MaskedAutoencoder, tokens: Mapping[str, Tokens], masks: Mapping[str, Mask], mask: Mask, asked: str
) -> Tensor:
    """Visible rows from the input, every hidden row from the answer to the question named `asked`: (B, C, *size).

    The decoder is asked for all hidden rows, also for those that it leaves out in training.
    """
    objective, view, _ = method.prediction_tasks(masks)[asked]
    rows, target, at = Rows.from_mask(mask.hidden), objective.target, _place_name(asked, objective)
    everywhere = {name: _ask(one, at, rows) if one is mask else one for name, one in masks.items()}
    prediction = method.predict(tokens, everywhere, {asked})[1][asked].float()
    mean, std = visible_statistics(target, tokens[view], mask)
    if target.per != "none":
        mean, std = rows.gather(mean), rows.gather(std)
    layout, content = tokens[view].layout, unit(tokens[view].content)
    pixels = _every_frame(target, target.restore(prediction, mean, std), layout, rows)
    answer = rows.scatter(pixels, layout.count).reshape(content.shape)
    hidden = mask.hidden.reshape(*mask.hidden.shape, *(1,) * (content.dim() - 2))
    return method.tokenizer.untokenize(torch.where(hidden, answer, content), layout.grid).clamp(0, 1)


def visible_statistics(target: Pixels, tokens: Tokens, mask: Mask) -> tuple[Tensor, Tensor]:
    """Mean and divisor of every row, as `target.statistics`, from visible patches alone: (B, N, 1, 1 or C) or scalars.

    Hidden rows get the harmonic interpolation over the grid of patches. A target that predicts only some frames of a
    patch standardises by those; here whole patches count.
    """
    known = target.statistics(target.values(mask.visible.gather(tokens.content)))
    if target.per == "none":
        return known
    mean, std = (_spread(one[:, :, 0], mask, tokens.layout).unsqueeze(2) for one in known)
    return mean, std


def _spread(values: Tensor, mask: Mask, layout: Layout) -> Tensor:
    """(B, V, S) at visible rows -> (B, N, S) at all."""
    grid = mask.visible.scatter(values, layout.count).transpose(1, 2).unflatten(2, layout.grid)
    known = (~mask.hidden).unflatten(1, layout.grid)
    return harmonic(grid, known, tolerance=1e-5).flatten(2).transpose(1, 2)


def _pixel_question(method: MaskedAutoencoder, masks: Mapping[str, Mask], view: str) -> str | None:
    """The first objective of this view that predicts pixels at some of its tokens."""
    for key, (objective, of, query) in method.prediction_tasks(masks).items():
        is_pixels = isinstance(objective.target, Pixels) and query.rows is not None and query.level == 0
        if is_pixels and of == view and _place_name(key, objective) not in ("visible", "grid"):
            return key
    return None


def _place_name(asked: str, objective) -> str:
    return asked.partition("/")[2] or objective.queries[0]


def _ask(mask: Mask, at: str, rows: Rows) -> Mask:
    return replace(mask, queries={**mask.queries, at: replace(mask.queries[at], rows=rows)})


def _every_frame(target: Pixels, pixels: Tensor, layout: Layout, rows: Rows) -> Tensor:
    """Predicted pixels (B, M, ·, C) with frames that the target leaves out filled by the nearest predicted one."""
    if target.per_slot is None:
        return pixels
    depth = target.patch[0]
    nearest = (target.offsets[:, None] - torch.arange(depth, device=pixels.device)[:, None]).abs().argmin(2)
    pick = nearest[layout.cells(rows) // prod(layout.grid[1:])]  # (B, M, depth)
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
            "(harmonic interpolation over the grid of patches) put them back; nothing of a hidden patch is used, so "
            "brightness and contrast of hidden places are a guess."
        )
    if target.per_slot is not None:
        verb = "is" if target.per_slot == 1 else "are"
        frames = f"Of the {target.patch[0]} frames of a patch {target.per_slot} {verb} predicted"
        notes.append(f"{frames}; the others repeat the nearest predicted frame.")
    if left_out:
        notes.append("For these pictures the decoder answers all hidden patches; in training it leaves some out.")
    return notes


def versions(views: GridViews, index: int, shown: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Sample `index` as colours (*size, 3), by what is shown: input, masked, interpolation and reconstruction."""
    original = as_rgb(views.input[index], shown)
    found = {
        "input": original,
        "masked": torch.where(views.hidden[index, ..., None], original.new_tensor(COVER), original),
        "interpolation": as_rgb(views.filled[index], shown),
    }
    if views.reconstruction is not None:
        found["reconstruction"] = as_rgb(views.reconstruction[index], shown)
    return found


def tinted(views: GridViews, index: int, shown: Sequence[int] | None = None) -> Tensor:
    """The mask over the input (*size, 3): hidden cells `SCORED` where the decoder answers them, `UNASKED` elsewhere.

    Hidden cells lose their own colour, so that visible ones stand out.
    """
    original = as_rgb(views.input[index], shown)
    grey = original.mean(-1, keepdim=True)
    answered = views.answered[index, ..., None]
    colour = torch.where(answered, original.new_tensor(SCORED), original.new_tensor(UNASKED))
    return torch.where(views.hidden[index, ..., None], grey.lerp(colour, TINT), original)


def as_rgb(values: Tensor, shown: Sequence[int] | None = None) -> Tensor:
    """(C, *size) -> (*size, 3). `shown`: one channel or three; by default the first three, or of fewer the first."""
    picked = values[list(shown or (range(3) if len(values) >= 3 else (0,)))]
    return picked.expand(3, *picked.shape[1:]).movedim(0, -1)


def shrink(frames: Tensor, side: int) -> Tensor:
    """(T, H, W, 3) made smaller, if need be, such that the longer side has at most `side` pixels; by area means."""
    scale = side / max(frames.shape[1:3])
    if scale >= 1:
        return frames
    size = [max(1, round(n * scale)) for n in frames.shape[1:3]]
    return F.interpolate(frames.movedim(3, 1), size, mode="bilinear", antialias=True).movedim(1, 3)


def encode(frames: Tensor, label: str, alt: str, exact: bool, milliseconds: int = 0) -> Raster:
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
