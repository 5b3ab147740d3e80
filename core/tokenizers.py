"""Tokenizers: a raw batch becomes `Tokens`. No learned parameters here."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.tokens import Layout, Tokens


class Tokenizer(nn.Module, ABC):
    """Raw data of one view -> Tokens with content (B, N, *C), without learned parameters.

    Tokenizers that join views override `tokenize_views`. `takes`: its raw data in words, where people give such.
    """

    takes: ClassVar[str] = ""

    @abstractmethod
    def forward(self, data: Any) -> Tokens:
        """Raw data of one view -> Tokens."""

    def tokenize_views(self, views: Mapping[str, Any]) -> dict[str, Tokens]:
        """Tokens of every view of a batch."""
        return {name: self(data) for name, data in views.items()}


class TokenizerByView(Tokenizer):
    """A tokenizer for each view: `views` by name. Views of a batch that have none are left alone."""

    def __init__(self, views: Mapping[str, Tokenizer]):
        super().__init__()
        self.views = nn.ModuleDict(views)

    def forward(self, data: Any) -> Tokens:
        raise UserError(f"This tokenizer takes data by view ({', '.join(self.views)}).")

    def tokenize_views(self, views: Mapping[str, Any]) -> dict[str, Tokens]:
        return {name: self.views[name](data) for name, data in views.items() if name in self.views}


class Normalise(nn.Module):
    """Raw values (uint8, or floats in [0, 1]) -> (x / 255 − mean) / std, channel last. Doubles stay doubles.

    Applied after gathering, so that nothing is computed for values that are not used.
    Raises: UserError where there are neither one mean nor as many as channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        # A single value serves any number of channels.
        self.register_buffer("mean", torch.tensor(tuple(mean), dtype=torch.float64), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std), dtype=torch.float64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.mean) not in (1, x.shape[-1]):
            raise UserError(
                f"normalise: {len(self.mean)} means for {x.shape[-1]} channels. Set modality.normalise.mean and "
                "modality.normalise.std, to one value or to one for each channel, such as [0.5] and [0.25]."
            )
        x = unit(x)
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """Normalised values (…, C) -> [0, 1]."""
        return x * self.std.to(x.dtype) + self.mean.to(x.dtype)


def unit(x: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]; floats as they are."""
    if x.is_floating_point():
        return x
    return x.float() / 255


class Patchify(Tokenizer):
    """Cuts any number of axes into patches: (B, C, *size) -> Tokens with content (B, N, *patch, C), row-major.

    Values stay raw (bytes, mostly), so that the one copy made here is small. Inputs of another size than `size` are
    taken too, as long as every axis is a multiple of its patch.
    Raises: UserError when a patch does not divide its axis or the number of channels differs.
    """

    def __init__(self, patch: Sequence[int], size: Sequence[int], channels: int = 3):
        super().__init__()
        self.patch, self.size, self.channels = tuple(patch), tuple(size), channels
        if len(self.patch) != len(self.size):
            raise UserError(
                f"modality.patch={list(self.patch)} and modality.size={list(self.size)} differ in number of axes."
            )
        if min(*self.patch, *self.size, channels) < 1:
            raise UserError(
                f"modality.patch={list(self.patch)} (by modality.side), modality.size={list(self.size)} and "
                f"modality.channels={channels} must be at least 1."
            )
        self.grid = self._grid(self.size)

    @property
    def provides(self) -> dict:
        return {
            "grid": self.grid,
            "axes": len(self.grid),
            "patch": self.patch,
            "channels": self.channels,
            "values": prod(self.patch) * self.channels,
        }

    def forward(self, data: Tensor) -> Tokens:
        axes = len(self.patch)
        if data.dim() != axes + 2 or data.shape[1] != self.channels:
            shape = ", ".join(map(str, ("B", "C", *self.size)))
            remedy = "Declare other data by modality.channels and modality.size."
            if data.dim() == axes + 1:
                remedy = "One sample needs the axis of the batch too: data[None]."
            elif data.dim() == axes + 2 and data.shape[-1] == self.channels:
                remedy = "Channels come second: torch.movedim(data, -1, 1)."
            raise UserError(
                f"Input has shape {tuple(data.shape)}; expected ({shape}) with C = {self.channels}. {remedy}"
            )

        grid = self._grid(tuple(data.shape[2:]))
        shape = [data.shape[0], self.channels]  # (B, C, n, p, n, p, …)
        for cells, patch in zip(grid, self.patch, strict=True):
            shape += [cells, patch]

        order = [0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1]
        content = data.reshape(shape).permute(order).flatten(1, axes)
        return Tokens(content, Layout(content.shape[1], grid))

    def untokenize(self, content: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """(B, N, *patch, C) or (B, N, values) -> (B, C, *size), the inverse."""
        grid = grid or self.grid
        axes = len(grid)
        x = content.reshape(content.shape[0], *grid, *self.patch, self.channels)

        order = [0, 1 + 2 * axes]
        for axis in range(axes):
            order += [1 + axis, 1 + axes + axis]

        size = [n * p for n, p in zip(grid, self.patch, strict=True)]
        return x.permute(order).reshape(content.shape[0], self.channels, *size)

    def _grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Patches along each axis of an input."""
        grid, fits = [], []  # fits: the nearest smaller size that patches divide
        for length, patch in zip(size, self.patch, strict=True):
            grid.append(length // patch)
            fits.append(max(patch, length // patch * patch))

        if fits != list(size):
            raise UserError(
                f"Patch {self.patch} does not divide the input {size}. "
                f"Set modality.size={fits} or another modality.patch."
            )
        return tuple(grid)
