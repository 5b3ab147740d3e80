"""Baselines of a reconstruction: hidden content predicted without learning. Skill is relative to them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from core.config.build import build
from core.data.sources import Source
from core.errors import UserError
from core.tokenizers import Patchify, Tokenizer, unit
from core.tokens import Tokens

COARSE_CELLS = 512  # of the coarse problem, which is solved directly
MOST_ITERATIONS = 1000
CACHE_VALUES = 400_000  # values that stay in a CPU's cache


@runtime_checkable
class Rendered(Protocol):
    """A source that can render its samples as they were before they were encoded as files."""

    def clean(self, key: str) -> Tensor: ...


class Baseline(ABC):
    """Predicts the hidden rows of one view from its visible ones. The config node `modality.baseline`.

    It answers with raw data, or, where other data would be cut into other tokens, with tokens: `predict_tokens`.
    Beside this lowest bound of a skill it gives the highest that a source allows: `ceiling_data`, `ceiling_tokens`.
    """

    name: str  # exact, for reports
    ceiling = "samples as they were before they were encoded"  # exact, for reports

    @abstractmethod
    def predict(self, tokenizer: Tokenizer, data: Any, tokens: Tokens, hidden: Tensor) -> Any:
        """Raw data of one view like `data`, in which the content of rows `hidden` (B, N) is replaced."""

    def predict_tokens(self, tokens: Tokens, hidden: Sequence[Tensor]) -> Tokens | None:
        """The tokens with the content of hidden rows replaced; None: those of the data of `predict`.

        `hidden`: (B, N) of every level of a pyramid, coarsest first.
        """
        return None

    def ceiling_data(self, source: Source, keys: Sequence[str], data: Any) -> Any | None:
        """Raw data like `data` that a perfect method would predict; None where the source does not know them."""
        if not isinstance(source, Rendered):
            return None
        clean = torch.stack([source.clean(key) for key in keys]).to(data.device)
        if clean.shape != data.shape:  # it was read at another size
            return None
        return clean

    def ceiling_tokens(
        self, tokenizer: Tokenizer, source: Source, keys: Sequence[str], tokens: Tokens
    ) -> Tokens | None:
        """The tokens that a perfect method would predict; None: those of `ceiling_data`."""
        return None


class HarmonicInterpolation(Baseline):
    """Harmonic interpolation of whole patches on a grid of any number of axes, cell by cell (pixel, voxel).

    Shapes: data (B, C, *size) with hidden (B, N) → (B, C, *size), floats in [0, 1].
    Raises: UserError unless tokens are patches of a grid.
    """

    name = "harmonic interpolation (discrete Laplace equation from all visible cells, unit weights, no flux outward)"

    def predict(self, tokenizer: Tokenizer, data: Tensor, tokens: Tokens, hidden: Tensor) -> Tensor:
        if not isinstance(tokenizer, Patchify):
            raise UserError(
                f"task=reconstruction interpolates on grids of patches; this method's tokenizer is "
                f"{type(tokenizer).__name__}. Choose another task, or name a baseline for this modality in "
                "modality.baseline."
            )

        assert tokens.layout.grid is not None, "Patchify's tokens lie on a grid"
        visible = rows_to_cells(~hidden, tokens.layout.grid, data.shape[2:])

        # On a CPU, few samples at a time stay in its cache (twice as fast for clips).
        part = len(data) if data.is_cuda else max(1, CACHE_VALUES // data[0].numel())
        parts = zip(data.split(part), visible.split(part), strict=True)
        return torch.cat([interpolate(unit(values), flags) for values, flags in parts])


def baseline_of(modality: Mapping[str, Any]) -> Baseline:
    """The baseline that a config's `modality` names, by default harmonic interpolation."""
    if modality.get("baseline") is None:
        return HarmonicInterpolation()
    return build(modality["baseline"], key="modality.baseline")


def rows_to_cells(rows: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """A flag per row (B, N) as one per cell (B, *size): a row covers size / grid cells along every axis."""
    flags = rows.unflatten(1, tuple(grid))
    for axis, (cells, slots) in enumerate(zip(size, grid, strict=True), start=1):
        flags = flags.repeat_interleave(cells // slots, axis)
    return flags


@torch.no_grad()
def interpolate(values: Tensor, visible: Tensor, tolerance: float = 1e-4) -> Tensor:
    """Makes hidden cells the mean of their neighbours: values (B, C, *grid) float, visible (B, *grid) bool.

    Conjugate gradients with a two-level preconditioner (Jacobi, and blocks of cells solved directly) until
    every residual is below `tolerance`, which is in the units of `values`. A sample without visible cells
    becomes 0.
    """
    hidden = (~visible).unsqueeze(1).to(values.dtype)
    values = values * (1 - hidden)
    degree = _neighbour_sum(torch.ones_like(hidden[:1]))
    coarse = _CoarseProblem(hidden, degree)
    axes = tuple(range(2, values.dim()))

    # The coarse solution is the start.
    residual = _neighbour_sum(values) * hidden
    start = coarse.solve(residual)
    values = values + start
    residual -= (degree * start - _neighbour_sum(start)) * hidden

    direction, previous = torch.zeros_like(values), torch.ones_like(residual.sum(axes, keepdim=True))
    for _ in range(MOST_ITERATIONS):
        if residual.abs().max() < tolerance:
            return values

        step = coarse.solve(residual).addcmul_(residual, hidden / degree)
        length = (residual * step).sum(axes, keepdim=True)
        direction = torch.addcmul(step, length / previous, direction)
        image = (degree * direction - _neighbour_sum(direction)) * hidden

        # Samples that have converged stay as they are: 0 / tiny.
        rate = length / (direction * image).sum(axes, keepdim=True).clamp(min=1e-30)
        values.addcmul_(rate, direction)
        residual.addcmul_(rate, image, value=-1)
        previous = length.clamp(min=1e-30)

    raise RuntimeError(f"harmonic interpolation did not converge: residual {residual.abs().max().item():.1e}")


class _CoarseProblem:
    """The Laplace problem on blocks of cells: hidden cells of a block move together. Solved directly."""

    def __init__(self, hidden: Tensor, degree: Tensor):
        grid = tuple(hidden.shape[2:])
        self.hidden, self.block = hidden, _block_shape(grid)
        self.grid = tuple(size // side for size, side in zip(grid, self.block, strict=True))
        self.factor = torch.linalg.cholesky(self._matrix(hidden, degree))

    def solve(self, residual: Tensor) -> Tensor:
        """(B, C, *grid) -> the correction, constant on the hidden cells of each block."""
        right = _block_sum(residual, self.block).flatten(2).transpose(1, 2)
        moves = torch.cholesky_solve(right, self.factor).transpose(1, 2).unflatten(2, self.grid)
        for axis, size in enumerate(self.block, start=2):
            moves = moves.repeat_interleave(size, axis)
        return moves * self.hidden

    def _matrix(self, hidden: Tensor, degree: Tensor) -> Tensor:
        count = prod(self.grid)
        index = torch.arange(count, device=hidden.device).view(self.grid)
        matrix = hidden.new_zeros(hidden.shape[0], count, count)
        diagonal = _block_sum((degree - _neighbour_sum(hidden)) * hidden, self.block).flatten(1)

        for axis, (cells, blocks) in enumerate(zip(hidden.shape[2:], self.grid, strict=True)):
            # Pairs of hidden cells on either side of the face between two blocks.
            edge = torch.arange(self.block[axis] - 1, cells - 1, self.block[axis], device=hidden.device)
            pairs = hidden.index_select(axis + 2, edge) * hidden.index_select(axis + 2, edge + 1)
            face = list(self.block)
            face[axis] = 1
            weight = _block_sum(pairs, face).flatten(1)

            low = index.narrow(axis, 0, blocks - 1).flatten()
            high = index.narrow(axis, 1, blocks - 1).flatten()
            matrix[:, low, high] -= weight
            matrix[:, high, low] -= weight
            diagonal = diagonal.index_add(1, low, weight).index_add(1, high, weight)

        # Blocks without hidden cells have no equation; where nothing is visible, the tiny term keeps it solvable.
        matrix.diagonal(dim1=1, dim2=2).add_(torch.where(diagonal == 0, 1.0, diagonal * (1 + 1e-6)))
        return matrix


def _neighbour_sum(x: Tensor) -> Tensor:
    """Sum over the neighbours along the grid's axes: (B, C, *grid)."""
    out = torch.zeros_like(x)
    for axis in range(2, x.dim()):
        count = x.shape[axis] - 1
        out.narrow(axis, 0, count).add_(x.narrow(axis, 1, count))
        out.narrow(axis, 1, count).add_(x.narrow(axis, 0, count))
    return out


def _block_sum(x: Tensor, block: Sequence[int]) -> Tensor:
    for axis, size in enumerate(block, start=2):
        x = x.unflatten(axis, (-1, size)).sum(axis + 1)
    return x


def _block_shape(grid: Sequence[int]) -> tuple[int, ...]:
    """The smallest blocks, near cubes that divide the grid, of which there are at most `COARSE_CELLS`."""
    for side in range(1, max(grid) + 1):
        block = tuple(_largest_divisor(size, side) for size in grid)
        if prod(grid) // prod(block) <= COARSE_CELLS:
            return block
    raise ValueError(f"no blocks for a grid {tuple(grid)}")


def _largest_divisor(number: int, bound: int) -> int:
    """The largest divisor of `number` up to `bound`."""
    divisor = min(bound, number)
    while number % divisor:
        divisor -= 1
    return divisor
