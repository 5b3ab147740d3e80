"""Reference vectors: reading a folder, loading its weights through `load_official`, comparing tensor by tensor.

Tolerances: the largest of 1e-5 of a tensor's largest value, the folder's own figure, and ten times the recorded
distance between float32 and float64 (the official code itself moves by up to one such distance on another machine).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.interop import Official, find_official, load_official, settings, unwrap
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch
from tests.conftest import golden_folders

TOLERANCE = 1e-5


class Recorded:
    """The recorded tensors of one folder, `io`, and its `meta`.

    `factor` scales every recorded number but those of keys that match `inputs`: a comparison that is worth something
    notices 1.01. Index sets and masks of whole numbers stay.
    """

    def __init__(self, path: Path, factor: float = 1.0, inputs: str = ""):
        self.path, self.factor = path, factor
        self.meta = json.loads((path / "meta.json").read_text())
        io = load_file(path / "io.safetensors")
        self.io = {key: value if re.fullmatch(inputs, key) else self.scaled(value) for key, value in io.items()}

    def scaled(self, value: Tensor) -> Tensor:
        return value * self.factor if value.is_floating_point() else value

    def tolerance(self, key: str) -> float:
        """Relative, of a recorded tensor."""
        return max(TOLERANCE, 10 * self.meta.get("float32_vs_float64_max_rel", {}).get(key, 0.0))


class Folder(Recorded):
    """A folder whose checkpoint `load_official(name, …)` reads."""

    def __init__(self, path: Path, name: str, factor: float = 1.0, inputs: str = ""):
        super().__init__(path, factor, inputs)
        self.name = name
        self.official: Official = find_official(name)
        self.settings = settings(self.meta)

    def load(self, overrides: Mapping | None = None) -> MaskedAutoencoder:
        """The method; `overrides` change constructor arguments (another target, say)."""
        meta = {**self.meta, "constructor_args": {"changed": {**self.settings, **(overrides or {})}}}
        return load_official(self.name, self.checkpoint, meta)

    @cached_property
    def checkpoint(self) -> dict[str, Tensor]:
        return load_file(self.path / "state_dict.safetensors")

    def replay(self) -> tuple[Batch, dict]:
        return self.official.replay(self.io, self.settings)

    def located(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Official tensors under our names, double precision; NaN at places of our tensors that none of them fills."""
        blank = {key: torch.full(x.shape, torch.nan, dtype=torch.double) for key, x in unwrap(self.checkpoint).items()}
        mapped = self.official.keys({**blank, **{key: value.double() for key, value in tensors.items()}})
        return {name: value for name, value in mapped.items() if not value.isnan().all()}

    # Gradients --------------------------------------------------------------------------------------------------------

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The gradient of the recorded loss by official parameter; empty where the folder has none."""
        path = self.path / "gradients.safetensors"
        return {key: self.scaled(value) for key, value in load_file(path).items()} if path.exists() else {}

    @property
    def about_gradients(self) -> dict:
        return self.meta.get("gradients", {})

    @property
    def gradient_tolerance(self) -> float:
        """Relative, of the largest value of a parameter's gradient."""
        about = self.about_gradients
        spreads = [about.get("max_relative_spread", 0.0), *about.get("float64_spread", {}).values()]
        spreads.append(about.get("max_rel_difference_to_float64", {}).get("value", 0.0))
        return max(TOLERANCE, 10 * max(spreads))

    def gradient_noise(self, largest: float) -> float:
        """Absolute: how far rounding moves a gradient that is zero. `largest`: of all gradients of the folder."""
        return max(1e-6 * largest, 10 * self.about_gradients.get("max_abs_difference_to_float64", 0.0))

    def is_noise(self, key: str, gradient: Tensor, largest: float) -> bool:
        """Whether a parameter's gradient is nothing but rounding."""
        named = key in self.about_gradients.get("zero_up_to_rounding", {}).get("tensors", ())
        return named or float(gradient.abs().max()) < 1e-6 * largest


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One of our tensors, the recorded one, and how far apart they may be: absolutely, element by element.

    `noise`: the recorded values are no more exact than some per cent themselves.
    """

    ours: Tensor
    recorded: Tensor
    allowed: Tensor
    noise: bool = False

    def fits(self, factor: float = 1.0) -> bool:
        """`factor` scales the recorded side: 1.01 must not fit."""
        assert self.ours.shape == self.recorded.shape, (self.ours.shape, self.recorded.shape)
        distance = (self.ours.double() - self.recorded.double() * factor).abs()
        return bool((distance <= self.allowed).all())

    @property
    def can_tell(self) -> bool:
        """Whether one per cent is more than what is allowed on either side."""
        return bool((0.01 * self.recorded.double().abs() > 2 * self.allowed).any())

    @property
    def must_tell(self) -> bool:
        return not self.noise and bool(self.recorded.any())

    def __str__(self) -> str:
        if not self.recorded.numel():
            return "empty"
        distance = (self.ours.double() - self.recorded.double()).abs().max()
        return f"off by {distance:.1e} of {self.recorded.abs().max():.1e}"


def equal(ours: Tensor, recorded: Tensor) -> Pair:
    """Masks and index sets."""
    return Pair(ours=ours.double(), recorded=recorded.double(), allowed=torch.zeros(recorded.shape, dtype=torch.double))


def close(ours: Tensor, recorded: Tensor, tolerance: float = TOLERANCE, absolute: float = 0.0) -> Pair:
    """`tolerance`: relative to the largest recorded value of the tensor. A single number may have any shape."""
    if recorded.numel() == 1:
        ours = ours.reshape(recorded.shape)
    figure = max(tolerance * float(recorded.abs().max()), absolute) if recorded.numel() else 0.0
    allowed = torch.full(recorded.shape, figure, dtype=torch.double)
    return Pair(ours=ours.detach().double(), recorded=recorded.double(), allowed=allowed, noise=tolerance >= 0.005)


class Comparison:
    """Our tensors beside a folder's recorded ones, by recorded key. A key that the folder leaves out is passed over."""

    def __init__(self, folder: Recorded):
        self.folder = folder
        self.pairs: dict[str, Pair] = {}

    def equal(self, key: str, ours: Tensor) -> None:
        """A mask, or an index set in its order."""
        if key in self.folder.io:
            self.pairs[key] = equal(ours, self.folder.io[key])

    def equal_set(self, key: str, flags: Tensor) -> None:
        """An index set recorded in any order, beside ours as flags (N,)."""
        if key in self.folder.io:
            self.pairs[key] = equal(flags.nonzero()[:, 0], self.folder.io[key].sort().values)

    def close(self, key: str, ours: Tensor, absolute: float = 0.0) -> None:
        if key in self.folder.io:
            self.pairs[key] = close(ours, self.folder.io[key], self.folder.tolerance(key), absolute)


class WeightComparison(Comparison):
    """The same for values that belong to weights: they are recorded under official names, and ours by our names."""

    folder: Folder

    def gradients(self, method: MaskedAutoencoder, prefix: str) -> None:
        """All of gradients.safetensors, and those that io.safetensors holds under `prefix`."""
        same = self.folder.about_gradients.get("same_as_io", {})
        few = {key: same.get(key, key.removeprefix(prefix)) for key in self.folder.io if key.startswith(prefix)}
        recorded = self.folder.gradients
        ours = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
        if not recorded and not few:
            return

        largest = largest_of(recorded or {name: self.folder.io[key] for key, name in few.items()})
        for name, pair in self._gradient_pairs(ours, recorded, largest).items():
            self.pairs[f"gradient of {name}"] = pair
        for key, official in few.items():
            pairs = self._gradient_pairs(ours, {official: self.folder.io[key]}, largest)
            self._add(key, pairs)

    def _gradient_pairs(self, ours: Mapping[str, Tensor], recorded: Mapping[str, Tensor], largest: float) -> dict:
        noise, figures, flags = self.folder.gradient_noise(largest), {}, {}
        for key, gradient in recorded.items():
            is_noise = self.folder.is_noise(key, gradient, largest)
            figure = noise if is_noise else self.folder.gradient_tolerance * float(gradient.abs().max())
            figures[key], flags[key] = torch.full(gradient.shape, figure), torch.full(gradient.shape, float(is_noise))

        values = self.folder.located(recorded)
        allowed, is_noise = self.folder.located(figures), self.folder.located(flags)
        missing = values.keys() - ours.keys()
        assert not missing, f"no gradient for {sorted(missing)}"
        return {
            name: part(ours[name], value, allowed[name], noise=bool((is_noise[name] != 0).all()))
            for name, value in values.items()
        }

    def updated(self, prefix: str, state: Mapping[str, Tensor], margins: Mapping[str, Tensor] | None = None) -> None:
        """Values after an update, `<prefix><official name>`. `margins`: allowed on top, by our names."""
        for key in [key for key in self.folder.io if key.startswith(prefix)]:
            recorded = self.folder.io[key]
            figure = self.folder.tolerance(key) * float(recorded.abs().max()) if recorded.numel() else 0.0
            pairs = {}
            for name, value in self.folder.located({key.removeprefix(prefix): recorded}).items():
                allowed = torch.full(value.shape, figure, dtype=torch.double)
                allowed = allowed if margins is None else allowed + margins[name]
                pairs[name] = part(state[name], value, allowed)
            self._add(key, pairs)

    def _add(self, key: str, pairs: Mapping[str, Pair]) -> None:
        """One official tensor may be several of ours."""
        for number, pair in enumerate(pairs.values()):
            self.pairs[key if number == 0 else f"{key}, part {number}"] = pair


def largest_of(tensors: Mapping[str, Tensor]) -> float:
    return max(float(value.abs().max()) for value in tensors.values())


def part(ours: Tensor, recorded: Tensor, allowed: Tensor, noise: bool = False) -> Pair:
    """The places where something is recorded; elsewhere `recorded` is NaN."""
    assert ours.shape == recorded.shape, (ours.shape, recorded.shape)
    there = ~recorded.isnan()
    return Pair(ours=ours.detach().double()[there], recorded=recorded[there], allowed=allowed[there], noise=noise)


# Tests of a folder ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the folders `folder` and `folder--…` are compared. One page of `tests/parity/methods` holds each.

    `compare`: our tensors beside the recorded ones. `elsewhere`: recorded keys that need no counterpart (regex):
    inputs, randomness, intermediates, and what belongs to other tests. `official`: its name in load_official, if not
    the folder's. `config`: of the method that trains. `options`: classes that a folder's options put in or leave out.
    """

    folder: str
    compare: Callable[[Folder], dict[str, Pair]]
    elsewhere: str
    official: str | None = None
    config: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()

    def open(self, path: Path, factor: float = 1.0) -> Folder:
        return Folder(path, self.official or self.folder, factor, self.elsewhere)


def check(pairs: Mapping[str, Pair]) -> list[str]:
    return [f"{key}: {pair}" for key, pair in pairs.items() if not pair.fits()]


def unhandled(folder: Recorded, pairs: Mapping[str, Pair], elsewhere: str) -> list[str]:
    """Recorded keys that were neither compared nor are inputs, intermediates or somebody else's (regex `elsewhere`)."""
    return [key for key in folder.io if key not in pairs and not re.fullmatch(elsewhere, key)]


def cases(*names: str) -> list:
    """(name, folder) of all reference vectors of these names, as a test's parameters; a skip where there are none."""
    folders = [(name, path) for name in names for path in golden_folders(name)]
    if not folders:
        return [pytest.param(None, marks=pytest.mark.skip(reason="no reference vectors: set GOLDEN_DIR"))]
    return [pytest.param((name, path), id=path.name) for name, path in folders]


def unnoticed(pairs: Mapping[str, Pair]) -> list[str]:
    """What fits although the recorded side is off by one per cent; rounding noise and zeros may."""
    return [key for key, pair in pairs.items() if pair.must_tell and (not pair.can_tell or pair.fits(1.01))]


def unnoticed_in_files(pairs: Mapping[str, Pair], spoiled: Mapping[str, Pair]) -> list[str]:
    """What fits although the folder's numbers are off by one per cent: a recorded number beside itself, say.

    `spoiled`: the comparison of the folder with `factor` 1.01.
    """
    changed = [key for key, pair in spoiled.items() if not torch.equal(pair.recorded, pairs[key].recorded)]
    return [key for key in changed if pairs[key].must_tell and spoiled[key].fits()]
