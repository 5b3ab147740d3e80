"""Contenders trained on labels: how long, at which rate, and who gets to see what."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.evaluation import finetune
from core.evaluation.features import Reading, extract
from core.evaluation.finetune import Contender, compete
from core.evaluation.labelled import Question
from core.evaluation.protocol import Options
from core.export import SavedEncoder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ask(squares, reader, monkeypatch):
    monkeypatch.setattr("core.evaluation.labelled._nodes", lambda run: {})

    def make(epochs=1.0, seeds=1, **data):
        return Question([Path("run")], squares(**data), Reading(reader, 16), {}, Options(seeds=seeds), epochs=epochs)

    return make


@pytest.fixture
def contender(make_method):
    def make(samples=64.0):
        asked = []

        def begin(seed):
            asked.append(seed)
            method = make_method()
            return SavedEncoder(method.tokenizer, method.encoder, {"view": "image"})

        made = Contender("c", begin, lambda size: samples)
        return made, asked

    return make


def enter(question, contender):
    table = extract({}, question.items, question.reading)
    (task,) = question.tasks(table).values()
    return compete(contender, question, "side", task, table.items), task


def test_the_rate_is_chosen_on_validation_at_the_first_seed(ask, contender, monkeypatch):
    monkeypatch.setattr(finetune, "RATES", (1e-9, 2e-3))
    made, _ = contender(20 * 64.0)
    scores, _ = enter(ask(seeds=2, train=64), made)
    assert [choice.setting for choice in scores.choices] == [2e-3, 2e-3]
    assert scores.right.shape == (2, 32) and scores.right.mean() > 0.9


def test_test_labels_are_never_used(ask, contender, monkeypatch):
    """Other labels of the test samples: the same answers, right where they were wrong."""
    made, _ = contender()
    scores, _ = enter(ask(), made)
    question = ask()
    given = question.source.items
    flipped = [replace(item, labels={"side": 1 - item.labels["side"]}) for item in given("test")]
    monkeypatch.setattr(question.source, "items", lambda split: flipped if split == "test" else given(split))
    other, _ = enter(question, made)
    np.testing.assert_array_equal(other.right, ~scores.right)


def test_what_was_trained_once_is_not_trained_again(ask, contender, monkeypatch):
    trained = []
    monkeypatch.setattr(finetune, "fit", lambda *args: trained.append(args) or 0.5)
    made, _ = contender()
    enter(ask(seeds=1), made)
    assert len(trained) == len(finetune.RATES)
    enter(ask(seeds=2), made)  # another seed: the rate is known
    assert len(trained) == len(finetune.RATES) + 1
    longer, _ = contender(128.0)
    enter(ask(seeds=1), longer)
    assert len(trained) == 2 * len(finetune.RATES) + 1


def test_supervised_training_gets_the_compute_of_pre_training(ask, monkeypatch):
    """1000 FLOPs of pre-training at 10 a sample: 100 samples more; and never more than the cap."""
    question, spent = ask(epochs=2, train=48), []
    table = extract({}, question.items, question.reading)
    monkeypatch.setattr(finetune, "random_encoder", lambda *args: None)
    monkeypatch.setattr(finetune, "Classifier", lambda *args: torch.nn.Linear(1, 1))
    monkeypatch.setattr(finetune, "flops_per_sample", lambda *args: 10.0)
    monkeypatch.setattr(finetune, "pretraining_flops", lambda *args: 1000.0)
    right = type("Scores", (), {"right": np.ones((1, 32), dtype=bool)})
    monkeypatch.setattr(finetune, "compete", lambda contender, *rest: spent.append(contender.samples(44)) or right)
    _, told = finetune.supervised(question, table.items, question.tasks(table))
    monkeypatch.setattr(finetune, "MOST_EPOCHS", 3.0)
    _, capped = finetune.supervised(question, table.items, question.tasks(table))
    assert spent == [2 * 44 + 100, 3 * 44]
    assert "for 188 samples" in told and "spent 100%" in told
    assert "for 132 samples" in capped and "spent 70%" in capped
