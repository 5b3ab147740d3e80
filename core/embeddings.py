"""From raw content and positions to vectors: patch embedding, position tables, cls token."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from core.tokenizers import Normalise
from core.tokens import EncoderInput, Layout, Rows


class Positions(nn.Module, ABC):
    """A vector of width D for every place of a layout."""

    dim: int

    @abstractmethod
    def at(self, layout: Layout, rows: Rows | None) -> Tensor:
        """Positions (B, K, D) of `rows` of a layout; None: of all, (B or 1, N, D)."""

    def of(self, inputs: EncoderInput) -> Tensor:
        """Positions (B or 1, V, D) of the rows that an encoder gets."""
        if inputs.layout.coords is not None:  # those of the rows alone
            return self.at(inputs.layout, None)
        return self.at(inputs.layout, inputs.rows)


class TablePositions(Positions):
    """A table with a vector for every cell of a grid.

    `forward(cells, grid)`: cells (B, K) -> (B, K, D), None -> (1, N, D).
    """

    def __init__(self, grid: Sequence[int], dim: int):
        super().__init__()
        self.grid, self.dim = tuple(grid), dim

    @abstractmethod
    def full(self) -> Tensor:
        """The table of the grid it was built for, (N, D)."""

    def forward(self, cells: Tensor | None, grid: tuple[int, ...]) -> Tensor:
        table = self.full()
        if grid != self.grid:
            table = resize_table(table, self.grid, grid)

        if cells is None:
            return table[None]
        return table.index_select(0, cells.flatten()).view(*cells.shape, self.dim)

    def at(self, layout: Layout, rows: Rows | None) -> Tensor:
        return self(layout.cells(rows), layout.grid)


class CoordinateMLP(Positions):
    """Metric coordinates x (B, K, A) -> W₂ gelu(W₁ x + b₁) + b₂, (B, K, D).

    `hidden`: width between the two layers; None: that of the positions. `init`: "truncated", N(0, 0.02) cut at two
    deviations and biases zero, or "default", torch's own.
    Source: Pang-Yatian/Point-MAE (pos_embed, decoder_pos_embed).
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        axes: int = 3,
        init: Literal["truncated", "default"] = "default",
    ):
        super().__init__()
        self.dim = dim
        self.fc1 = nn.Linear(axes, hidden or dim)
        self.fc2 = nn.Linear(hidden or dim, dim)
        if init == "truncated":
            initialise_truncated(self)

    def at(self, layout: Layout, rows: Rows | None) -> Tensor:
        coords = layout.coords
        if coords is None:
            raise UserError("core.embeddings.CoordinateMLP needs tokens with coordinates: set positions of a grid.")
        if rows is not None:
            coords = rows.gather(coords)
        return self.fc2(F.gelu(self.fc1(coords.to(self.fc1.weight.dtype))))


class SinCos(TablePositions):
    """Fixed sine-cosine table of an n-d grid; the last axis first, sines before cosines.

    Each axis takes D / A channels (rounded down to even; what is left stays zero) with ω_k = 10000^(−k/(D/2A)).
    Two axes give MAE's table (facebookresearch/mae). Computed in float64.
    """

    table: Tensor

    def __init__(self, grid: Sequence[int], dim: int):
        super().__init__(grid, dim)
        half = dim // (2 * len(self.grid))
        omega = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / max(half, 1))
        index = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in self.grid))
        index = index.reshape(prod(self.grid), len(self.grid))

        parts = []
        for axis in reversed(range(len(self.grid))):
            angle = index[:, axis, None] * omega
            parts += [angle.sin(), angle.cos()]

        table = torch.cat(parts, 1)
        self.register_buffer("table", F.pad(table, (0, dim - table.shape[1])).float())

    def full(self) -> Tensor:
        return self.table


class FlatSinusoid(TablePositions):
    """Fixed sinusoids over the flattened index: channel j of position n is sin or cos of n / 10000^(2⌊j/2⌋/D).

    Source: MCG-NJU/VideoMAE (a 1-d table even for space-time).
    """

    table: Tensor

    def __init__(self, grid: Sequence[int], dim: int):
        super().__init__(grid, dim)
        channel = torch.arange(dim, dtype=torch.float64)
        angle = torch.arange(prod(self.grid), dtype=torch.float64)[:, None] / 10000.0 ** (2 * (channel // 2) / dim)
        self.register_buffer("table", torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float())

    def full(self) -> Tensor:
        return self.table


class Learned(TablePositions):
    """One learned vector for every cell, truncated normal 0.02: a table (1, N, D)."""

    def __init__(self, grid: Sequence[int], dim: int):
        super().__init__(grid, dim)
        self.table = nn.Parameter(torch.empty(1, prod(self.grid), dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def full(self) -> Tensor:
        return self.table[0]


class Separable(TablePositions):
    """Learned vectors for the first axis (time) and for the cells of the others (space), added: p(t, s) = T_t + S_s.

    Source: facebookresearch/mae_st (sep_pos_embed).
    """

    requires: ClassVar = {"axes": 3}

    def __init__(self, grid: Sequence[int], dim: int):
        super().__init__(grid, dim)
        self.spatial = nn.Parameter(torch.empty(1, prod(self.grid[1:]), dim))
        self.temporal = nn.Parameter(torch.empty(1, self.grid[0], dim))
        nn.init.trunc_normal_(self.spatial, std=0.02)
        nn.init.trunc_normal_(self.temporal, std=0.02)

    def full(self) -> Tensor:
        return (self.temporal[0, :, None] + self.spatial).flatten(0, 1)


def resize_table(table: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """(N, D) of grid `old` -> grid `new`: bicubic over the last two axes, linear over those before.

    As MAE (space) and VideoMAE V2 (space per time slot, then time) resize theirs.
    """
    if len(old) != len(new):
        raise ValueError(f"cannot resize positions of a {len(old)}-d grid to a {len(new)}-d one")

    dim = table.shape[1]
    x = table.float().T.reshape(dim, *old)  # (D, *old)
    linear_axes = 1
    if len(old) >= 2:
        planes = x.reshape(dim, -1, *old[-2:])
        planes = F.interpolate(planes, size=new[-2:], mode="bicubic", align_corners=False)
        x = planes.reshape(dim, *old[:-2], *new[-2:])
        linear_axes = len(old) - 2

    for axis in range(linear_axes):
        lines = x.movedim(axis + 1, -1)
        flat = F.interpolate(lines.reshape(dim, -1, lines.shape[-1]), size=new[axis], mode="linear")
        x = flat.reshape(*lines.shape[:-1], new[axis]).movedim(-1, axis + 1)

    return x.flatten(1).T.to(table.dtype)


class PatchEmbed(nn.Module):
    """Encoder input (B, V, *patch, C) -> vectors (B, V, D): normalise, flatten (channel fastest), one linear layer.

    The same function as a convolution with stride = kernel, computed for the rows that are there only.
    `init`: "xavier" (MAE) or "default", that of the equivalent convolution (VideoMAE).
    `mask_token`: a learned vector stands for the content of erased rows, which keep their positions (SimMIM).
    `values`: numbers in a patch, prod(patch) · C.
    """

    def __init__(
        self,
        values: int,
        dim: int,
        normalise: Normalise,
        positions: Positions | None = None,
        init: Literal["xavier", "default"] = "xavier",
        mask_token: bool = False,
    ):
        super().__init__()
        self.normalise = normalise
        self.proj = nn.Linear(values, dim)
        if init == "xavier":
            nn.init.xavier_uniform_(self.proj.weight)
        self.positions = positions
        self.mask_token = nn.Parameter(token(dim, "cut")) if mask_token else None

    def forward(self, inputs: EncoderInput) -> Tensor:
        content = self.normalise(inputs.content).flatten(2).to(self.proj.weight.dtype)
        x = self.proj(content)
        if self.mask_token is not None and inputs.erased is not None:
            x = torch.where(inputs.erased[..., None], self.mask_token.to(x.dtype), x)
        if self.positions is not None:
            x = x + self.positions.of(inputs)
        return x


class ClsToken(nn.Module):
    """A token put before the others: a learned vector, or, not `learned`, one that `forward` is given.

    `position`: none, a fixed vector (zero unless a checkpoint holds another: MAE's table has a row for it) or learned.
    It is added once, or, where `forward` is told that positions go before every block, by the trunk (Point-MAE).
    """

    def __init__(
        self,
        dim: int,
        learned: bool = True,
        position: Literal["none", "fixed", "learned"] = "none",
        init: Literal["normal", "truncated", "zero"] = "normal",
    ):
        super().__init__()
        self.token = nn.Parameter(token(dim, init)) if learned else None
        if position == "learned":
            self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        elif position == "fixed":
            self.register_buffer("position", torch.zeros(1, 1, dim))
        else:
            self.position = None

    def forward(self, x: Tensor, cls: Tensor | None = None, *, add_position: bool = True) -> Tensor:
        """x (B, N, D), cls (B, D) if it is not learned -> (B, 1 + N, D)."""
        if self.token is not None:
            row = self.token.expand(x.shape[0], -1, -1)
        else:
            assert cls is not None, "without a learned vector it needs the encoder's"
            row = cls[:, None]

        if self.position is not None and add_position:
            row = row + self.position
        return torch.cat([row, x], 1)

    def before(self, positions: Tensor) -> Tensor:
        """Its position, or zeros, in front of those of the tokens: (B or 1, N, D) -> (B or 1, 1 + N, D)."""
        if self.position is None:
            return F.pad(positions, (0, 0, 1, 0))
        return torch.cat([self.position.expand(len(positions), -1, -1), positions], 1)


def initialise_truncated(module: nn.Module) -> None:
    """N(0, 0.02) cut at two deviations of the unit normal, and zero biases, for linear layers and convolutions."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def token(dim: int, init: Literal["normal", "truncated", "cut", "zero"] = "normal") -> Tensor:
    """A (1, 1, D) start value: N(0, 0.02), that truncated at ±2, at ±0.02 ("cut": VideoMAE's mask token), or zero."""
    value = torch.zeros(1, 1, dim)
    if init == "normal":
        return nn.init.normal_(value, std=0.02)
    if init == "truncated":
        return nn.init.trunc_normal_(value, std=0.02)
    if init == "cut":
        return nn.init.trunc_normal_(value, std=0.02, a=-0.02, b=0.02)
    return value
