"""Array files as people have them, opened as the commands open them: one sample alone, stacks of any order."""

import numpy as np
import pytest

from core.config import compose
from core.data.opening import open_source


def opened(modality, root, *settings):
    return open_source(compose([f"modality={modality}", "data=folder", f"data.root={root}", *settings]))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize(
    ("modality", "shape", "keys"),
    [
        ("image", (20, 24, 3), 1),
        ("image", (3, 20, 24), 1),
        ("image", (20, 24), 1),
        ("image", (5, 20, 24), 5),
        ("image", (5, 20, 24, 3), 5),
        ("image", (5, 3, 20, 24), 5),
        ("video", (8, 20, 24, 3), 1),
        ("video", (8, 20, 24), 1),
        ("video", (5, 8, 20, 24, 3), 5),
        ("video", (5, 8, 20, 24), 5),
        ("video", (5, 8, 3, 20, 24), 5),
        ("video", (5, 3, 8, 20, 24), 5),
        ("video", (3, 8, 20, 24), 1),
    ],
)
def test_one_sample_and_many(tmp_path, name, modality, shape, keys):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, values)
    reader, source = opened(modality, tmp_path / name, "data.source.holdout=0")
    items = source.items("train")
    assert len(items) == keys
    for item in items:
        assert reader.read(item, train=False).shape[1] == 3


def test_rows_may_be_set(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((20, 24, 3), np.uint8))
    _, source = opened("image", tmp_path / "a.npy", "data.source.holdout=0", "data.source.rows=true")
    assert len(source.items("train")) == 20


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (3, 0, 1, 2)])
def test_films_of_any_order_are_the_same(tmp_path, order):
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", np.stack([frames.transpose(order)] * 2))
    reader, source = opened("video", tmp_path / "a.npy", "data.source.holdout=0", "modality.size=[8,32,32]")
    clip = reader.read(source.items("train")[0], train=False)[0]
    assert (clip.numpy() == frames.transpose(3, 0, 1, 2)).all()
