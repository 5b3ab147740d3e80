"""SparK's decoder: every scale filled up with its own mask embedding, then a light U-Net up to the pixels."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from core.decoders import Decoder
from core.embeddings import token
from core.errors import UserError
from core.tokens import Latent, Layout, Query, Rows, levels


class Densify(nn.Module):
    """One scale: normalised features at visible positions, the mask embedding elsewhere, one convolution over all.

    Shapes: Latent (B, K, C) on a grid (h, w) -> (B, dim, h, w).
    """

    def __init__(self, width: int, dim: int, norm: Literal["batch", "layer"], kernel: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width, eps=1e-6)
        self.mask_token = nn.Parameter(token(width, "cut"))
        # The coarsest map needs no projection where widths agree.
        same = kernel == 1 and width == dim
        self.project = nn.Identity() if same else nn.Conv2d(width, dim, kernel, padding=kernel // 2)

    def forward(self, latent: Latent) -> Tensor:
        features, grid = latent.features, latent.layout.grid
        count = grid[0] * grid[1]
        rows = latent.rows or Rows.all(features.shape[0], count, features.device)
        seen = self.norm(features.flatten(0, 1)).view_as(features)
        filled = torch.where(rows.to_mask(count)[..., None], rows.scatter(seen, count), self.mask_token.to(seen.dtype))
        return self.project(filled.transpose(1, 2).unflatten(2, grid))


class UpBlock(nn.Module):
    """Twice the size: transposed convolution, two convolutions with batch norm, ReLU6 between them."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.relu6(self.norm1(self.conv1(self.up(x))))
        return self.norm2(self.conv2(x))


class SparKDecoder(Decoder):
    """Sums the densified scales on the way up, `stride` times larger in all; the patches asked for are cut out last.

    `dim`: width of the coarsest map, halved by every block. `norm`: that of the encoder's kind of network.
    Shapes: Latent pyramid, coarsest first -> dict of (B, M, values), channel fastest.
    Source: keyu-tian/SparK (densify, MAEDecoder).
    """

    def __init__(
        self,
        dim: int,
        widths: Sequence[int],
        norm: Literal["batch", "layer"],
        stride: int,
        patch: Sequence[int],
        channels: int,
    ):
        super().__init__()
        blocks = stride.bit_length() - 1
        if dim >> blocks < 1 or dim % (1 << blocks):
            raise UserError(f"decoder.dim={dim} must be a multiple of {1 << blocks}: it is halved {blocks} times.")
        self.dim, self.patch = patch[0] * patch[1] * channels, tuple(patch)
        self.scales = nn.ModuleList(
            Densify(width, dim >> i, norm, kernel=3 if i else 1) for i, width in enumerate(widths)
        )
        self.blocks = nn.ModuleList(UpBlock(dim >> i, dim >> (i + 1)) for i in range(blocks))
        self.out = nn.Conv2d(dim >> blocks, channels, 1)
        self._initialise()

    def forward(
        self, latent: Latent, layout: Layout, queries: Mapping[str, Query], others: Mapping[str, Latent]
    ) -> dict[str, Tensor]:
        maps = [scale(one) for scale, one in zip(self.scales, levels(latent), strict=True)]
        x = maps[0]
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 or i >= len(maps) else x + maps[i])
        pixels = self.out(x)
        grid = [side // p for side, p in zip(pixels.shape[2:], self.patch, strict=True)]
        cut = pixels.unflatten(3, (grid[1], -1)).unflatten(2, (grid[0], -1)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2)
        return {name: query.rows_in(layout, cut).gather(cut).flatten(2) for name, query in queries.items()}

    def _initialise(self) -> None:
        """Densifying convolutions keep PyTorch's own start, as published."""
        for layer in (*self.blocks.modules(), self.out):
            if isinstance(layer, nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.02)
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
