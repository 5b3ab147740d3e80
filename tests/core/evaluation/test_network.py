"""Training on labels: it learns, repeats itself, keeps the best weights, and is counted right."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from core.evaluation.finetune import fit, flops_per_sample, predict
from core.evaluation.labelled import Label
from core.evaluation.metrics import METRICS
from core.evaluation.network import LabelledNetwork, Output
from core.evaluation.settings import LoaderSettings
from core.export import SavedEncoder

SIDE = Label("side", "classes", names=["left", "right"], metric=METRICS["accuracy"]())


@pytest.fixture
def classifier(make_method):
    def make(pool="mean"):
        method = make_method()
        torch.manual_seed(1)
        return LabelledNetwork(SavedEncoder(method.tokenizer, method.encoder, {"view": "image"}), SIDE, pool)

    return make


def test_a_label_is_learned_end_to_end(classifier, reader, squares):
    source, reading, network = squares(train=64), LoaderSettings(reader, 16), classifier()
    train, test = source.items("train"), source.items("test")
    before = {name: value.clone() for name, value in network.named_parameters()}
    assert fit(network, train, [], reading, rate=2e-3, samples=20 * 64, seed=0) is None
    assert (predict(network, test, reading) == SIDE.values(test)).mean() > 0.9
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert {"head.weight", "encoder.encoder.embed.proj.weight", "encoder.encoder.trunk.blocks.0.mlp.fc1.weight"} < moved


@pytest.mark.parametrize(("kind", "metric", "least"), [("values", "r2", 0.5), ("answers", "roc_auc", 0.9)])
def test_values_and_answers_are_learned_end_to_end(make_method, reader, squares, kind, metric, least):
    """Left is -40 and right is 100; or two questions, the second asked of the left ones alone, always yes."""
    rows = {"values": [(-40.0,), (100.0,)], "answers": [(1, 1), (0, -1)]}[kind]
    source, loader = squares(train=64), LoaderSettings(reader, 16)
    train, test = (
        [replace(item, labels={"side": rows[item.labels["side"]]}) for item in source.items(part)]
        for part in ("train", "test")
    )
    label = Label("side", kind, names=[str(i) for i in range(len(rows[0]))], metric=METRICS[metric]())
    method = make_method()
    torch.manual_seed(1)
    network = LabelledNetwork(SavedEncoder(method.tokenizer, method.encoder, {"view": "image"}), label, "mean")
    fit(network, train, [], loader, rate=2e-3, samples=20 * 64, seed=0)
    predictions = predict(network, test, loader)
    assert label.metric.value(label.metric.score(label.values(test), predictions)[None]) > least
    if kind == "answers":
        assert (predictions[::2, 1] > 0).all()
        outputs = torch.randn(3, 2, requires_grad=True)
        network.loss(outputs, torch.tensor([[1.0, torch.nan], [0.0, 1.0], [torch.nan, torch.nan]])).backward()
        assert (outputs.grad != 0).tolist() == [[True, False], [True, True], [False, False]]


def test_a_training_is_a_function_of_its_seed(classifier, reader, squares):
    items, weights = squares(train=32).items("train"), []
    for seed in (0, 0, 1):
        network = classifier()
        torch.rand(3)  # what ran before has no say
        fit(network, items, items[:8], LoaderSettings(reader, 16), rate=1e-3, samples=64, seed=seed)
        weights.append(network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_the_weights_of_the_best_look_are_kept(classifier, reader, squares):
    source, reading, network = squares(train=32), LoaderSettings(reader, 16), classifier()
    held = source.items("test")
    best = fit(network, source.items("train"), held, reading, rate=2e-3, samples=10 * 32, seed=0)
    assert best == (predict(network, held, reading) == SIDE.values(held)).mean()


def test_views_of_a_sample_share_its_label(classifier, reader, squares):
    class Twice(type(reader)):
        def read(self, item, train):
            return super().read(item, train).repeat(2 if train else 1, 1, 1, 1)

    items = squares(train=32).items("train")
    once, twice = classifier(), classifier()
    fit(once, items, [], LoaderSettings(reader, 16), rate=1e-3, samples=64, seed=0)
    fit(twice, items, [], LoaderSettings(Twice(), 16), rate=1e-3, samples=64, seed=0)
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_bigger_steps_are_not_counted_per_batch(reader, squares):
    """One linear layer: 2 x inputs x outputs forward and as much for the gradient of its weights."""

    class Linear(nn.Linear):
        def forward(self, batch, progress=None, generator=None):
            return Output(super().forward(batch.views["image"].flatten(1).float()).sum())

    for count in (3, 20):
        items = squares(train=count).items("train")
        assert flops_per_sample(Linear(768, 10), items, LoaderSettings(reader)) == 4 * 768 * 10


def test_predictions_do_not_depend_on_the_batch(classifier, reader, squares):
    items, network = squares(train=20).items("train"), classifier()
    np.testing.assert_array_equal(
        predict(network, items, LoaderSettings(reader, 3)), predict(network, items, LoaderSettings(reader, 20))
    )
