"""Every method against its official code's own numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.config import compose
from core.config.build import build_method
from core.export import SavedEncoder, export_encoder, load_encoder
from core.interop import open_official
from core.methods.masked_autoencoder import MaskedAutoencoder
from tests.parity import convnets, graphs, pixels
from tests.parity.vectors import Folder, Pair, cases, check, unhandled, unnoticed


@dataclass(frozen=True)
class Method:
    """`compare`: our tensors beside the recorded ones. `elsewhere`: recorded keys that need no counterpart (regex)."""

    compare: Callable[[Folder], dict[str, Pair]]
    elsewhere: str
    official: str | None = None  # its name in load_official, if not the folder's
    config: tuple[str, ...] = ()  # of the method that trains
    options: frozenset[str] = frozenset()  # classes that a folder's own options put in or leave out


PIXELS = frozenset({"Separable", "Learned", "ClsToken", "LayerScale"})
# The coarsest map of a network as wide as the decoder needs no projection.
SPARK = {"compare": convnets.spark, "elsewhere": convnets.ELSEWHERE, "official": "spark", "options": {"Identity"}}
FITTING = {"graphmae-chem": ("modality.features=2",)}

METHODS = {
    **{name: Method(compare, pixels.ELSEWHERE[name], options=PIXELS) for name, compare in pixels.OUTPUTS.items()},
    **{
        name: Method(compare, graphs.ELSEWHERE[name], config=FITTING.get(name, ()), options=graphs.OPTIONS)
        for name, compare in graphs.OUTPUTS.items()
    },
    "spark-resnet": Method(**SPARK, config=("method.encoder.backbone=resnet50", "size=small")),
    "spark-convnext": Method(**SPARK, config=("method.encoder.backbone=convnext_small", "size=small")),
}


def open_folder(case: tuple[str, Path]) -> Folder:
    return Folder(case[1], METHODS[case[0]].official or case[0])


@cache
def compare(case: tuple[str, Path]) -> tuple[Folder, dict[str, Pair]]:
    folder = open_folder(case)
    return folder, METHODS[case[0]].compare(folder)


@pytest.mark.parametrize("case", cases(*METHODS))
def test_numbers_are_the_official_ones(case):
    folder, pairs = compare(case)
    assert not check(pairs)
    assert not unhandled(folder, pairs, METHODS[case[0]].elsewhere)


@pytest.mark.parametrize("case", cases(*METHODS))
def test_one_per_cent_is_noticed(case):
    assert not unnoticed(compare(case)[1])


@pytest.mark.parametrize("case", cases(*METHODS))
def test_classes_are_those_that_train(case):
    folder, method = open_folder(case), METHODS[case[0]]
    chosen = [f"modality={folder.official.modality}", f"method={folder.name.replace('-', '_')}", *method.config]
    with torch.device("meta"):
        trained = build_method(compose([*chosen, "data=folder", "data.root=none"]))
    assert {kind.__name__ for kind in kinds(folder.load()) ^ kinds(trained)} <= method.options


def kinds(method: MaskedAutoencoder) -> set[type]:
    return {type(part) for part in (*method.modules(), method.masker)}


@pytest.mark.parametrize("case", cases(*METHODS))
def test_the_encoder_of_a_checkpoint_is_the_same_when_loaded(case, tmp_path):
    folder = open_folder(case)
    state, view = load_file(folder.path / "state_dict.safetensors"), folder.official.modality
    method, config = open_official(folder.name, state, folder.meta)
    export_encoder(tmp_path, method, config)
    data = folder.replay()[0].views[view]
    own = SavedEncoder(method.tokenizer, method.encoder, {"view": view}).eval()(data)
    assert torch.equal(own.tokens, load_encoder(tmp_path)(data).tokens)
