"""Patchify in any number of axes, and normalisation."""

from math import prod

import pytest
import torch

from core.errors import UserError
from core.tokenizers import Normalise, Patchify, unit

SIZES = {1: ((12,), (3,)), 2: ((4, 6), (2, 3)), 3: ((4, 4, 6), (2, 1, 3)), 4: ((2, 4, 4, 2), (1, 2, 4, 2))}


@pytest.mark.parametrize("axes", SIZES)
@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_round_trip(axes, channels, dtype):
    size, patch = SIZES[axes]
    data = torch.randint(256, (2, channels, *size), generator=torch.Generator().manual_seed(0)).to(dtype)
    tokenizer = Patchify(patch, size, channels)
    tokens = tokenizer(data)
    assert tokens.content.dtype == dtype and tokens.content.shape == (2, tokens.layout.count, *patch, channels)
    assert tokens.layout.grid == tuple(n // p for n, p in zip(size, patch, strict=True))
    assert torch.equal(tokenizer.untokenize(tokens.content), data)
    assert torch.equal(tokenizer.untokenize(tokens.content.flatten(2)), data)


def test_rows_are_row_major_and_channels_fastest():
    """Token (row 1, column 0) of a 2 × 2 grid: its pixels in reading order, each with all its channels."""
    data = torch.arange(2 * 4 * 4).view(1, 2, 4, 4)
    content = Patchify([2, 2], (4, 4), 2)(data).content
    assert content[0, 2].flatten().tolist() == [8, 24, 9, 25, 12, 28, 13, 29]


def test_other_sizes_are_taken_where_patches_divide_them():
    tokenizer = Patchify([2, 2], (4, 4), 1)
    tokens = tokenizer(torch.zeros(1, 1, 6, 2))
    assert tokens.layout.grid == (3, 1) and tokenizer.untokenize(tokens.content, (3, 1)).shape == (1, 1, 6, 2)


def test_it_gives_what_other_parts_ask_for():
    given = Patchify([2, 4, 4], (4, 8, 16), 3).provides
    assert given == {"grid": (2, 2, 4), "axes": 3, "patch": (2, 4, 4), "channels": 3, "values": 96}
    assert prod(given["grid"]) == 16


@pytest.mark.parametrize(
    "shape, words",
    [
        ((1, 3, 4), r"data\[None\]"),
        ((1, 2, 4, 4), "modality.channels"),
        ((1, 1, 4, 4), "C = 3"),
        ((1, 3, 4, 5), r"size=\[4, 4\]"),
        ((1, 3, 1, 4), "divide"),
    ],
)
def test_wrong_input_says_what_is_expected(shape, words):
    with pytest.raises(UserError, match=words):
        Patchify([2, 2], (4, 4), 3)(torch.zeros(shape))


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match="number of axes"):
        Patchify([2], (4, 4), 3)
    with pytest.raises(UserError, match=r"size=\[4, 2\]"):
        Patchify([2, 2], (5, 3), 3)


def test_normalise_takes_bytes_and_unit_floats_alike():
    normalise = Normalise([0.5, 0.4, 0.3], [0.1, 0.2, 0.4])
    data = torch.randint(256, (2, 5, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = (data.float() / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.1, 0.2, 0.4])
    assert torch.allclose(normalise(data), expected) and torch.allclose(normalise(data.float() / 255), expected)
    assert torch.allclose(normalise.inverse(normalise(data)), unit(data), atol=1e-6)


def test_normalise_keeps_doubles_and_stretches_one_value():
    normalise = Normalise([0.5], [0.25])
    assert normalise(torch.rand(2, 7, dtype=torch.float64)).dtype == torch.float64
    assert normalise(torch.ones(2, 7)).tolist() == [[2.0] * 7] * 2
    assert not normalise.state_dict(), "statistics are settings, not weights"


def test_as_many_means_as_channels_are_needed():
    with pytest.raises(UserError, match="3 means for 4 channels"):
        Normalise([0.5, 0.4, 0.3], [0.1, 0.2, 0.4])(torch.zeros(1, 2, 4))
