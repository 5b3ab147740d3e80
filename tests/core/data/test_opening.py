"""A source opened from a config: a saved one reads the same samples as the one that a run began with."""

import numpy as np
import pytest
from PIL import Image

from core.config import compose
from core.data.opening import open_source
from core.data.sources import Part
from core.saved import complete


def keys(config, root):
    complete(config)  # as it is saved, with the defaults of every part
    _, source = open_source({**config, "data": {**config["data"], "root": str(root)}})
    return [(item.key, item.part) for item in source.items("train")]


def video(*overrides):
    return compose(["modality=video", "data=folder", "data.root=none", "data.source.holdout=0", *overrides])


def test_a_saved_config_reads_parts_of_films(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    (tmp_path / "l.csv").write_text("path,start,end,label\na.mp4,0,1.5,x\na.mp4,1.5,3,y\nb.mp4,0,2,x\n")
    parts = [("a.mp4", 0, 1.5), ("a.mp4", 1.5, 3), ("b.mp4", 0, 2)]
    expected = []
    for name, start, end in parts:
        part = Part(start, end, "seconds")
        expected.append((f"{name}@{part}", part))
    assert keys(video(), tmp_path / "l.csv") == expected


def test_a_saved_config_reads_folders_of_frames(tmp_path):
    for clip in "ab":
        (tmp_path / clip).mkdir()
        for number in range(3):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / clip / f"{number:03d}.png")
    assert keys(video(), tmp_path) == [("a", None), ("b", None)]


@pytest.mark.parametrize(
    ("modality", "shape"), [("video", (4, 6, 8, 3)), ("image", (4, 6, 3)), ("video", (5, 4, 6, 8, 3))]
)
def test_a_saved_config_tells_rows_from_samples_alike(tmp_path, modality, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    overrides = [f"modality={modality}", "data=folder", "data.root=none", "data.source.holdout=0"]
    config = compose(overrides)
    _, source = open_source({**config, "data": {**config["data"], "root": str(tmp_path / "a.npy")}})
    fresh = [(item.key, item.part) for item in source.items("train")]
    assert keys(compose(overrides), tmp_path / "a.npy") == fresh
