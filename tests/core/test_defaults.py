"""Settings that the data decide: only those that nothing else gives."""

import pytest

from core import defaults
from core.data.sources import Setting, Source


class Few(Source):
    """A source of three samples."""

    def items(self, split):
        return []

    def defaults(self):
        return [Setting("batch_size", 3, "there are three samples"), Setting("optim.lr", 0.5, "it is so")]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(defaults, "open_source", lambda config: (None, Few()))


def test_the_data_decide_what_is_not_given():
    config, settings = defaults.compose_for_data(["modality=image"])
    assert (config["batch_size"], config["optim"]["lr"]) == (3, 0.5)
    assert defaults.describe(settings).splitlines()[0] == "chosen: batch_size=3, as there are three samples"


@pytest.mark.parametrize(
    ("given", "batch_size", "keys"),
    [
        (["batch_size=8"], 8, ["optim.lr"]),
        (["optim.base_lr=1e-3"], 3, ["batch_size"]),
        (["optim=adam"], 3, ["batch_size"]),
        (["optim.lr=1e-3", "batch_size=2"], 2, []),
    ],
)
def test_anything_given_wins(given, batch_size, keys):
    config, settings = defaults.compose_for_data(["modality=image", *given])
    assert config["batch_size"] == batch_size and [setting.key for setting in settings] == keys


def test_experiments_are_untouched():
    config, settings = defaults.compose_for_data(["experiment=mae_base_imagenet", "data.root=."])
    assert not settings and config["batch_size"] == 4096
