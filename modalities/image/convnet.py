"""Any convolutional network of timm as an encoder that sees visible patches alone: SparK's."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

from core.encoder import Encoder
from core.errors import IncompatibleError, UserError
from core.tokenizers import Normalise
from core.tokens import EncoderInput, Latent, Layout, Rows
from modalities.image.suitable import create, prove, survey
from modalities.image.windows import Visible, carried, only, runs_sparsely, swap


class ConvNet(Encoder):
    """A network of timm, `backbone`, with its own names and weights, run on visible patches alone.

    `stride`: its total stride, which divides the tokenizer's `patch`; 8 and 16 by dilation, where the network can.
    `options`: its further arguments ({"drop_path_rate": 0.2}). Used are the maps of strides from 4 on, of each stride
    the last; layers behind them are kept for export and not trained.
    `hidden`: what hidden patches are to the network. "zeroed" is the paper's ablation, for comparison: zeros in an
    ordinary network, which sees their edges, its biases there, and counts them in its statistics.
    Shapes: EncoderInput (B, V, h, w, C) of V visible patches -> Latent pyramid, coarsest first, features (B, V·s², width).
    Of all rows (`whole`, `blank`) it makes maps of all positions, zero where nothing is seen.
    Raises: UserError where samples differ in the number of visible patches or have none, and for unsuitable networks.
    Source: keyu-tian/SparK (masked dense maps; equal numbers).
    """

    masking = "drop"

    def __init__(
        self,
        backbone: str,
        normalise: Normalise,
        patch: Sequence[int],
        channels: int,
        stride: int = 32,
        options: Mapping[str, Any] = MappingProxyType({}),
        hidden: Literal["absent", "zeroed"] = "absent",
    ):
        super().__init__()
        if hidden not in ("absent", "zeroed"):
            raise UserError(f"method.encoder.hidden={hidden} is unknown; choose absent or zeroed.")
        if len(patch) != 2:
            raise IncompatibleError(f"method.encoder (ConvNet) needs tokens with axes=2; these have axes={len(patch)}.")
        if any(side % stride for side in patch):
            raise UserError(
                f"method.encoder.stride={stride} does not divide the patches {list(patch)} that are hidden: set "
                f"modality.patch={[stride, stride]}, or method.encoder.stride to 8 or 16 where the network can."
            )
        self.normalise, self.patch, self.channels, self.hidden = normalise, tuple(patch), channels, hidden
        self.network = create(backbone, channels, stride, options)
        self.scales = survey(self.network, backbone, channels, stride)
        swap(self.network)
        prove(self.network, backbone, channels, stride, options)
        self.embed_dim, self.depth = self.scales.widths[0], len(self.scales.widths)

    @property
    def provides(self) -> dict:
        norms = {type(layer).__name__ for layer in self.network.modules() if "Norm" in type(layer).__name__}
        batch = any(name.startswith(("BatchNorm", "SyncBatchNorm", "FrozenBatchNorm")) for name in norms)
        return {
            "width": self.embed_dim,
            "widths": list(self.scales.widths),
            "stride": self.scales.strides[0],
            "norm": "batch" if batch else "layer",
        }

    def forward(self, seen: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        rows, grid = self._rows(seen), seen.layout.grid
        content = seen.content if seen.erased is None else rows.gather(seen.content)
        x = self.normalise(content).to(next(self.network.parameters()).dtype)
        visible = None if rows is None else Visible(rows.index, grid, runs_sparsely(self.network, x))
        if visible is None:
            maps = self._maps(_picture(x, grid), None)
        elif self.hidden == "absent":
            maps = self._maps(x.flatten(1, 2).permute(0, 3, 1, 2), visible)
        else:
            zeroed = visible.spread(x.flatten(1, 2).permute(0, 3, 1, 2))
            maps = [visible.gather(one) for one in self._maps(zeroed, None)]
        latent = None
        for one in maps:  # finest first
            if seen.erased is not None:
                latent = _everywhere(visible.spread(one), finer=latent)
            else:
                latent = _everywhere(one, latent) if visible is None else _where_visible(one, visible, latent)
        return latent

    def _maps(self, x: Tensor, visible: Visible | None) -> list[Tensor]:
        """Finest first; of a stack of visible patches, or of a picture (None)."""
        with only(visible), carried(self.network):
            indices = sorted(self.scales.indices)
            return self.network.forward_intermediates(x, indices=indices, intermediates_only=True)

    def _rows(self, seen: EncoderInput) -> Rows | None:
        """The visible patches; None where nothing is hidden."""
        rows = seen.rows if seen.erased is None else Rows.from_mask(~seen.erased)
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
