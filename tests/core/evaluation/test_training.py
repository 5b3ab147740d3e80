"""Training on labels: it learns, repeats itself, keeps the best weights, and is counted right."""

import numpy as np
import pytest
import torch
from torch import nn

from core.evaluation.compute import flops_per_sample
from core.evaluation.features import Reading
from core.evaluation.training import Classifier, Output, classes, fit, predict
from core.export import SavedEncoder


@pytest.fixture
def classifier(make_method):
    def make(pool="mean"):
        method = make_method()
        torch.manual_seed(1)
        return Classifier(SavedEncoder(method.tokenizer, method.encoder, {"view": "image"}), "side", 2, pool)

    return make


def test_a_label_is_learned_end_to_end(classifier, reader, squares):
    source, reading, network = squares(train=64), Reading(reader, 16), classifier()
    train, test = source.items("train"), source.items("test")
    before = {name: value.clone() for name, value in network.named_parameters()}
    assert fit(network, train, [], 2e-3, 20 * 64, reading, seed=0) is None
    assert (predict(network, test, reading) == classes(test, "side")).mean() > 0.9
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert {"head.weight", "encoder.encoder.embed.proj.weight", "encoder.encoder.trunk.blocks.0.mlp.fc1.weight"} < moved


def test_a_training_is_a_function_of_its_seed(classifier, reader, squares):
    items, weights = squares(train=32).items("train"), []
    for seed in (0, 0, 1):
        network = classifier()
        torch.rand(3)  # what ran before has no say
        fit(network, items, items[:8], 1e-3, 64, Reading(reader, 16), seed)
        weights.append(network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_the_weights_of_the_best_look_are_kept(classifier, reader, squares):
    source, reading, network = squares(train=32), Reading(reader, 16), classifier()
    held = source.items("test")
    best = fit(network, source.items("train"), held, 2e-3, 10 * 32, reading, seed=0)
    assert best == (predict(network, held, reading) == classes(held, "side")).mean()


def test_views_of_a_sample_share_its_label(classifier, reader, squares):
    class Twice(type(reader)):
        def read(self, item, train):
            return super().read(item, train).repeat(2 if train else 1, 1, 1, 1)

    items = squares(train=32).items("train")
    once, twice = classifier(), classifier()
    fit(once, items, [], 1e-3, 64, Reading(reader, 16), seed=0)
    fit(twice, items, [], 1e-3, 64, Reading(Twice(), 16), seed=0)
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_bigger_steps_are_not_counted_per_batch(reader, squares):
    """One linear layer: 2 x inputs x outputs forward and as much for the gradient of its weights."""

    class Linear(nn.Linear):
        def forward(self, batch, progress=None, generator=None):
            return Output(super().forward(batch.views["image"].flatten(1).float()).sum())

    for count in (3, 20):
        items = squares(train=count).items("train")
        assert flops_per_sample(Linear(768, 10), items, Reading(reader)) == 4 * 768 * 10


def test_predictions_do_not_depend_on_the_batch(classifier, reader, squares):
    items, network = squares(train=20).items("train"), classifier()
    np.testing.assert_array_equal(
        predict(network, items, Reading(reader, 3)), predict(network, items, Reading(reader, 20))
    )
