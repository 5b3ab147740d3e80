"""Every modality × method pair that the configs hold, built small, with a raw batch and what must not be read replaced.

A modality whose tokenizer cuts patches needs an entry in SMALL at most. Another brings `tests/contracts/raw/<m>.py`, a
method that needs other data than its modality's `tests/contracts/raw/<m>_<method>.py`:

    SMALL: list[str]                               overrides that make its samples small
    batch(method, config) -> Batch                 three small raw samples, of unequal size where they may be
    scrambled(method, batch, masks) -> Batch       every raw value replaced that no row that is seen holds
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from core.config.build import build
from core.config.compose import assemble
from core.config.files import choices
from core.errors import IncompatibleError
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokenizers import Patchify
from core.tokens import Batch, ForwardContext, Mask, Tokens
from tests.contracts import firewall

SMALL = {
    "image": ["modality.size=[32,32]", "modality.patch=[8,8]"],
    "video": ["modality.size=[4,32,32]", "modality.patch=[2,8,8]"],
}


@dataclass(frozen=True)
class Pair:
    modality: str
    method: str

    def __str__(self) -> str:
        return f"{self.modality}-{self.method}"

    @property
    def raw(self) -> ModuleType | None:
        for name in (f"{self.modality}_{self.method}", self.modality):
            if find_spec(f"tests.contracts.raw.{name}"):
                return import_module(f"tests.contracts.raw.{name}")
        return None

    @property
    def small(self) -> list[str]:
        return self.raw.SMALL if self.raw else SMALL.get(self.modality, [])

    @property
    def refusal(self) -> str | None:
        """Why the pair is refused, if it is."""
        return _refusal(self)

    def config(self) -> dict[str, Any]:
        """At nano size and small modality.size; not explained where refused, which would try every other pair."""
        return assemble([f"modality={self.modality}", f"method={self.method}", "size=nano", *self.small])

    def build(self) -> MaskedAutoencoder:
        torch.manual_seed(0)
        return build(self.config()["method"], key="method")

    def batch(self, method: MaskedAutoencoder) -> Batch:
        if self.raw:
            return self.raw.batch(method, self.config())
        assert isinstance(method.tokenizer, Patchify), f"write tests/contracts/raw/{self.modality}.py, see pairs.py"
        shape = (3, method.tokenizer.channels, *method.tokenizer.size)
        return Batch({self.modality: torch.rand(shape, generator=torch.Generator().manual_seed(0))})

    def scrambled(self, method: MaskedAutoencoder, batch: Batch, masks: dict[str, Mask]) -> dict[str, Tokens]:
        """The tokens of the same raw input with everything replaced that nothing may read."""
        if self.raw:
            return method.tokenizer.tokenize_views(self.raw.scrambled(method, batch, masks).views)
        views = {}
        for name, one in method.tokenizer.tokenize_views(batch.views).items():
            other = firewall.scrambled(one, masks[name], method.encoder.masking)
            views[name] = method.tokenizer.untokenize(other.content, one.layout.grid)
        return method.tokenizer.tokenize_views(views)


def masked(method: MaskedAutoencoder, batch: Batch) -> tuple[dict[str, Tokens], dict[str, Mask]]:
    """Tokens and masks of a batch, drawn with seed 0."""
    tokens = method.tokenizer.tokenize_views(batch.views)
    ctx = ForwardContext(
        batch, tokens, teachers=method.teachers, method=method, generator=torch.Generator().manual_seed(0)
    )
    return tokens, method.draw_mask(ctx)


def pairs() -> list[Pair]:
    return [Pair(modality, method) for modality in sorted(choices("modality")) for method in sorted(choices("method"))]


@cache
def _refusal(pair: Pair) -> str | None:
    try:
        with torch.device("meta"):
            pair.build()
    except IncompatibleError as error:  # any other error, also a UserError, is not about the pair
        return str(error)
    return None
