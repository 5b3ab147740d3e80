"""Files of torch read without running anything in them."""

import argparse
import collections
import io
import os
import pickle

import numpy as np
import pytest
import torch

from modalities.graph.formats import pickled
from modalities.graph.formats.geometric import geometric
from modalities.graph.formats.pickled import Opaque


def saved(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


class Harmful:
    """Unpickled in the usual way, it makes a folder."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "before torch 1.6"])
def test_nothing_runs(tmp_path, options):
    content = saved({"x": torch.arange(3), "trap": Harmful(str(tmp_path / "made"))}, **options)
    with pytest.raises(pickle.UnpicklingError):  # the module that makes folders is blocked by torch itself
        pickled.load(content)
    assert not (tmp_path / "made").exists()

    traps = [argparse.Namespace(lr=0.1), collections.Counter("ab"), np.random.default_rng]
    record = pickled.load(saved({"x": torch.arange(3), "traps": traps}, **options))
    assert record["x"].tolist() == [0, 1, 2] and isinstance(record["traps"][0], Opaque)
    assert record["traps"][0].path == "argparse.Namespace" and record["traps"][0].values == {"lr": 0.1}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.array([1.5, -2.0], dtype=">f8"),
        np.array([True, False]),
        np.zeros((0, 4), np.float16),
    ],
)
def test_numpy_arrays_are_read(array):
    record = pickled.load(saved({"x": array, "number": np.float64(2.5), "whole": np.int32(7)}))
    assert np.array_equal(record["x"], array) and record["x"].shape == array.shape
    assert record["number"] == 2.5 and record["whole"] == 7


def test_arrays_of_objects_become_text():
    record = pickled.load(saved({"names": np.array(["a", 3], dtype=object)}))
    assert record["names"].tolist() == ["a", "3"]


def test_classes_of_torch_geometric_stay_records():
    """Even where the package is imported, which allows torch to make its objects; afterwards it still may."""
    data = geometric().data
    allowed = torch.serialization.get_safe_globals()
    batch = data.Batch.from_data_list([data.Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0], [1]]))])
    record = pickled.load(saved(batch))
    assert isinstance(record, Opaque) and record.path == pickled.BATCH
    assert record.values["_store"].values["_mapping"]["x"].tolist() == [[1], [1]]
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"<html>", saved({"x": torch.ones(4)})[:200]])
def test_damaged_files_raise(content):
    with pytest.raises((pickle.UnpicklingError, EOFError, RuntimeError, ValueError)):
        pickled.load(content)


def test_names_of_records_are_listed():
    record = pickled.load(saved([argparse.Namespace(other=np.random.default_rng), {"x": torch.ones(1)}]))
    assert pickled.opaque_names(record)[0] == "argparse.Namespace"
