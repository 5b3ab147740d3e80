"""VideoMAE V2's dual mask: the running cell beside the tubes."""

import pytest
import torch

from core.errors import UserError
from core.tokens import Batch, ForwardContext
from modalities.video.methods.videomae import TubeMasker
from modalities.video.methods.videomaev2 import DualMasker, running_cell
from tests.modalities.video.masking import clip_tokens, mask_of


@pytest.mark.parametrize("left_out", [1, 2, 3])
def test_every_position_is_answered_equally_often(left_out):
    maps = running_cell(left_out, (8, 4, 6)).unflatten(1, (8, 4, 6))
    answered = (~maps).float()
    assert (answered.mean(1) == (4 - left_out) / 4).all(), "over the slots"
    assert (answered.unflatten(1, (2, 4)).sum(2) == 4 - left_out).all(), "over any four"
    assert (answered.mean((2, 3)) == (4 - left_out) / 4).all(), "within each slot"
    assert (maps[:, 1:] != maps[:, :-1]).any((2, 3)).all(), "neighbouring slots differ"
    assert len({tuple(one.flatten().tolist()) for one in maps}) == 4, "phases differ"


def test_the_cell_turns_and_is_tiled():
    maps = running_cell(2, (4, 4, 4)).unflatten(1, (4, 4, 4))
    assert torch.equal(maps[0, 1:], maps[1, :-1]), "a phase is the one before it, a slot later"
    assert torch.equal(maps[..., :2, :2], maps[..., 2:, 2:])
    ring = [True, True, False, False]
    for slot in range(4):
        q = slot + 1  # the pointer moves before it is first read
        assert maps[0, slot, :2, :2].flatten().tolist() == [ring[(q + i) % 4] for i in range(4)]


def test_counted_tokens_are_704_in_every_sample():
    """224 pixels, 16 frames: tube 0.9 and running cell 0.5."""
    masker = DualMasker(0.9, 0.5)
    for seed in range(4):
        mask = mask_of(masker, clip_tokens(batch=5), seed)
        rows = mask.queries["main"].rows
        assert rows.count == 784 and rows.valid is None
        assert rows.gather(mask.hidden).sum(1).tolist() == [704] * 5


def test_all_four_phases_occur_and_draws_replay():
    masker, tokens = DualMasker(0.75, 0.5), clip_tokens((4, 4, 4), 64)
    ctx = ForwardContext(Batch({}), {"video": tokens})
    draws = masker.draw(ctx.tokens, torch.Generator().manual_seed(0), ctx)
    assert set(draws["video"]["phase"].tolist()) == {0, 1, 2, 3}
    one, two = (masker(ctx.tokens, draws, ctx)["video"] for _ in range(2))
    assert torch.equal(one.hidden, two.hidden)
    assert torch.equal(one.queries["main"].rows.index, two.queries["main"].rows.index)


@pytest.mark.parametrize("grid", [(8, 15, 14), (8, 14, 15), (4, 1, 2)])
def test_odd_grids_are_refused(grid):
    with pytest.raises(UserError, match="even rows and columns"):
        mask_of(DualMasker(0.5, 0.5), clip_tokens(grid))


@pytest.mark.parametrize("ratio", [-0.25, 1.0])
def test_decoder_ratios_that_no_ring_has_are_refused(ratio):
    with pytest.raises(UserError, match="decoder_ratio"):
        DualMasker(0.9, ratio)


def test_a_decoder_ratio_of_zero_is_videomae():
    dual, tube = (
        mask_of(DualMasker(0.75, 0.0), clip_tokens((2, 4, 4))),
        mask_of(TubeMasker(0.75), clip_tokens((2, 4, 4))),
    )
    assert torch.equal(dual.hidden, tube.hidden)
    assert torch.equal(dual.queries["main"].rows.index, tube.queries["main"].rows.index)
