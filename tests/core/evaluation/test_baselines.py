import numpy as np
import pytest
import torch

from core.data.reader import Reader
from core.evaluation.baselines import raw_components
from core.evaluation.cache import cached
from core.evaluation.features import Reading


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))


def test_the_same_question_is_answered_once():
    asked = []

    def compute():
        asked.append(1)
        return {"side/random init": np.array([[True, False]])}

    first, second = cached({"data": "a", "seed": 0}, compute), cached({"seed": 0, "data": "a"}, compute)
    assert len(asked) == 1
    np.testing.assert_array_equal(first["side/random init"], second["side/random init"])
    cached({"data": "a", "seed": 1}, compute)
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "file"))
    assert cached({"data": "a"}, lambda: {"x": np.ones((1, 2), dtype=bool)})["x"].all()


def test_components_of_raw_input_are_those_of_the_pixels(reader, squares):
    items = squares(train=40).items("train")
    project = raw_components(items, Reading(reader, 16), seed=0)
    pictures = torch.tensor(np.stack([np.load(item.path) for item in items]))
    pixels = pictures.flatten(1).float()
    exact = torch.linalg.svdvals(pixels - pixels.mean(0))
    torch.testing.assert_close(project(pictures).std(0)[:5], exact[:5] / 39**0.5, rtol=1e-3, atol=0)


def test_samples_of_unlike_size_have_no_components(squares):
    class Lists(Reader):
        view, extensions = "points", (".npy",)

        def read(self, item, train):
            return [torch.zeros(3, 3)]

        def collate(self, samples):
            return [one for sample in samples for one in sample]

    assert raw_components(squares(train=8).items("train"), Reading(Lists(), 4), seed=0) is None
