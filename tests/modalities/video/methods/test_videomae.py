"""VideoMAE's tubes."""

import pytest
import torch

from modalities.video.methods.videomae import TubeMasker
from tests.modalities.video.masking import clip_tokens, mask_of


@pytest.mark.parametrize(
    "grid, ratio, per_slot", [((8, 14, 14), 0.9, 176), ((8, 16, 16), 0.9, 230), ((2, 4, 4), 0.75, 12)]
)
def test_tubes_hide_the_same_cells_in_every_slot(grid, ratio, per_slot):
    mask = mask_of(TubeMasker(ratio), clip_tokens(grid))
    hidden = mask.hidden.unflatten(1, (grid[0], -1))
    assert (hidden == hidden[:, :1]).all() and hidden[:, 0].sum(1).tolist() == [per_slot] * 3
    cells = grid[1] * grid[2]
    assert mask.visible.count == grid[0] * (cells - per_slot) and mask.visible.valid is None
    assert (mask.visible.index.diff(dim=1) > 0).all() and (mask.queries["main"].rows.index.diff(dim=1) > 0).all()
    assert not torch.equal(mask.hidden[0], mask.hidden[1])


def test_tubes_are_uniform():
    hidden = mask_of(TubeMasker(0.75), clip_tokens((1, 4, 4), 4000)).hidden.float().mean(0)
    assert (hidden - 0.75).abs().max() < 5 * (0.75 * 0.25 / 4000) ** 0.5
