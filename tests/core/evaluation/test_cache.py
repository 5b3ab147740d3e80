"""Results on disk: computed once for a key, and never an error."""

import numpy as np
import pytest

from core.evaluation.cache import cached


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
