"""Any convolutional network of timm as an encoder that sees visible patches alone: SparK's."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor

from core.composition.references import Misfit
from core.encoder import Encoder
from core.errors import UserError
from core.tokenizers import Normalise
from core.tokens import Latent, Layout, Rows, Seen
from modalities.image.suitable import create, prove, survey
from modalities.image.windows import Visible, only, swap


class ConvNet(Encoder):
    """A network of timm, `backbone`, with its own names and weights, run on visible patches alone.

    `stride`: its total stride, which divides the tokenizer's `patch`; 8 and 16 by dilation, where the network can.
    `options`: its further arguments ({"drop_path_rate": 0.2}). Used are the maps of strides from 4 on, of each stride
    the last; layers behind them are kept for export and not trained.
    Shapes: Seen (B, V, h, w, C) of V visible patches -> Latent pyramid, coarsest first, features (B, V·s², width).
    Of all rows (`whole`, `blank`) it makes maps of all positions, zero where nothing is seen.
    Raises: UserError where samples differ in the number of visible patches or have none, and for unsuitable networks.
    Source: keyu-tian/SparK (masked dense maps; equal numbers).
    """

    hide = "keep"

    def __init__(
        self,
        backbone: str,
        normalise: Normalise,
        patch: Sequence[int],
        channels: int,
        stride: int = 32,
        options: Mapping[str, Any] = MappingProxyType({}),
    ):
        super().__init__()
        if len(patch) != 2:
            raise Misfit(f"method.encoder (ConvNet) needs tokens with axes=2; these have axes={len(patch)}.")
        if any(side % stride for side in patch):
            raise UserError(
                f"method.encoder.stride={stride} does not divide the patches {list(patch)} that are hidden: set "
                f"modality.patch={[stride, stride]}, or method.encoder.stride to 8 or 16 where the network can."
            )
        self.normalise, self.patch, self.channels = normalise, tuple(patch), channels
        self.network = create(backbone, channels, stride, options)
        self.scales = survey(self.network, backbone, channels, stride)
        swap(self.network)
        prove(self.network, backbone, channels, stride, options)
        self.embed_dim, self.depth = self.scales.widths[0], len(self.scales.widths)

    @property
    def give(self) -> dict:
        norms = {type(layer).__name__ for layer in self.network.modules() if "Norm" in type(layer).__name__}
        batch = any(name.startswith(("BatchNorm", "SyncBatchNorm", "FrozenBatchNorm")) for name in norms)
        return {
            "width": self.embed_dim,
            "widths": list(self.scales.widths),
            "stride": self.scales.strides[0],
            "norm": "batch" if batch else "layer",
        }

    def forward(self, seen: Seen, taps: Sequence[str] = ()) -> Latent:
        rows, grid = self._rows(seen), seen.layout.grid
        content = seen.content if seen.emptied is None else rows.take(seen.content)
        x = self.normalise(content).to(next(self.network.parameters()).dtype)
        visible = None if rows is None else Visible(rows.index, grid)
        with only(visible):
            stacked = _picture(x, grid) if visible is None else x.flatten(1, 2).permute(0, 3, 1, 2)
            maps = self.network.forward_intermediates(
                stacked, indices=sorted(self.scales.indices), intermediates_only=True
            )
        latent = None
        for one in maps:  # finest first
            if seen.emptied is not None:
                latent = _everywhere(visible.spread(one), finer=latent)
            else:
                latent = _everywhere(one, latent) if visible is None else _where_visible(one, visible, latent)
        return latent

    def _rows(self, seen: Seen) -> Rows | None:
        """The visible patches; None where nothing is hidden."""
        rows = seen.rows if seen.emptied is None else Rows.where(~seen.emptied)
        if rows is None:
            return None
        if rows.valid is not None:
            raise UserError(
                "method.encoder (ConvNet) needs the same number of visible patches in every image of a batch, and at "
                "least one: choose a masker that hides an exact number (core.maskers.RandomMasker)."
            )
        if not rows.count:
            raise UserError(
                f"method.masker leaves nothing visible of {seen.layout.grid[0]}x{seen.layout.grid[1]} patches: lower "
                "method.masker.ratio, or take larger images (modality.size) or smaller patches."
            )
        return rows


def _picture(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """All patches (B, N, h, w, C) as a picture (B, C, H, W), in memory with channels last."""
    x = x.unflatten(1, grid).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _everywhere(x: Tensor, finer: Latent | None) -> Latent:
    layout = Layout(x.shape[2] * x.shape[3], tuple(x.shape[2:]))
    return Latent(x.flatten(2).transpose(1, 2), layout, None, finer=finer)


def _where_visible(stack: Tensor, visible: Visible, finer: Latent | None) -> Latent:
    h, w = stack.shape[2] // visible.count, stack.shape[3]
    features, grid = stack.flatten(2).transpose(1, 2), (visible.grid[0] * h, visible.grid[1] * w)
    return Latent(features, Layout(features.shape[1], grid), Rows(visible.positions(h, w)), finer=finer)
