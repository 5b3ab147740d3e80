"""Configs that hold every default: the same parts, built again from them."""

from copy import deepcopy

import pytest
import torch

from core.catalogue import fits
from core.config import compose
from core.config.build import build_method
from core.config.files import choices
from core.saved import complete

PAIRS = [(m, name) for name in sorted(choices("method")) for m in sorted(choices("modality")) if fits(m, name)]


def composed(modality, method):
    features = ["modality.features=2"] if method == "graphmae_chem" else []
    return compose([f"modality={modality}", f"method={method}", *features])


@pytest.mark.parametrize(("modality", "method"), PAIRS)
def test_a_complete_config_builds_the_same_method(modality, method):
    config = composed(modality, method)
    torch.manual_seed(0)
    before = build_method(config).state_dict()
    complete(config)
    whole = deepcopy(config)
    torch.manual_seed(0)
    after = build_method(config).state_dict()
    assert config == whole, "nothing was left to be filled in"
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)


def test_every_default_is_written_and_values_stay():
    config = compose(["modality=video", "data=folder", "data.root=x", "modality.reader.stride=2"])
    complete(config)
    reader = config["modality"]["reader"]
    assert reader["stride"] == 2 and reader["target_fps"] is None and reader["repeats"] == 1
    assert config["data"]["source"]["holdout"] == 0.1
    assert config["method"]["encoder"]["trunk"]["norm_eps"] == 1e-6
    assert config["optim"]["warmup_start"] == 0.0


def test_lists_and_partials_too():
    config = {
        "loss": {"_target_": "core.losses.scaled_cosine", "_partial_": True},
        "list": [{"_target_": "core.maskers.RandomMasker", "ratio": 0.5}],
    }
    complete(config)
    assert config["list"][0] == {"_target_": "core.maskers.RandomMasker", "ratio": 0.5, "rounding": "down"}
    assert "gamma" in config["loss"]
