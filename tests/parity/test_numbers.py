"""Every method against its official code's own numbers. How its tensors compare stands in a page of `methods/`."""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.catalogue import official_names
from core.config import compose
from core.config.build import build_method
from core.export import SavedEncoder, export_encoder, load_encoder
from core.interop import open_official
from core.methods.masked_autoencoder import MaskedAutoencoder
from tests.conftest import golden_folders
from tests.parity.methods import METHODS
from tests.parity.vectors import Folder, Pair, cases, check, unhandled, unnoticed, unnoticed_in_files


@cache
def compare(case: tuple[str, Path], factor: float = 1.0) -> tuple[Folder, dict[str, Pair]]:
    method = METHODS[case[0]]
    folder = method.open(case[1], factor)
    return folder, method.compare(folder)


def test_every_folder_of_a_method_is_compared():
    compared = {path for name in METHODS for path in golden_folders(name)}
    assert set(golden_folders(*official_names())) <= compared


@pytest.mark.parametrize("case", cases(*METHODS))
def test_numbers_are_the_official_ones(case):
    folder, pairs = compare(case)
    assert not check(pairs)
    assert "loss" in pairs
    assert not unhandled(folder, pairs, METHODS[case[0]].elsewhere)


@pytest.mark.parametrize("case", cases(*METHODS))
def test_one_per_cent_is_noticed(case):
    """Of every tensor, when the recorded side of its comparison is off; and when the numbers in the files are."""
    pairs, spoiled = compare(case)[1], compare(case, 1.01)[1]
    assert not unnoticed(pairs)
    assert not unnoticed_in_files(pairs, spoiled)


@pytest.mark.parametrize("case", cases(*METHODS))
def test_classes_are_those_that_train(case):
    method = METHODS[case[0]]
    folder = method.open(case[1])
    choices = [f"modality={folder.official.modality}", f"method={folder.name.replace('-', '_')}", *method.config]
    with torch.device("meta"):
        trained = build_method(compose([*choices, "data=folder", "data.root=none"]))
    assert {kind.__name__ for kind in kinds(folder.load()) ^ kinds(trained)} <= method.options


def kinds(method: MaskedAutoencoder) -> set[type]:
    return {type(part) for part in (*method.modules(), method.masker)}


@pytest.mark.filterwarnings("ignore:Floats from")  # recorded batches are normalised already
@pytest.mark.parametrize("case", cases(*METHODS))
def test_the_encoder_of_a_checkpoint_is_the_same_when_loaded(case, tmp_path):
    folder = METHODS[case[0]].open(case[1])
    state, view = load_file(folder.path / "state_dict.safetensors"), folder.official.modality
    method, config = open_official(folder.name, state, folder.meta)
    export_encoder(tmp_path, method, config)
    data = folder.replay()[0].views[view]
    own = SavedEncoder(method.tokenizer, method.encoder, {"view": view}).eval()(data)
    assert torch.equal(own.tokens, load_encoder(tmp_path)(data).tokens)
