"""Convolutional networks as encoders, with weights of seed 0."""

import torch

from core.tokenizers import Normalise
from modalities.image.nn.convnet import ConvNet


def encoder(backbone: str, stride: int = 32, hidden: str = "absent", **options) -> ConvNet:
    torch.manual_seed(0)
    return ConvNet(backbone, Normalise([0.5], [0.5]), [stride, stride], 3, stride, options, hidden)


def awake(made: ConvNet) -> ConvNet:
    """With all weights at work: gains near zero, as ConvNeXt's at the start, would hide what their branches do."""
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            if p.dim() < 2 or not p.any():
                p.copy_(torch.rand(p.shape, generator=drawn) + 0.5)
    return made


def pictures(batch: int, side: int) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
