"""Contenders trained on labels: how long, at which rate, and who gets to see what."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.evaluation import finetune
from core.evaluation.features import extract
from core.evaluation.finetune import Contender, Contest, compete
from core.evaluation.labelled import load_labelled
from core.evaluation.probes import Scores
from core.evaluation.settings import LabelledTask, LoaderSettings, ProtocolOptions
from core.export import SavedEncoder
from core.interop import ClassifierOptions


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ask(squares, reader, monkeypatch):
    monkeypatch.setattr("core.evaluation.settings.encoder_nodes", lambda run: {})
    monkeypatch.setattr("core.evaluation.labelled.encoder_nodes", lambda run: {})

    def make(epochs=1.0, seeds=1, **data):
        return LabelledTask(
            runs=[Path("run")],
            source=squares(**data),
            loader=LoaderSettings(reader, 16),
            reader_node={},
            options=ProtocolOptions(seeds=seeds),
            epochs=epochs,
        )

    return make


@pytest.fixture
def contender(make_method):
    def make(samples=64.0):
        asked = []

        def begin(seed):
            asked.append(seed)
            method = make_method()
            return SavedEncoder(method.tokenizer, method.encoder, {"view": "image"})

        made = Contender("c", begin, samples=lambda size: samples)
        return made, asked

    return make


def contest_of(task):
    data = load_labelled(task)
    table = extract({}, data.samples, task.loader)
    (split,) = data.splits(table.items, task.options).values()
    return Contest(task=task, data=data, split=split, items=table.items)


def enter(task, contender):
    contest = contest_of(task)
    return compete(contender, contest), contest.split


def test_the_rate_is_chosen_on_validation_at_the_first_seed(ask, contender, monkeypatch):
    monkeypatch.setattr(finetune, "RATES", (1e-9, 2e-3))
    made, _ = contender(20 * 64.0)
    scores, _ = enter(ask(seeds=2, train=64), made)
    assert [choice.setting for choice in scores.choices] == [2e-3, 2e-3]
    assert scores.units.shape == (2, 32) and scores.units.mean() > 0.9


def test_norms_of_a_head_fit_from_the_first_step_on(ask, make_method):
    """After three steps their running statistics are means over three batches, and hold nothing of 0 and 1."""
    task = ask(train=48)
    contest = contest_of(replace(task, classifier=ClassifierOptions(head="mlp")))
    method = make_method()
    network = contest.network(SavedEncoder(method.tokenizer, method.encoder, {"view": "image"}), 0)
    norm, means, spreads = network.head[1], [], []

    def keep(module, inputs, output):
        if module.training:
            means.append(inputs[0].detach().mean(0))
            spreads.append(inputs[0].detach().var(0))

    norm.register_forward_hook(keep)
    fitting = contest.parts(contest.split.folds[0], 0)[0]
    finetune.fit(network, fitting, [], task.loader, rate=1e-3, samples=48, seed=0)
    assert len(means) == 3
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack(spreads).mean(0))
    assert norm.momentum == 0.1


def test_an_encoder_without_a_class_token_gets_one_to_be_fine_tuned(ask, make_method, monkeypatch):
    """The other weights stay; the token is the same at every start by one seed, and another by another."""
    method = make_method()
    encoder = SavedEncoder(method.tokenizer, method.encoder, config_of(method))
    monkeypatch.setattr(finetune, "load_encoder", lambda run: encoder)
    task = replace(ask(), pool="cls,max")
    begin = finetune._saved(task, task.runs)
    tokens = [begin(seed).encoder.cls.token for seed in (0, 0, 1)]
    assert torch.equal(tokens[0], tokens[1])
    begun = begin(0)
    for name, value in encoder.encoder.state_dict().items():
        assert torch.equal(begun.encoder.state_dict()[name], value)
    assert begun.config["encoder"]["cls"]["position"] == "learned"

    contest = contest_of(task)
    network = contest.network(begun, 0)
    assert network.head.in_features == 2 * encoder.embed_dim
    before = network.encoder.encoder.cls.token.clone()
    finetune.fit(network, contest.parts(contest.split.folds[0], 0)[0], [], task.loader, rate=1e-3, samples=64, seed=0)
    assert not torch.equal(network.encoder.encoder.cls.token, before)


def config_of(method):
    """The config of `make_method`'s encoder."""
    normalise = {"_target_": "core.tokenizers.Normalise", "mean": [0.5] * 3, "std": [0.25] * 3}
    positions = {"_target_": "core.embeddings.SinCos", "grid": [4, 4], "dim": 24}
    embed = {"_target_": "core.embeddings.PatchEmbed", "values": 48, "dim": 24, "normalise": normalise}
    trunk = {"_target_": "core.encoder.Trunk", "dim": 24, "depth": 2, "heads": 2}
    vit = {"_target_": "core.encoder.ViT", "embed": {**embed, "positions": positions}, "trunk": trunk}
    return {"view": "image", "encoder": vit}


def test_test_labels_are_never_used(ask, contender, monkeypatch):
    """Other labels of the test samples: the same answers, right where they were wrong."""
    made, _ = contender()
    scores, _ = enter(ask(), made)
    question = ask()
    given = question.source.items
    flipped = [replace(item, labels={"side": 1 - item.labels["side"]}) for item in given("test")]
    monkeypatch.setattr(question.source, "items", lambda split: flipped if split == "test" else given(split))
    other, _ = enter(question, made)
    np.testing.assert_array_equal(other.units, ~scores.units)


def test_what_was_trained_once_is_not_trained_again(ask, contender, monkeypatch):
    trained = []
    monkeypatch.setattr(finetune, "fit", lambda *args, **more: trained.append(args) or 0.5)
    made, _ = contender()
    enter(ask(seeds=1), made)
    assert len(trained) == len(finetune.RATES)
    enter(ask(seeds=2), made)  # another seed: the rate is known
    assert len(trained) == len(finetune.RATES) + 1
    longer, _ = contender(128.0)
    enter(ask(seeds=1), longer)
    assert len(trained) == 2 * len(finetune.RATES) + 1


class Unread(torch.nn.Linear):
    """A network whose compute is given."""

    def set_targets(self, items):
        return items


def test_supervised_training_gets_the_compute_of_pre_training(ask, monkeypatch):
    """1000 FLOPs of pre-training at 10 a sample: 100 samples more; and never more than the cap."""
    question, spent = ask(epochs=2, train=48), []
    contest = contest_of(question)
    monkeypatch.setattr(finetune, "random_encoder", lambda *args: None)
    monkeypatch.setattr(finetune, "LabelledNetwork", lambda *args: Unread(1, 1))
    monkeypatch.setattr(finetune, "flops_per_sample", lambda *args: 10.0)
    monkeypatch.setattr(finetune, "pretraining_flops", lambda *args: 1000.0)
    right = Scores(np.ones((1, 32), dtype=bool))
    monkeypatch.setattr(finetune, "compete", lambda contender, contest: spent.append(contender.samples(44)) or right)
    _, told = finetune.supervised_scores(question, {"side": contest})
    monkeypatch.setattr(finetune, "MOST_EPOCHS", 3.0)
    _, capped = finetune.supervised_scores(question, {"side": contest})
    assert spent == [2 * 44 + 100, 3 * 44]
    assert "for 188 samples" in told and "spent 100%" in told
    assert "for 132 samples" in capped and "spent 70%" in capped
