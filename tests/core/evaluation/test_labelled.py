"""Tokens that carry the labels: which of them are trained on, tested, or not asked about."""

from types import SimpleNamespace

import pytest
import torch

from core.data.reader import Reader, TokenLabels
from core.data.sources import Item
from core.errors import BadSample, UserError
from core.evaluation.finetune import predict
from core.evaluation.labelled import TOKEN_LABEL, token_items
from core.evaluation.settings import LoaderSettings


class Told(Reader):
    """Says what it was told of each sample."""

    def __init__(self, labels):
        self.labels = labels

    def read(self, item, train):
        raise AssertionError("samples need not be read")

    def token_labels(self, item):
        if item.key not in self.labels:
            raise BadSample("is damaged")
        return self.labels[item.key]


def items(*keys):
    return [Item(key, key) for key in keys]


def labels_of(tokens):
    return {token.key: token.labels.get(TOKEN_LABEL) for token in tokens}


def flags(*values):
    return torch.tensor(values, dtype=torch.bool)


def test_a_split_of_tokens_is_kept():
    """The third is for validation, the last has no class."""
    known = TokenLabels(torch.tensor([1, 0, 2, -1]), {"train": flags(1, 0, 0, 0), "test": flags(0, 1, 0, 1)})
    found = token_items(Told({"a": known}), items("a"), {"a"})
    assert labels_of(found.by_sample["a"]) == {"a/0": 1, "a/1": 0, "a/2": None, "a/3": None}
    assert found.tested == {"a/1", "a/3"}


def test_without_a_split_tokens_belong_where_their_sample_does():
    told = {name: TokenLabels(torch.tensor([0, 1])) for name in "ab"}
    found = token_items(Told(told), items("a", "b"), {"a"})
    assert found.tested == {"b/0", "b/1"}
    assert labels_of(found.by_sample["a"]) == {"a/0": 0, "a/1": 1}


def test_what_is_asked_of_samples():
    told = {name: TokenLabels(torch.tensor([0, 1, 2])) for name in "abc"}
    found = token_items(Told(told), items("a", "b", "c"), {"a", "b", "c"})
    wanted = [found.by_sample["c"][1], found.by_sample["a"][2]]
    samples, selected = found.select(wanted)
    assert [sample.key for sample in samples] == ["a", "c"]
    assert {key: rows.tolist() for key, rows in selected.items()} == {
        "a": [False, False, True],
        "c": [False, True, False],
    }


def test_predictions_are_those_of_the_tokens_asked_about():
    """The network says of a token what is written in it."""

    class Written(Told):
        view = "tokens"

        def read(self, item, train):
            return torch.tensor([[3, 1, 2]]) if item.key == "a" else torch.tensor([[0, 2, 1]])

    reader = Written({name: TokenLabels(torch.tensor([0, 0, 0])) for name in "ab"})
    found = token_items(reader, items("a", "b"), {"a", "b"})
    network = SimpleNamespace(tokens=found, eval=lambda: None, predictions=lambda data: data.flatten())
    wanted = [*found.by_sample["a"][1:], found.by_sample["b"][1]]
    assert predict(network, wanted, LoaderSettings(reader)).tolist() == [1, 2, 2]


def test_classes_have_names_or_numbers():
    classes = torch.tensor([0, 2, -1])
    for names, expected in (((), ["0", "1", "2"]), (("x", "y", "z", "never"), ["x", "y", "z", "never"])):
        told = {"a": TokenLabels(classes, names=names)}
        assert token_items(Told(told), items("a"), {"a"}).names == expected


def test_damaged_samples_are_left_out():
    found = token_items(Told({"b": TokenLabels(torch.tensor([0, 1]))}), items("a", "b"), {"a", "b"})
    assert list(found.by_sample) == ["b"] and not found.tested


def test_tokens_without_labels():
    assert token_items(Told({"a": None, "b": None}), items("a", "b"), set()) is None
    with pytest.raises(UserError, match="b: its tokens carry no labels"):
        token_items(Told({"a": TokenLabels(torch.tensor([0])), "b": None}), items("a", "b"), set())
