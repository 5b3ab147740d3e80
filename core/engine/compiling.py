"""torch.compile, block by block."""

from torch import nn


def compile_blocks(method: nn.Module) -> None:
    """Compiles each member of every `nn.ModuleList` in place: blocks share their code, so that it takes seconds."""
    for parent in list(method.modules()):
        if isinstance(parent, nn.ModuleList):
            for block in parent:
                block.compile()
