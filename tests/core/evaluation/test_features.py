import numpy as np
import pytest
import torch

from core.errors import UserError
from core.evaluation.features import extract, extract_cached, pooled, pooled_width
from core.evaluation.labelled import LabelledData
from core.evaluation.settings import LoaderSettings
from core.export import Features


def numbers(table, label):
    return [item.labels.get(label, -1) for item in table.items]


def data_of(items, name):
    return LabelledData(fit_samples=items, samples=items, items=items, tested=frozenset(), labels=[], hash=name)


def of_grid(tokens, grid, cls=None, valid=None):
    return Features(tokens, valid, pooled=tokens.mean(1), cls=cls, grid=grid)


def test_every_model_sees_every_sample_once_and_in_order(reader, squares):
    items = squares(train=10).items("train")
    models = {
        "mean": lambda data: data.float().mean((1, 2, 3))[:, None],
        "first": lambda data: data[:, :, 0, 0].float(),
    }
    table = extract(models, items, LoaderSettings(reader, batch_size=4))
    pictures = np.stack([np.load(item.path) for item in items])
    np.testing.assert_allclose(table.features["mean"][:, 0], pictures.mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(table.features["first"], pictures[:, :, 0, 0])
    assert [item.key for item in table.items] == [item.key for item in items]
    assert numbers(table, "side") == [0, 1] * 5 and set(numbers(table, "unknown")) == {-1}


def test_bad_samples_leave_no_row(reader, squares):
    items = squares(train=10).items("train")
    np.save(items[4].path, np.zeros((3, 2, 2), dtype=np.uint8))
    table = extract({"raw": lambda data: data.flatten(1)}, items, LoaderSettings(reader, batch_size=4))
    assert table.features["raw"].shape == (9, 768)
    assert numbers(table, "side") == [0, 1, 0, 1, 1, 0, 1, 0, 1]
    assert table.skipped == [(items[4].key, "has shape (3, 2, 2)")]


def test_motion_survives_pooling_along_the_first_axis():
    """Two clips of the same tokens, still and alternating: their means agree, their changes do not."""
    a, b = torch.randn(6, 5), torch.randn(6, 5)
    still = torch.stack([torch.cat([(a + b) / 2] * 4), torch.cat([a, b, a, b])])
    features = of_grid(still, (4, 2, 3))
    torch.testing.assert_close(*pooled(features, "mean"))
    change = (a.mean(0) - b.mean(0)).abs()
    torch.testing.assert_close(pooled(features, "axis0"), torch.stack([torch.zeros(5), change]))
    later = torch.stack([torch.cat([b, a, b, a])])  # the same motion, begun at another moment
    torch.testing.assert_close(pooled(of_grid(later, (4, 2, 3)), "axis0")[0], change)


@pytest.mark.parametrize(("pool", "reduce"), [("max", lambda x: x.amax(0)), ("sum", lambda x: x.sum(0))])
def test_pooling_over_valid_tokens(pool, reduce):
    """All of them negative, padding zero: whole, padded and packed."""
    tokens, valid = -1 - torch.rand(2, 4, 3), torch.tensor([[True] * 4, [True, True, False, False]])
    torch.testing.assert_close(pooled(of_grid(tokens, None), pool), torch.stack([reduce(x) for x in tokens]))
    expected = torch.stack([reduce(tokens[0]), reduce(tokens[1, :2])])
    padded = tokens * valid[..., None]
    torch.testing.assert_close(pooled(Features(padded, valid, pooled=tokens.mean(1)), pool), expected)
    sample, packed = torch.tensor([0, 0, 0, 0, 2, 2]), tokens[valid][None]
    found = pooled(Features(packed, None, pooled=tokens.new_zeros(3, 3), sample=sample), pool)
    torch.testing.assert_close(found, torch.stack([expected[0], torch.zeros(3), expected[1]]))  # the second has none


def test_the_first_token_of_a_sample():
    tokens = torch.randn(1, 6, 3)
    assert torch.equal(pooled(of_grid(tokens.expand(2, 6, 3), None), "first"), tokens[0, :1].expand(2, 3))
    packed = Features(tokens, None, pooled=torch.zeros(3, 3), sample=torch.tensor([0, 0, 0, 1, 2, 2]))
    assert torch.equal(pooled(packed, "first"), tokens[0, [0, 3, 4]])


def test_poolings_are_added_and_put_side_by_side():
    tokens, cls = torch.randn(2, 6, 5), torch.randn(2, 5)
    features = of_grid(tokens, None, cls)
    mean, largest = tokens.mean(1), tokens.amax(1)
    torch.testing.assert_close(pooled(features, "mean+max"), mean + largest)
    torch.testing.assert_close(pooled(features, "mean,max"), torch.cat([mean, largest], 1))
    torch.testing.assert_close(pooled(features, "cls,max"), torch.cat([cls, largest], 1))
    torch.testing.assert_close(pooled(features, "mean,max_rest"), torch.cat([mean, tokens[:, 1:].amax(1)], 1))
    assert [pooled_width(pool, 5) for pool in ("mean", "mean+max", "cls,max")] == [5, 5, 10]


def test_the_maximum_of_the_rest_leaves_out_the_first_token_and_padding():
    tokens, valid = -1 - torch.rand(2, 4, 3), torch.tensor([[True] * 4, [True, True, False, False]])
    tokens[:, 0] = 0.0
    padded = Features(tokens * valid[..., None], valid, pooled=tokens.mean(1))
    assert torch.equal(pooled(padded, "max_rest"), torch.stack([tokens[0, 1:].amax(0), tokens[1, 1]]))
    with pytest.raises(UserError, match="max_rest"):
        pooled(of_grid(tokens[:, :1], None), "max_rest")


def test_pooling_that_is_not_there_is_refused():
    tokens = torch.randn(2, 6, 5)
    with pytest.raises(UserError, match="no class token"):
        pooled(of_grid(tokens, (2, 3)), "cls")
    for features in (of_grid(tokens, None), of_grid(tokens, (1, 6)), of_grid(tokens, (3, 3))):
        with pytest.raises(UserError, match="pool=axis0"):
            pooled(features, "axis0")
    cls = torch.randn(2, 5)
    assert pooled(of_grid(tokens, (2, 3), cls), "cls") is cls


class Counting:
    """A model that counts the samples it sees."""

    def __init__(self, scale):
        self.scale, self.seen = scale, 0

    def __call__(self, data):
        self.seen += len(data)
        return self.scale * data.float().mean((2, 3))


def test_what_a_model_said_is_read_from_disk(reader, squares, tmp_path, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    items, reading = squares(train=40).items("train"), LoaderSettings(reader, batch_size=8)
    np.save(items[4].path, np.zeros((3, 2, 2), dtype=np.uint8))
    plain = extract({"a": Counting(1), "b": Counting(2)}, items, reading)
    first, second = Counting(1), Counting(1)
    extract_cached({"a": first}, data_of(items, "data"), reading)
    table = extract_cached({"a": second, "b": Counting(2)}, data_of(items, "data"), reading)
    assert first.seen > 39 and second.seen < 39  # the first samples alone
    for name in ("a", "b"):
        np.testing.assert_array_equal(table.features[name], plain.features[name])
    again = extract_cached({"a": Counting(1)}, data_of(items, "data"), reading)
    for found in (table, again):
        assert (found.items, found.skipped) == (plain.items, plain.skipped)


def test_another_model_or_other_data_are_not_mistaken(reader, squares, tmp_path, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    items, reading = squares(train=40).items("train"), LoaderSettings(reader, batch_size=8)
    extract_cached({"a": Counting(1)}, data_of(items, "data"), reading)
    for scale, data in ((1.5, "data"), (1, "other")):
        model = Counting(scale)
        table = extract_cached({"a": model}, data_of(items, data), reading)
        assert model.seen > 40
        np.testing.assert_array_equal(table.features["a"], extract({"a": model}, items, reading).features["a"])
