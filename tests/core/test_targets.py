"""Pixels in their published normalisations, and what teachers say."""

import pytest
import torch

from core.errors import UserError
from core.targets import Pixels, TeacherFeatures
from core.tokenizers import Normalise, Patchify
from core.tokens import Batch, ForwardContext, Layout, Mask, Query, Rows, Tokens

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def frames(size=(4, 8, 8), patch=(2, 4, 4), channels=3) -> tuple[Tokens, Patchify]:
    tokenizer = Patchify(patch, size, channels)
    data = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))
    return tokenizer(data), tokenizer


def ask(target, tokens: Tokens, query: Query, mask: Mask | None = None, **teachers):
    ctx = ForwardContext(Batch({}), {"v": tokens}, teachers=teachers, masks={} if mask is None else {"v": mask})
    return target(ctx, "v", query)


ROWS = Rows(torch.tensor([[3, 0], [7, 2]]))


def test_plain_pixels_are_the_raw_content():
    tokens, tokenizer = frames()
    truth = ask(Pixels(tokenizer.patch, 3, tokenizer.grid), tokens, Query(ROWS))
    assert torch.equal(truth.values, ROWS.gather(tokens.content).flatten(2)) and truth.weight is None
    bytes_ = (tokens.content * 255).to(torch.uint8)
    again = ask(Pixels(tokenizer.patch, 3, tokenizer.grid), Tokens(bytes_, tokens.layout), Query(ROWS))
    assert torch.allclose(again.values, ROWS.gather(bytes_).flatten(2).float() / 255)


def test_per_patch_is_maes_formula():
    """After normalisation, over all values of a patch together, unbiased, eps inside the root."""
    tokens, tokenizer = frames()
    truth = ask(Pixels(tokenizer.patch, 3, tokenizer.grid, Normalise(MEAN, STD), "patch"), tokens, Query(ROWS))
    values = ((ROWS.gather(tokens.content) - torch.tensor(MEAN)) / torch.tensor(STD)).flatten(2)
    n = values.shape[-1]
    mean = values.sum(-1, keepdim=True) / n
    variance = (values - mean).square().sum(-1, keepdim=True) / (n - 1)
    assert torch.allclose(truth.values, (values - mean) / (variance + 1e-6).sqrt(), atol=1e-5)


def test_per_channel_is_videomaes_formula():
    """Of raw values, each channel by itself, unbiased, eps outside the root."""
    tokens, tokenizer = frames()
    truth = ask(Pixels(tokenizer.patch, 3, tokenizer.grid, None, "channel"), tokens, Query(ROWS))
    values = ROWS.gather(tokens.content).flatten(2, 4)
    mean, std = values.mean(2, keepdim=True), values.std(2, keepdim=True)
    assert torch.allclose(truth.values, ((values - mean) / (std + 1e-6)).flatten(2), atol=1e-5)
    n = values.shape[2]
    assert torch.allclose(truth.values.square().mean(-1), torch.full((2, 2), (n - 1) / n), atol=1e-4)


@pytest.mark.parametrize("per", ["none", "patch", "channel"])
@pytest.mark.parametrize("normalised", [False, True])
def test_restore_is_the_inverse(per, normalised):
    tokens, tokenizer = frames()
    normalise = Normalise(MEAN, STD) if normalised else None
    target = Pixels(tokenizer.patch, 3, tokenizer.grid, normalise, per)
    content = ROWS.gather(tokens.content)
    values = target.values(content)
    truth = ask(target, tokens, Query(ROWS)).values
    assert torch.allclose(target.restore(truth, *target.statistics(values)), content.flatten(2, 4), atol=1e-4)


def test_flat_patches_stay_finite():
    tokenizer = Patchify([4, 4], (8, 8), 3)
    tokens = tokenizer(torch.full((1, 3, 8, 8), 0.5))
    for per in ("patch", "channel"):
        truth = ask(Pixels([4, 4], 3, (2, 2), Normalise(MEAN, STD), per), tokens, Query(Rows.all(1, 4)))
        assert torch.isfinite(truth.values).all() and truth.values.abs().max() < 1e3


def test_one_frame_of_each_slot_as_st_mae_chooses_it():
    """16 frames in slots of two, eight predicted: 0, 2, 4, … 12 and 15."""
    tokens, tokenizer = frames((16, 4, 4), (2, 4, 4), 1)
    target = Pixels(tokenizer.patch, 1, tokenizer.grid, per_slot=1)
    chosen = target.offsets[:, 0] + 2 * torch.arange(8)
    assert chosen.tolist() == [0, 2, 4, 6, 8, 10, 12, 15] and target.out == 16
    truth = ask(target, tokens, Query(Rows.all(2, 8)))
    data = tokenizer.untokenize(tokens.content)
    assert torch.equal(truth.values, data[:, 0, chosen].flatten(2))


def test_a_whole_slot_is_all_of_it():
    tokens, tokenizer = frames((4, 4, 4), (2, 4, 4), 1)
    every = ask(Pixels(tokenizer.patch, 1, tokenizer.grid, per_slot=2), tokens, Query(Rows.all(2, 2)))
    assert torch.equal(every.values, tokens.content.flatten(2))


@pytest.mark.parametrize("per_slot", [3, 5])
def test_frames_that_do_not_spread_are_refused(per_slot):
    with pytest.raises(UserError, match="per_slot"):
        Pixels([2, 4, 4], 1, (8, 1, 1), per_slot=per_slot)


def test_rows_that_were_seen_do_not_count():
    tokens, tokenizer = frames()
    mask = Mask.from_hidden(torch.tensor([[True, False] * 4] * 2))
    truth = ask(Pixels(tokenizer.patch, 3, tokenizer.grid, count="hidden"), tokens, Query(ROWS), mask)
    assert truth.weight.tolist() == [[0, 1], [0, 1]]


def test_the_whole_grid():
    tokens, tokenizer = frames()
    target = Pixels(tokenizer.patch, 3, tokenizer.grid, per_slot=1)
    assert torch.equal(ask(target, tokens, Query(None)).values, ask(target, tokens, Query(Rows.all(2, 8))).values)


def test_targets_are_float32_without_gradient_and_say_their_width():
    tokens, tokenizer = frames()
    double = Tokens(tokens.content.double().requires_grad_(), tokens.layout)
    target = Pixels(tokenizer.patch, 3, tokenizer.grid, per="patch")
    truth = ask(target, double, Query(ROWS))
    assert truth.values.dtype == torch.float32 and not truth.values.requires_grad
    assert target.provides == {"out": truth.values.shape[-1]} and target.reveals == "layout"


def test_a_teachers_word_at_the_place():
    said = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    rows = Rows(torch.tensor([[4, 1], [0, 0]]))
    truth = ask(TeacherFeatures("t", 3), Tokens(said, Layout(5)), Query(rows), t=lambda step: said)
    assert torch.equal(truth.values, rows.gather(said)) and truth.weight is None
