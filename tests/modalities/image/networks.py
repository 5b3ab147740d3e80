"""Convolutional networks as encoders, with weights of seed 0."""

import torch

from core.tokenizers import Normalise
from modalities.image.nn.convnet import ConvNet


def encoder(backbone: str, stride: int = 32, hidden: str = "absent", **options) -> ConvNet:
    torch.manual_seed(0)
    return ConvNet(backbone, Normalise([0.5], [0.5]), [stride, stride], 3, stride, options, hidden)
