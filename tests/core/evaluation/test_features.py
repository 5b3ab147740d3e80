import numpy as np
import pytest
import torch

from core.errors import UserError
from core.evaluation.features import Reading, extract, pooled
from core.export import Features


def of_grid(tokens, grid, cls=None, valid=None):
    return Features(tokens, valid, tokens.mean(1), cls, grid)


def test_every_model_sees_every_sample_once_and_in_order(reader, squares):
    items = squares(train=10).items("train")
    models = {
        "mean": lambda data: data.float().mean((1, 2, 3))[:, None],
        "first": lambda data: data[:, :, 0, 0].float(),
    }
    table = extract(models, items, Reading(reader, batch_size=4))
    pictures = np.stack([np.load(item.path) for item in items])
    np.testing.assert_allclose(table.features["mean"][:, 0], pictures.mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(table.features["first"], pictures[:, :, 0, 0])
    assert [item.key for item in table.items] == [item.key for item in items]
    assert table.labels("side").tolist() == [0, 1] * 5 and (table.labels("unknown") == -1).all()


def test_bad_samples_leave_no_row(reader, squares):
    items = squares(train=10).items("train")
    np.save(items[4].path, np.zeros((3, 2, 2), dtype=np.uint8))
    table = extract({"raw": lambda data: data.flatten(1)}, items, Reading(reader, batch_size=4))
    assert table.features["raw"].shape == (9, 768)
    assert table.labels("side").tolist() == [0, 1, 0, 1, 1, 0, 1, 0, 1]
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


def test_pooling_that_is_not_there_is_refused():
    tokens = torch.randn(2, 6, 5)
    with pytest.raises(UserError, match="no class token"):
        pooled(of_grid(tokens, (2, 3)), "cls")
    for features in (of_grid(tokens, None), of_grid(tokens, (1, 6)), of_grid(tokens, (3, 3))):
        with pytest.raises(UserError, match="pool=axis0"):
            pooled(features, "axis0")
    cls = torch.randn(2, 5)
    assert pooled(of_grid(tokens, (2, 3), cls), "cls") is cls
