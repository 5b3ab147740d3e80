"""Finished runs that several test modules read."""

import numpy as np
import pytest

from core import train
from tests.core.small_runs import TINY, draw


@pytest.fixture(scope="module")
def photo_run(tmp_path_factory):
    """A folder with a finished image `run`, and `photos` of two classes, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("encode")
    for label in (0, 1):
        draw(folder / "photos", "train", label, 6)
        draw(folder / "photos", "test", label, 2)
    (folder / "photos" / "train" / "class1" / "bad.png").write_bytes(b"no picture")

    data = ["data=folder", f"data.root={folder / 'photos'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(folder / "cache"))
        assert train.main(["modality=image", "modality.patch=[4,4]", *TINY, *data, f"run_dir={folder / 'run'}"]) == 0
        yield folder


@pytest.fixture(scope="module")
def graph_run(tmp_path_factory):
    """A finished graph `run` on one graph, `one`: a ring of eight nodes with classes, of which a few are unknown."""
    folder = tmp_path_factory.mktemp("graph_run")
    one = folder / "one"
    one.mkdir()
    (one / "edges.csv").write_text("".join(f"{node},{(node + 1) % 8}\n" for node in range(8)))
    np.save(one / "features.npy", np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))
    (one / "labels.csv").write_text("".join(f"{node},{'ab'[node % 2]}\n" for node in range(6)))
    (one / "split.csv").write_text("".join(f"{node},{'test' if node > 3 else 'train'}\n" for node in range(6)))

    argv = ["modality=graph", "data=folder", f"data.root={one}", "modality.features=3", "size=nano"]
    assert train.main([*argv, "batch_size=1", "steps=1", "engine.workers=0", f"run_dir={folder / 'run'}"]) == 0
    return folder
