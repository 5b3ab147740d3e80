"""timm's networks on visible patches: masked classes for its layers, checkpoints for its blocks."""

from collections.abc import Iterator
from typing import Any

from timm.layers import AvgPool2dSame
from torch import Tensor, nn

from core.errors import UserError
from core.sparse import MaskedAveragePooling, checkpoint_with_mask, mask_windows, mixed_class


class MaskedAveragePoolingSame(MaskedAveragePooling):
    """For timm's pooling that pads by itself: the zeros that it adds count, and so do hidden positions."""

    divides_by_window = True


class CheckpointedBlock(nn.Module):
    """A block whose activations are computed again in the backward pass where `checkpoints` is True."""

    checkpoints = False

    def forward(self, *inputs: Any) -> Any:
        # A list of maps may have changed by the time of the backward pass.
        if not self.checkpoints or not all(isinstance(x, Tensor) for x in inputs):
            return super().forward(*inputs)
        return checkpoint_with_mask(super().forward, *inputs)


def mask_network(network: nn.Module) -> None:
    """Gives a network of timm masked windows (`core.sparse.mask_windows`)."""
    mask_windows(network, axes=2, rules={AvgPool2dSame: MaskedAveragePoolingSame})


def set_checkpointing(network: nn.Module, enable: bool) -> None:
    """Turns the checkpoints of all blocks on or off. Weights and names stay."""
    for block in _blocks(network):
        if not isinstance(block, CheckpointedBlock):
            block.__class__ = mixed_class(CheckpointedBlock, type(block))
        block.checkpoints = enable


def refuse_timm_checkpointing(network: nn.Module) -> None:
    """Raises: UserError where timm would compute blocks again itself, which it does outside the mask."""
    for layer in network.modules():
        if getattr(layer, "grad_checkpointing", False):
            raise UserError(
                "timm's own gradient checkpointing is on (set_grad_checkpointing of the network, or "
                "memory_efficient in method.encoder.options), which loses the mask in the backward pass: turn it "
                "off and call the encoder's set_grad_checkpointing() instead."
            )


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of several layers directly within `module`, within containers, and within timm's stages."""
    for child in module.children():
        container = type(child) in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        stage = hasattr(child, "grad_checkpointing")  # timm's mark of modules that hold blocks

        if container or stage:
            yield from _blocks(child)
        elif _holds_several_layers(child):
            yield child


def _holds_several_layers(module: nn.Module) -> bool:
    """Whether more than one layer within has weights: a single one stores nothing but its input."""
    weighted = [layer for layer in module.modules() if list(layer.parameters(recurse=False))]
    return len(weighted) > 1
