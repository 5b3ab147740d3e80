"""A run prints the account of its data before it trains, and keeps it; an evaluation of other data prints theirs."""

import json

import numpy as np
import pytest
from PIL import Image

from core import evaluate, train

SETTINGS = ["modality=image", "modality.size=[16,16]", "modality.patch=[8,8]", "size=nano", "steps=1", "batch_size=2"]
OPTIONS = ["engine.workers=0", "precision=fp32", "data=folder"]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Eight pictures in train and test folders of a class whose name is Latin-1, one file of another kind."""
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(4):
            folder = tmp_path / "data" / split / ("caf\udce9", "the")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "data" / "notes.md").write_text("x")
    return tmp_path / "data"


def test_the_account_of_a_run(pictures, tmp_path, capsys):
    run = tmp_path / "run"
    train(*SETTINGS, *OPTIONS, f"data.root={pictures}", f"run_dir={run}")
    printed = capsys.readouterr().out
    assert "4 train, 4 test; split by names of folders" in printed and "2 classes (café, the)" in printed
    assert "passed over: 1 .md, no file of this modality, such as notes.md" in printed

    account = json.loads((run / "account.json").read_text())
    assert account["samples"] == {"train": 4, "test": 4} and account["classes"] == {"label": ["café", "the"]}
    assert account["passed_over"][0]["examples"] == ["notes.md"]

    evaluate(str(run), "knn", f"data.root={pictures}", seeds=1)
    assert "data: 4 train, 4 test; split by names of folders" in capsys.readouterr().err
