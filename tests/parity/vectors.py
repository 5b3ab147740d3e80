"""Reference vectors: reading a folder, replaying it through `load_official`, and comparing what comes out."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.interop import Official, find_official, load_official, settings
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch
from tests.conftest import golden_folders


@dataclass
class Folder:
    """One folder of vectors and the method that its weights were loaded into."""

    path: Path
    name: str
    meta: dict = field(init=False)
    io: dict[str, Tensor] = field(init=False)
    official: Official = field(init=False)

    def __post_init__(self) -> None:
        self.meta = json.loads((self.path / "meta.json").read_text())
        self.io = load_file(self.path / "io.safetensors")
        self.official = find_official(self.name)
        self.settings = settings(self.meta)

    def load(self, overrides: Mapping | None = None) -> MaskedAutoencoder:
        """The method; `overrides` change constructor arguments (another target, say)."""
        meta = {**self.meta, "constructor_args": {"changed": {**self.settings, **(overrides or {})}}}
        return load_official(self.name, self.checkpoint, meta)

    @property
    def checkpoint(self) -> dict[str, Tensor]:
        return load_file(self.path / "state_dict.safetensors")

    def replay(self) -> tuple[Batch, dict]:
        return self.official.replay(self.io, self.settings)

    @property
    def gradient_tolerance(self) -> float:
        """1e-5, or ten times how far the official code itself moves between float32 and float64."""
        spread = self.meta.get("gradients", {}).get("max_rel_difference_to_float64", {}).get("value", 0.0)
        return max(1e-5, 10 * spread)

    def gradients(self) -> dict[str, Tensor]:
        path = self.path / "gradients.safetensors"
        return load_file(path) if path.exists() else {}


@dataclass(frozen=True)
class Pair:
    """What we computed, what is recorded, and how far apart they may be: absolutely, element by element."""

    ours: Tensor
    recorded: Tensor
    allowed: Tensor

    def fits(self, factor: float = 1.0) -> bool:
        """`factor` scales the recorded side: 1.01 must not fit."""
        assert self.ours.shape == self.recorded.shape, (self.ours.shape, self.recorded.shape)
        distance = (self.ours.double() - self.recorded.double() * factor).abs()
        return bool((distance <= self.allowed).all())

    @property
    def can_tell(self) -> bool:
        """Whether one per cent is more than what is allowed: not so for zeros and rounding noise."""
        return bool((0.01 * self.recorded.double().abs() > 3 * self.allowed).any())

    def __str__(self) -> str:
        distance = (self.ours.double() - self.recorded.double()).abs().max()
        return f"off by {distance:.1e} of {self.recorded.abs().max():.1e}"


def equal(ours: Tensor, recorded: Tensor) -> Pair:
    """Masks and index sets."""
    return Pair(ours.double(), recorded.double(), torch.zeros(recorded.shape, dtype=torch.double))


def close(ours: Tensor, recorded: Tensor, tolerance: float = 1e-5, absolute: float = 0.0) -> Pair:
    """Relative to the largest recorded value of the tensor."""
    allowed = max(tolerance * float(recorded.abs().max()), absolute) if recorded.numel() else 0.0
    return Pair(ours.detach().double(), recorded.double(), torch.full(recorded.shape, allowed, dtype=torch.double))


def gradient_pairs(folder: Folder, method: MaskedAutoencoder, recorded: dict[str, Tensor]) -> dict[str, Pair]:
    """Every recorded gradient against ours, by our names: the key map carries values and what each may be off by."""
    about = folder.meta.get("gradients", {})
    largest = max(float(g.abs().max()) for g in recorded.values())
    noise = max(1e-6 * largest, 10 * about.get("max_abs_difference_to_float64", 0.0))
    noisy = set(about.get("zero_up_to_rounding", {}).get("tensors", []))

    def allowed(key: str, g: Tensor) -> Tensor:
        size = float(g.abs().max())
        figure = noise if key in noisy or size < 1e-6 * largest else folder.gradient_tolerance * size
        return torch.full(g.shape, figure, dtype=torch.double)

    values = folder.official.keys(recorded)
    margins = folder.official.keys({key: allowed(key, g) for key, g in recorded.items()})
    ours = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    missing = values.keys() - ours.keys()
    assert not missing, f"no gradient for {sorted(missing)}"
    return {f"gradient of {name}": Pair(ours[name], values[name], margins[name]) for name in values}


def check(pairs: Mapping[str, Pair]) -> list[str]:
    return [f"{key}: {pair}" for key, pair in pairs.items() if not pair.fits()]


def unhandled(folder: Folder, pairs: Mapping[str, Pair], elsewhere: str) -> list[str]:
    """Recorded keys that were neither compared nor are inputs, intermediates or somebody else's (regex `elsewhere`)."""
    return [key for key in folder.io if key not in pairs and not re.fullmatch(elsewhere, key)]


def cases(*names: str) -> list:
    """(name, folder) of all reference vectors of these names, as a test's parameters; a skip where there are none."""
    found = [(name, path) for name in names for path in golden_folders(name)]
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason="no reference vectors: set GOLDEN_DIR"))]
    return [pytest.param((name, path), id=path.name) for name, path in found]


def unnoticed(pairs: Mapping[str, Pair]) -> list[str]:
    """What fits although the recorded side is off by one per cent. Few may be too small to tell: rounding noise."""
    told = {key: pair for key, pair in pairs.items() if pair.can_tell}
    assert len(told) > 0.8 * len(pairs), sorted(pairs.keys() - told.keys())
    return [key for key, pair in told.items() if pair.fits(1.01)]
