"""Any convolutional network of timm as an encoder of visible patches alone: SparK's."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

from core.encoder import Encoder
from core.errors import IncompatibleError, UserError
from core.sparse import VisiblePatches, masked_to, spconv_applies
from core.tokenizers import Normalise
from core.tokens import EncoderInput, Latent, Layout, Rows
from modalities.image.nn.masked_layers import mask_network, refuse_timm_checkpointing, set_checkpointing
from modalities.image.nn.suitability import create_network, inspect_network, verify_equivalence


class ConvNet(Encoder):
    """A network of timm, `backbone`, with its own names and weights, run on visible patches alone.

    `stride`: its total stride, which divides the tokenizer's `patch`; 8 and 16 by dilation, where the network
    can. `options`: its further arguments ({"drop_path_rate": 0.2}). Used are the maps of strides from 4 on,
    of each stride the last; layers behind them are exported and not trained.
    `hidden`: hidden patches are "absent", or "zeroed", which is the paper's ablation, for comparison: zeros
    in an ordinary network, which sees their edges, its biases there, and counts them in its statistics.

    Shapes: (B, V, h, w, C) of V visible patches -> Latent pyramid, coarsest first, features (B, V·s², width).
    Of all rows (`unmasked`, `replace_masked`) it makes maps of all positions, zero at hidden ones.
    Raises: UserError for unsuitable networks, and where samples differ in the number of
    visible patches or have none.
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
            axes = len(patch)
            raise IncompatibleError(f"method.encoder (ConvNet) needs tokens with axes=2; these have axes={axes}.")
        if any(side % stride for side in patch):
            raise UserError(
                f"method.encoder.stride={stride} does not divide the patches {list(patch)} that are hidden: "
                f"set modality.patch={[stride, stride]}, "
                "or method.encoder.stride to 8 or 16 where the network can."
            )

        self.normalise, self.patch, self.channels, self.hidden = normalise, tuple(patch), channels, hidden
        self.network = create_network(backbone, channels, stride, options)
        self.scales = inspect_network(self.network, backbone, channels, stride)
        mask_network(self.network)
        verify_equivalence(self.network, backbone, channels, stride, options)

        self.embed_dim, self.depth = self.scales.widths[0], len(self.scales.widths)

    @property
    def provides(self) -> dict:
        norm = "layer"
        for layer in self.network.modules():
            if type(layer).__name__.startswith(("BatchNorm", "SyncBatchNorm", "FrozenBatchNorm")):
                norm = "batch"
        return {
            "width": self.embed_dim,
            "widths": list(self.scales.widths),
            "stride": self.scales.strides[0],
            "norm": norm,
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Computes every block again in the backward pass: less memory, more time, the same gradients.

        As with any checkpoint, running statistics of batch norms move in both passes.
        """
        set_checkpointing(self.network, enable)

    def forward(self, inputs: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        rows, grid = self._visible_rows(inputs), inputs.layout.grid
        content = inputs.content
        if inputs.erased is not None:
            content = rows.gather(content)
        x = self.normalise(content).to(next(self.network.parameters()).dtype)

        latent = None
        if rows is None:  # nothing is hidden: the ordinary network on whole pictures
            for dense in self._maps(_picture(x, grid)):
                latent = _dense_latent(dense, finer=latent)
            return latent

        patches = VisiblePatches(rows.index, grid, use_spconv=spconv_applies(self.network, x))
        for stack in self._stacks(x.flatten(1, 2).permute(0, 3, 1, 2), patches):
            if inputs.erased is None:
                latent = _visible_latent(stack, patches, finer=latent)
            else:
                latent = _dense_latent(patches.scatter(stack), finer=latent)
        return latent

    def _stacks(self, stack: Tensor, patches: VisiblePatches) -> list[Tensor]:
        """Stacks of visible patches (B, C, V·h, w), of every scale that is used, finest first."""
        if self.hidden == "zeroed":
            return [patches.gather(x) for x in self._maps(patches.scatter(stack))]

        refuse_timm_checkpointing(self.network)
        with masked_to(patches):
            return self._intermediates(stack)

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Maps (B, C, H, W) of the ordinary network, finest first, whatever mask a caller may have set."""
        with masked_to(None):
            return self._intermediates(x)

    def _intermediates(self, x: Tensor) -> list[Tensor]:
        indices = sorted(self.scales.indices)
        return self.network.forward_intermediates(x, indices=indices, intermediates_only=True)

    def _visible_rows(self, inputs: EncoderInput) -> Rows | None:
        """The visible patches; None where nothing is hidden."""
        rows = inputs.rows
        if inputs.erased is not None:
            rows = Rows.from_mask(~inputs.erased)
        if rows is None:
            return None

        if rows.valid is not None:
            raise UserError(
                "method.encoder (ConvNet) needs the same number of visible patches in every image "
                "of a batch, and at least one: choose a masker that hides an exact number (core.maskers.RandomMasker)."
            )
        if not rows.count:
            rows_of_grid, columns = inputs.layout.grid
            raise UserError(
                f"method.masker leaves nothing visible of {rows_of_grid}x{columns} patches: "
                "lower method.masker.ratio, or take larger images (modality.size) or smaller patches."
            )
        return rows


def _picture(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """All patches (B, N, h, w, C) as a picture (B, C, H, W), in memory with channels last."""
    x = x.unflatten(1, grid).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _dense_latent(x: Tensor, finer: Latent | None) -> Latent:
    """Features of all positions of a map (B, C, H, W)."""
    layout = Layout(x.shape[2] * x.shape[3], tuple(x.shape[2:]))
    return Latent(x.flatten(2).transpose(1, 2), layout, finer=finer)


def _visible_latent(stack: Tensor, patches: VisiblePatches, finer: Latent | None) -> Latent:
    """Features of the positions of a stack (B, C, V·h, w), and which positions of the map these are."""
    patch = patches.patch_size(stack)
    features = stack.flatten(2).transpose(1, 2)
    layout = Layout(features.shape[1], patches.map_sides(patch))
    return Latent(features, layout, rows=Rows(patches.positions(patch)), finer=finer)
