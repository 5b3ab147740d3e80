"""Parts as small as they can be, which record what they were built of."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from os import system  # noqa: F401 (a config must not reach it through this module)
from typing import ClassVar, Literal

from torch import nn

BUILT: list[str] = []


class Cutter:
    def __init__(self, patch: Sequence[int], size: Sequence[int], channels: int = 1):
        BUILT.append("Cutter")
        self.patch, self.size, self.channels = patch, size, channels

    @property
    def provides(self) -> dict:
        grid = tuple(n // p for n, p in zip(self.size, self.patch, strict=True))
        return {"grid": grid, "axes": len(grid), "channels": self.channels, "values": self.channels * sum(self.patch)}


class Masker(ABC):
    @abstractmethod
    def mask(self): ...


class RandomMasker(Masker):
    def __init__(self, ratio: float):
        self.ratio = ratio

    def mask(self): ...


class BlockMasker(Masker):
    def __init__(self, block: tuple[int, int], count: int | None = 4):
        self.block, self.count = block, count

    def mask(self): ...


class TubeMasker(Masker):
    requires: ClassVar = {"axes": 3}

    def __init__(self, ratio: float):
        self.ratio = ratio

    def mask(self): ...


class Trunk(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int = 1, bias: Literal["full", "qv", "none"] = "full"):
        super().__init__()
        BUILT.append("Trunk")
        if dim % heads:
            raise ValueError(f"width {dim} is not divisible by {heads} heads")
        self.dim, self.depth, self.heads, self.bias = dim, depth, heads, bias
        self.weight = nn.Linear(dim, dim)

    @property
    def provides(self) -> dict:
        return {"dim": self.dim}


class Embed:
    def __init__(self, values: int, dim: int, scale: float = 1.0, norm: nn.Module | None = None):
        self.values, self.dim, self.scale, self.norm = values, dim, scale, norm


class Encoder:
    def __init__(self, trunk: Trunk, embed: Embed, cls: Embed | None = None, extra: list[Embed] | None = None):
        BUILT.append("Encoder")
        self.trunk, self.embed, self.cls, self.extra = trunk, embed, cls, extra or []

    @property
    def provides(self) -> dict:
        return {"width": self.trunk.dim}


class Guide:
    def __init__(self, size: int):
        BUILT.append("Guide")
        self.size = size

    @property
    def provides(self) -> dict:
        return {"values": self.size}


class Guided:
    built_first = ("guides",)

    def __init__(self, embed: Embed, guides: Mapping[str, Guide] | None = None):
        self.embed, self.guides = embed, guides


class Decoder:
    def __init__(self, width: int, dim: int, trunk: Trunk | None = None):
        self.width, self.dim, self.trunk = width, dim, trunk

    @property
    def provides(self) -> dict:
        return {"width": self.dim}


class Target:
    def __init__(self, values: int, grid: tuple[int, ...], per: Literal["none", "patch"] = "none"):
        self.grid, self.per, self.out = grid, per, values

    @property
    def provides(self) -> dict:
        return {"out": self.out}


class PyramidTarget(Target):
    def __init__(self, values: int, grid: tuple[int, ...], levels: int = 2):
        super().__init__(values, grid)
        self.levels = levels

    @property
    def requires(self) -> dict:
        return {"levels": self.levels}


class Head:
    def __init__(self, width: int, out: int):
        self.width, self.out = width, out


class Objective:
    def __init__(self, target: Target, loss: Callable, head: Head | None = None, weight: float = 1.0):
        self.target, self.loss, self.head, self.weight = target, loss, head, weight


class Readout:
    def __init__(self, decoder: Decoder | None = None, objectives: Mapping[str, Objective] | None = None):
        self.decoder, self.objectives = decoder, objectives


class Method:
    def __init__(
        self,
        tokenizer: Cutter,
        masker: Masker,
        encoder: Encoder,
        readouts: Mapping[str, Readout],
        teachers: Mapping[str, nn.Module] | None = None,
    ):
        self.tokenizer, self.masker, self.encoder, self.readouts = tokenizer, masker, encoder, readouts
        self.teachers = teachers or {}


class Files:
    def __init__(self, root: str, extensions: Sequence[str] = (), holdout: float = 0.1):
        self.root, self.extensions, self.holdout = root, extensions, holdout


class Generous:
    def __init__(self, thing: object):
        self.thing = thing

    @property
    def provides(self) -> dict:
        return {"thing": self.thing}


class Wanting:
    def __init__(self, first: Generous, thing: object):
        self.first, self.thing = first, thing


class Bare:
    pass


class Layer(nn.Module):
    pass


class Clip:
    def __init__(self, norm: float | None = 1.0):
        self.norm = norm


def mse(prediction, values):
    return (prediction - values) ** 2


def make_clip(norm: float) -> Clip:
    return Clip(norm)


def write(path: str) -> None:
    raise AssertionError("a config must not call what makes no part")
