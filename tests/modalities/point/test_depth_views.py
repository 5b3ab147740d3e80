"""Pictures for a teacher: those that the teacher makes itself, three of each cloud, by split."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.depth_views import main
from modalities.point.views import project


@pytest.fixture
def clouds(tmp_path):
    """Five training clouds and two test clouds, and one that cannot be read."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 5, "test": 2}.items():
        folder = tmp_path / "clouds" / split
        folder.mkdir(parents=True)
        for number in range(count):
            np.save(folder / f"{number}.npy", rng.normal(size=(50, 3)).astype(np.float32))
    np.save(tmp_path / "clouds" / "train" / "point.npy", np.ones((50, 3), np.float32))
    return tmp_path / "clouds"


def test_three_pictures_of_each_cloud(clouds, tmp_path, capsys):
    out = tmp_path / "views"
    assert main([f"out={out}", "size=32", "data=folder", f"data.root={clouds}", "modality.reader.points=null"]) == 0
    printed = capsys.readouterr()
    assert "15 in train and 6 in test" in printed.out and "point.npy" in printed.err
    assert len(list((out / "train").iterdir())) == 15 and len(list((out / "test").iterdir())) == 6

    # The first of the test clouds, centred and scaled to the unit sphere as everywhere.
    points = np.load(clouds / "test" / "0.npy").astype(np.float64)
    points -= points.mean(0)
    points /= np.sqrt((points**2).sum(1).max())
    _, maps = project(torch.from_numpy(points.astype(np.float32))[None], 32)
    for view in range(3):
        picture = np.array(Image.open(out / "test" / f"{view + 1:06d}.png"))
        expected = 255 / (1 + np.exp(-maps[view, 0].double().numpy()))
        # A point on the border of a cell may lie in the next one by the last digit.
        assert picture.shape == (32, 32) and (abs(picture - expected) > 1).mean() < 0.02


def test_the_folder_must_be_named(capsys):
    assert main(["size=32"]) == 2
    assert "out= not set" in capsys.readouterr().err
