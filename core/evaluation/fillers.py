"""Trivial fillers: what hidden content is worth without learning. A reconstruction's skill is measured against them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.tokenizers import Patchify, Tokenizer, unit
from core.tokens import Tokens

COARSE = 512  # cells of the coarse problem, which is solved directly
ITERATIONS = 1000
IN_CACHE = 400_000  # values


class Filler(ABC):
    """Fills the hidden rows of one view from its visible ones."""

    name: str  # exact, for reports

    @abstractmethod
    def fill(self, tokenizer: Tokenizer, data: Any, tokens: Tokens, hidden: Tensor) -> Any:
        """Raw data of one view like `data`, in which the content of rows `hidden` (B, N) is replaced."""


class HarmonicFiller(Filler):
    """Harmonic interpolation of whole patches on a grid of any number of axes, cell by cell (pixel, voxel)."""

    name = "harmonic interpolation (discrete Laplace equation from all visible cells, unit weights, no flux outward)"

    def fill(self, tokenizer: Tokenizer, data: Tensor, tokens: Tokens, hidden: Tensor) -> Tensor:
        if not isinstance(tokenizer, Patchify):
            raise UserError(
                f"task=reconstruction fills grids of patches; this method's tokenizer is {type(tokenizer).__name__}. "
                "Choose another task, or name a filler for this modality in modality.filler."
            )
        known = cells_of(~hidden, tokens.layout.grid, data.shape[2:])
        # On a CPU, few samples at a time stay in its cache (twice as fast for clips).
        part = len(data) if data.is_cuda else max(1, IN_CACHE // data[0].numel())
        pairs = zip(data.split(part), known.split(part), strict=True)
        return torch.cat([harmonic(unit(values), flag) for values, flag in pairs])


def cells_of(rows: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """A flag per row (B, N) as one per cell (B, *size): each row covers size / grid cells along every axis."""
    flag = rows.unflatten(1, tuple(grid))
    for axis, (cells, places) in enumerate(zip(size, grid, strict=True), start=1):
        flag = flag.repeat_interleave(cells // places, axis)
    return flag


@torch.no_grad()
def harmonic(values: Tensor, known: Tensor, tolerance: float = 1e-4) -> Tensor:
    """Fills cells so that each is the mean of its neighbours: values (B, C, *grid) float, known (B, *grid) bool.

    Conjugate gradients with a two-level preconditioner (Jacobi, and blocks of cells solved directly) until every
    residual is below `tolerance`, which is in the units of `values`. A sample of which nothing is known becomes 0.
    """
    hidden = (~known).unsqueeze(1).to(values.dtype)
    values = values * (1 - hidden)
    degree = _neighbours(torch.ones_like(hidden[:1]))
    coarse = _Coarse(hidden, degree)
    axes = tuple(range(2, values.dim()))
    residual = _neighbours(values) * hidden
    start = coarse.solve(residual)
    values = values + start
    residual -= (degree * start - _neighbours(start)) * hidden
    direction, last = torch.zeros_like(values), torch.ones_like(residual.sum(axes, keepdim=True))
    for _ in range(ITERATIONS):
        if residual.abs().max() < tolerance:
            return values
        step = coarse.solve(residual).addcmul_(residual, hidden / degree)
        length = (residual * step).sum(axes, keepdim=True)
        direction = torch.addcmul(step, length / last, direction)
        image = (degree * direction - _neighbours(direction)) * hidden
        # Samples that are done keep still: 0 / tiny.
        rate = length / (direction * image).sum(axes, keepdim=True).clamp(min=1e-30)
        values.addcmul_(rate, direction)
        residual.addcmul_(rate, image, value=-1)
        last = length.clamp(min=1e-30)
    raise RuntimeError(f"harmonic interpolation did not converge: residual {residual.abs().max().item():.1e}")


class _Coarse:
    """The Laplace problem on blocks of cells: hidden cells of a block move together. Solved directly."""

    def __init__(self, hidden: Tensor, degree: Tensor):
        grid = tuple(hidden.shape[2:])
        self.hidden, self.block = hidden, _block(grid)
        self.grid = tuple(n // b for n, b in zip(grid, self.block, strict=True))
        self.factor = torch.linalg.cholesky(self._matrix(hidden, degree))

    def solve(self, residual: Tensor) -> Tensor:
        """(B, C, *grid) -> the correction, constant on the hidden cells of each block."""
        right = _sum_blocks(residual, self.block).flatten(2).transpose(1, 2)
        moves = torch.cholesky_solve(right, self.factor).transpose(1, 2).unflatten(2, self.grid)
        for axis, size in enumerate(self.block, start=2):
            moves = moves.repeat_interleave(size, axis)
        return moves * self.hidden

    def _matrix(self, hidden: Tensor, degree: Tensor) -> Tensor:
        count = prod(self.grid)
        index = torch.arange(count, device=hidden.device).view(self.grid)
        matrix = hidden.new_zeros(hidden.shape[0], count, count)
        diagonal = _sum_blocks((degree - _neighbours(hidden)) * hidden, self.block).flatten(1)
        for axis, (cells, blocks) in enumerate(zip(hidden.shape[2:], self.grid, strict=True)):
            edge = torch.arange(self.block[axis] - 1, cells - 1, self.block[axis], device=hidden.device)
            pairs = hidden.index_select(axis + 2, edge) * hidden.index_select(axis + 2, edge + 1)
            face = [1 if a == axis else size for a, size in enumerate(self.block)]
            weight = _sum_blocks(pairs, face).flatten(1)
            low, high = (index.narrow(axis, start, blocks - 1).flatten() for start in (0, 1))
            matrix[:, low, high] -= weight
            matrix[:, high, low] -= weight
            diagonal = diagonal.index_add(1, low, weight).index_add(1, high, weight)
        # Blocks without hidden cells have no equation; where nothing at all is known, the tiny term keeps it solvable.
        matrix.diagonal(dim1=1, dim2=2).add_(torch.where(diagonal == 0, 1.0, diagonal * (1 + 1e-6)))
        return matrix


def _neighbours(x: Tensor) -> Tensor:
    """Sum over the neighbours along the grid's axes: (B, C, *grid)."""
    out = torch.zeros_like(x)
    for axis in range(2, x.dim()):
        count = x.shape[axis] - 1
        out.narrow(axis, 0, count).add_(x.narrow(axis, 1, count))
        out.narrow(axis, 1, count).add_(x.narrow(axis, 0, count))
    return out


def _sum_blocks(x: Tensor, block: Sequence[int]) -> Tensor:
    for axis, size in enumerate(block, start=2):
        x = x.unflatten(axis, (-1, size)).sum(axis + 1)
    return x


def _block(grid: Sequence[int]) -> tuple[int, ...]:
    """The smallest blocks, near cubes that divide the grid, of which there are at most `COARSE`."""
    for side in range(1, max(grid) + 1):
        block = tuple(max(d for d in range(1, min(side, n) + 1) if n % d == 0) for n in grid)
        if prod(n // b for n, b in zip(grid, block, strict=True)) <= COARSE:
            return block
    raise ValueError(f"no blocks for a grid {tuple(grid)}")
