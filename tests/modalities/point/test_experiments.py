"""Published recipes of point methods: their values, and an epoch of each on a tree like ShapeNet-55."""

import json

import numpy as np
import pytest

from core.config import compose
from core.runs import open_run
from core.training import train

SIZES = {
    "point_mae_shapenet": ["modality.points=64", "modality.groups=[8]", "modality.members=[8]"],
    "point_m2ae_shapenet": [
        "modality.points=96", "modality.pyramid.groups=[24, 12, 6]", "modality.pyramid.members=[6, 4, 4]",
        "method.encoder.dims=[12, 24, 24]", "method.encoder.depths=[1, 1, 1]", "method.encoder.heads=2",
    ],
}  # fmt: skip
COMMON = ["size.dim=24", "size.depth=1", "size.heads=2", "batch_size=4", "epochs=1", "engine.workers=0"]


@pytest.fixture(scope="module")
def shapenet(tmp_path_factory):
    """8 training and 4 test files of 8192 points are here 200; the lists lie beside them."""
    root, rng = tmp_path_factory.mktemp("ShapeNet55"), np.random.default_rng(0)
    (root / "shapenet_pc").mkdir()
    (root / "ShapeNet-55").mkdir()
    for split, count in {"train": 8, "test": 4}.items():
        names = [f"0269115{i % 2}-{split}{i}.npy" for i in range(count)]
        for name in names:
            np.save(root / "shapenet_pc" / name, rng.normal(size=(200, 3)).astype(np.float32))
        (root / "ShapeNet-55" / f"{split}.txt").write_text("\n".join(names))
    return root


@pytest.mark.parametrize("name", list(SIZES))
def test_an_epoch(tmp_path, shapenet, name):
    out = tmp_path / "run"
    train(f"experiment={name}", f"data.root={shapenet}", *COMMON, *SIZES[name], f"run_dir={out}")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert open_run(out).step == 2
    assert all(row["lr"] == pytest.approx(1e-6) for row in rows if "lr" in row)  # the warm-up's floor
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)


@pytest.mark.parametrize(
    "name, points, course", [("point_mae_shapenet", 1024, 300), ("point_m2ae_shapenet", 2048, 400)]
)
def test_published_values(name, points, course):
    """Sources: cfgs/pretrain.yaml and the runners of Pang-Yatian/Point-MAE and ZrrSkywalker/Point-M2AE."""
    config = compose([f"experiment={name}", "data.root=x"])
    optim = config["optim"]
    assert config["modality"]["points"] == points and config["batch_size"] == 128
    assert (optim["lr"], optim["weight_decay"], list(optim["betas"])) == (1e-3, 0.05, [0.9, 0.999])
    assert (config["epochs"], optim["schedule_epochs"], optim["clip"]) == (301, course, None)
    assert config["method"]["encoder"]["masking"] == "leak"
