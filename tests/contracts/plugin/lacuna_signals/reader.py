"""Signals from .npy files (C, T)."""

import torch
from torch import Tensor

from core.data.reader import Reader
from core.data.sources import Item
from core.errors import BadSample


class Signals(Reader):
    """A random stretch of `size` values, the first one when not training: (1, C, T)."""

    view = "signal"
    extensions = (".npy",)

    def __init__(self, size: list[int]):
        (self.length,) = size

    def read(self, item: Item, train: bool) -> Tensor:
        whole = torch.from_numpy(item.array()).float()
        spare = whole.shape[1] - self.length
        if spare < 0:
            raise BadSample(f"only {whole.shape[1]} of {self.length} values long")
        start = int(torch.randint(spare + 1, ())) if train else 0
        return whole[None, :, start : start + self.length]
