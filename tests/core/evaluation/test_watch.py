"""Held-out figures while a run trains: they change no bit of it, and are those of the evaluations."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core import training
from core.config import compose
from core.config.build import build_method
from core.data.opening import open_source
from core.engine import watching
from core.errors import UserError
from core.evaluation.features import extract, extractor
from core.evaluation.reconstruction import evaluate_reconstruction
from core.evaluation.settings import LoaderSettings
from core.evaluation.watch import HeldOutWatch
from core.export import SavedEncoder
from core.train import main

SMALL = [
    "modality=image", "modality.size=[16,16]", "modality.patch=[4,4]", "size.dim=32", "size.depth=2", "size.heads=2",
    "data=folder", "batch_size=8", "precision=fp32", "engine.workers=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """24 pictures to train on and 12 to test, of two classes that differ in brightness."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name, base in (("dark", 40), ("light", 200)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-20, 20, (16, 16, 3))
                Image.fromarray((base + noise).astype(np.uint8)).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture
def opened(pictures):
    """A method, and the watch over its held-out samples."""
    config = compose([*SMALL, f"data.root={pictures}"])
    reader, source = open_source(config)
    return build_method(config), HeldOutWatch(reader, source, config["modality"])


def test_skill_is_that_of_the_evaluation(opened):
    method, watch = opened
    loader = LoaderSettings(watch.reader, 32, workers=0)
    record = evaluate_reconstruction(method, watch.source, loader, samples=64, seed=0)
    assert watch(method)["skill"] == record["figures"]["pixels"]["total"]["skill"]["value"]


def test_accuracy_is_that_of_a_weighted_vote(opened):
    """All 24 training samples vote with exp(cosine / 0.07), but the four that are farthest: k is 20."""
    method, watch = opened
    model = extractor(SavedEncoder(method.tokenizer, method.encoder, {"view": "image"}), "mean")
    loader = LoaderSettings(watch.reader, 32, workers=0)
    tables = [extract({"x": model}, watch.source.items(split), loader) for split in ("train", "test")]
    x, queries = (torch.nn.functional.normalize(torch.from_numpy(table.features["x"])) for table in tables)
    y, truth = (torch.tensor([item.labels["label"] for item in table.items]) for table in tables)

    cosines = queries @ x.T
    near = cosines.argsort(1, descending=True)[:, :20]
    votes = torch.zeros(len(queries), 2).scatter_add(1, y[near], (cosines.gather(1, near) / 0.07).exp())
    assert watch(method)["knn"] == pytest.approx((votes.argmax(1) == truth).double().mean().item())


def test_modes_and_random_numbers_stay(opened):
    method, watch = opened
    method.train()
    state = torch.get_rng_state()
    watch(method)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in method.modules())


def test_without_labels_there_is_skill_alone(pictures):
    config = compose([*SMALL, f"data.root={pictures}/*/dark/*.png"])
    reader, source = open_source(config)
    assert set(HeldOutWatch(reader, source, config["modality"])(build_method(config))) == {"skill"}


def test_no_held_out_sample_is_a_clear_error(pictures):
    config = compose([*SMALL, f"data.root={pictures}/train", "data.source.holdout=0"])
    reader, source = open_source(config)
    with pytest.raises(UserError, match="no sample for 'test'"):
        HeldOutWatch(reader, source, config["modality"])(build_method(config))


def test_watching_changes_no_bit_of_a_run(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training.reconstruction, "evaluate_run", lambda run_dir, method, config: {"figures": {}})
    monkeypatch.setattr(watching, "LEAST", 2)
    monkeypatch.setattr(watching, "SHARE", 100.0)
    for name, times in (("watched", 10), ("alone", 0)):
        settings = [f"data.root={pictures}", "steps=6", f"engine.held_out={times}", f"run_dir={tmp_path / name}"]
        assert main([*SMALL, *settings]) == 0

    weights = [load_file(tmp_path / name / "encoder" / "model.safetensors") for name in ("watched", "alone")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])

    lines = [json.loads(line) for line in (tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()]
    held_out = [line for line in lines if line["kind"] == "held_out"]
    assert [line["step"] for line in held_out] == [2, 4]
    assert all(set(line) == {"kind", "step", "skill", "knn", "label", "chance"} for line in held_out)
    words = r"step 4  held out: skill -?\d\.\d+, knn of 'label' \d\.\d+ \(chance 0\.500\)"
    assert re.search(words, capsys.readouterr().out)
    assert '"held_out"' not in (tmp_path / "alone" / "metrics.jsonl").read_text()
