"""Maskers: exact counts for every sample, replay from draws, statistics, refusals."""

import pytest
import torch

from core.errors import UserError
from core.maskers import (
    BlockMasker,
    CellMasker,
    Masker,
    NeighbourhoodMasker,
    RandomMasker,
    SaliencyMasker,
    ScoreMasker,
    keep_lowest,
)
from core.seeding import PlacedGenerator, seed_part
from core.tokens import Batch, ForwardContext, Layout, Mask, Rows, Tokens


def grid_tokens(grid=(14, 14), batch=3) -> Tokens:
    count = 1
    for n in grid:
        count *= n
    return Tokens(torch.zeros(batch, count, 1), Layout(count, grid))


def context_of(tokens: Tokens, **teachers) -> ForwardContext:
    return ForwardContext(Batch({}), {"v": tokens}, teachers=teachers)


def mask_of(masker: Masker, tokens: Tokens, seed: int = 0, **teachers) -> Mask:
    ctx = context_of(tokens, **teachers)
    return masker(ctx.tokens, masker.draw(ctx.tokens, torch.Generator().manual_seed(seed), ctx), ctx)["v"]


@pytest.mark.parametrize(
    "count, ratio, kept",
    [(196, 0.75, 49), (100, 0.9, 9), (1568, 0.9, 156), (100, 0.8, 19), (256, 0.75, 64), (7, 0.1, 6)],
)
def test_counts_follow_the_published_float_product(count, ratio, kept):
    mask = mask_of(RandomMasker(ratio), grid_tokens((count,)))
    assert mask.visible.count == kept and mask.visible.valid is None
    assert mask.hidden.sum(1).tolist() == [count - kept] * 3
    assert mask.queries["main"].rows.count == count - kept


@pytest.mark.parametrize("masker", [RandomMasker(0.6), BlockMasker(0.6), CellMasker(0.6)])
def test_visible_and_predicted_rows_part_the_tokens(masker):
    mask = mask_of(masker, grid_tokens((6, 6)))
    seen, asked = mask.visible.to_mask(36), mask.queries["main"].rows.to_mask(36)
    assert torch.equal(asked, mask.hidden) and torch.equal(seen, ~mask.hidden)


def test_visible_rows_are_in_noise_order():
    tokens = grid_tokens((8,), 1)
    noise = torch.tensor([[0.5, 0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6]])
    mask = RandomMasker(0.5)({"v": tokens}, {"v": noise}, context_of(tokens))["v"]
    assert mask.visible.index.tolist() == [[1, 5, 3, 0]] and mask.queries["main"].rows.index.tolist() == [[2, 4, 6, 7]]


@pytest.mark.parametrize("masker", [RandomMasker(0.5), BlockMasker(0.5), CellMasker(0.5)])
def test_draws_replay_and_seeds_reproduce(masker):
    tokens = grid_tokens((6, 6))
    ctx = context_of(tokens)
    draws = masker.draw(ctx.tokens, torch.Generator().manual_seed(5), ctx)
    first, again = masker(ctx.tokens, draws, ctx)["v"], masker(ctx.tokens, draws, ctx)["v"]
    assert torch.equal(first.hidden, again.hidden) and torch.equal(first.hidden, mask_of(masker, tokens, 5).hidden)
    assert not torch.equal(first.hidden, mask_of(masker, tokens, 6).hidden)
    assert not torch.equal(first.hidden[0], first.hidden[1]), "samples are drawn by themselves"


def test_without_a_generator_the_global_one_is_used():
    tokens = grid_tokens((6, 6))
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(RandomMasker(0.5).draw({"v": tokens}, None, context_of(tokens))["v"])
    assert torch.equal(*drawn)


def test_every_token_is_hidden_equally_often():
    hidden = mask_of(RandomMasker(0.75), grid_tokens((4, 4), 4000)).hidden.float()
    assert (hidden.mean(0) - 0.75).abs().max() < 5 * (0.75 * 0.25 / 4000) ** 0.5
    pairs = hidden.T @ hidden / 4000
    expected = 12 * 11 / (16 * 15)  # without replacement
    off = pairs[~torch.eye(16, dtype=torch.bool)]
    assert (off - expected).abs().max() < 5 * (expected * (1 - expected) / 4000) ** 0.5


@pytest.mark.parametrize("masker", [RandomMasker(0.5), BlockMasker(0.5)])
def test_padding_is_neither_hidden_nor_visible(masker):
    valid = torch.tensor([[True] * 4, [True] * 3 + [False], [True] + [False] * 3, [False] * 4])
    tokens = Tokens(torch.zeros(4, 4, 1), Layout(4, (4,), valid=valid))
    if isinstance(masker, BlockMasker):
        with pytest.raises(UserError, match="fill a grid"):
            mask_of(masker, tokens)
        return
    mask = mask_of(masker, tokens)
    assert mask.visible.to_mask(4).sum(1).tolist() == [2, 1, 0, 0], "int(n · (1 − ratio)) of the valid ones"
    assert mask.hidden.sum(1).tolist() == [2, 2, 1, 0] and not (mask.hidden & ~valid).any()
    assert torch.equal(mask.queries["main"].rows.to_mask(4), mask.hidden)


@pytest.mark.parametrize("grid", [(16,), (14, 14), (4, 8, 8), (3, 5)])
@pytest.mark.parametrize("ratio", [0.3, 0.75, 0.9])
def test_blocks_hide_exactly_as_many(grid, ratio):
    tokens = grid_tokens(grid, 8)
    assert mask_of(BlockMasker(ratio), tokens).hidden.sum(1).tolist() == [int(tokens.layout.count * ratio)] * 8


def test_blocks_hang_together():
    """Neighbours share their fate more often than under random masking of the same ratio."""

    def alike(masker) -> float:
        hidden = mask_of(masker, grid_tokens((14, 14), 200)).hidden.unflatten(1, (14, 14))
        return float((hidden[:, 1:] == hidden[:, :-1]).float().mean())

    assert alike(RandomMasker(0.4)) < 0.55 < 0.75 < alike(BlockMasker(0.4))


def test_blocks_reach_every_cell():
    hidden = mask_of(BlockMasker(0.4), grid_tokens((6, 6), 500)).hidden.float().mean(0)
    assert hidden.min() > 0.1 and hidden.max() < 0.75


def test_blocks_need_a_full_grid():
    with pytest.raises(UserError, match="fill a grid"):
        mask_of(BlockMasker(0.5), Tokens(torch.zeros(1, 3, 1), Layout(3, (9,), coords=torch.zeros(1, 3, 1))))
    with pytest.raises(UserError, match="fill a grid"):
        mask_of(BlockMasker(0.5), Tokens(torch.zeros(1, 3, 1), Layout(3)))


def test_high_scores_are_hidden():
    tokens = grid_tokens((8,), 2)
    scores = torch.tensor([[0.0, 7, 1, 6, 2, 5, 3, 4], [9.0, 1, 8, 2, 7, 3, 6, 4]])
    mask = mask_of(ScoreMasker(0.5, "s"), tokens, s=lambda step: scores)
    assert mask.queries["main"].rows.index.tolist() == [[1, 3, 5, 7], [0, 2, 4, 6]]
    loose = ScoreMasker(0.5, "s", randomness=1.0)
    assert not torch.equal(mask_of(loose, tokens, s=lambda step: scores).hidden, mask.hidden)


def test_scores_count_by_rank():
    tokens = grid_tokens((8,), 1)
    scores = torch.arange(8.0)[None]
    for stretched in (scores * 1e6, scores.exp()):
        one, two = (mask_of(ScoreMasker(0.5, "s", 0.5), tokens, s=lambda step, x=x: x) for x in (scores, stretched))
        assert torch.equal(one.hidden, two.hidden)


@pytest.mark.parametrize("count, ratio, kept", [(64, 0.8, 13), (12, 0.75, 3), (10, 0.0, 10), (7, 0.5, 4), (5, 0.99, 1)])
def test_salient_tokens_stay_in_exact_numbers(count, ratio, kept):
    """N − int(N · ratio), the published rounding; visible rows ascend."""
    tokens = grid_tokens((count,), 4)
    mask = mask_of(SaliencyMasker(ratio, "s"), tokens, s=lambda ctx: torch.randn(4, count))
    assert (~mask.hidden).sum(1).tolist() == [kept] * 4 and mask.visible.index.shape == (4, kept)
    assert torch.equal(mask.visible.index, mask.visible.index.sort(1).values)


def shown(scores: torch.Tensor, ratio: float, batch: int = 20000) -> torch.Tensor:
    """How often each token is visible."""
    tokens = grid_tokens((len(scores),), batch)
    mask = mask_of(SaliencyMasker(ratio, "s"), tokens, s=lambda ctx: scores.expand(batch, -1))
    return (~mask.hidden).float().mean(0)


def test_equal_saliency_shows_all_tokens_equally_often():
    share = shown(torch.zeros(10), 0.7)  # 3 of 10
    assert torch.allclose(share, torch.full((10,), 0.3), atol=5 * (0.3 * 0.7 / 20000) ** 0.5)


def test_a_very_salient_token_is_always_visible():
    scores = torch.zeros(10)
    scores[7] = 20.0
    share = shown(scores, 0.9)  # 1 of 10
    assert share[7] == 1 and share.sum() == 1


def test_tokens_are_drawn_by_softmax_without_replacement():
    """Of three tokens with p = (.6, .3, .1) the pair {i, j} is drawn with p_i p_j / (1 − p_i) + p_j p_i / (1 − p_j)."""
    p = torch.tensor([0.6, 0.3, 0.1])
    share = shown(p.log() + 3, 0.34)  # 2 of 3
    pairs = p[:, None] * p / (1 - p[:, None])
    left_out = torch.stack([pairs[1, 2] + pairs[2, 1], pairs[0, 2] + pairs[2, 0], pairs[0, 1] + pairs[1, 0]])
    assert torch.allclose(1 - share, left_out, atol=5 * 0.5 / 20000**0.5)


def test_saliency_needs_tokens_without_padding():
    valid = torch.ones(3, 4, dtype=torch.bool)
    tokens = Tokens(torch.zeros(3, 4, 1), Layout(4, valid=valid))
    with pytest.raises(UserError, match="SaliencyMasker"):
        mask_of(SaliencyMasker(0.5, "s"), tokens, s=lambda ctx: torch.zeros(3, 4))


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("make", [RandomMasker, BlockMasker, lambda ratio: ScoreMasker(ratio, "s")])
def test_ratios_that_make_no_sense_are_refused(make, ratio):
    with pytest.raises(UserError, match=r"masker\.ratio"):
        make(ratio)


def test_keep_lowest_takes_a_count():
    tokens = grid_tokens((5,), 1)
    mask = keep_lowest(torch.tensor([[3.0, 1, 2, 5, 4]]), tokens, keep=2)
    assert mask.visible.index.tolist() == [[1, 2]] and isinstance(mask.queries["main"].rows, Rows)


@pytest.mark.parametrize(
    "grid, side, count",
    [((14, 14), 2, 120), ((12, 12), 2, 88), ((8, 8), 4, 48), ((4, 6, 6), 2, 88)],  # ⌈cells · 0.6⌉ cells of side^A
)
def test_cells_are_hidden_whole(grid, side, count):
    mask = mask_of(CellMasker(0.6, side), grid_tokens(grid))
    assert mask.hidden.sum(1).tolist() == [count] * 3
    assert mask.queries["main"].rows.count == count and mask.visible.count == mask.hidden.shape[1] - count

    hidden = mask.hidden.unflatten(1, grid)
    for axis in range(1, len(grid) + 1):
        hidden = hidden.unflatten(axis, (-1, side)).movedim(axis + 1, -1).float()
    share = hidden.flatten(len(grid) + 1).mean(-1)
    assert set(share.unique().tolist()) == {0.0, 1.0}


def test_the_cells_with_the_lowest_noise_are_hidden():
    tokens = grid_tokens((4, 4), 1)
    mask = CellMasker(0.5)({"v": tokens}, {"v": torch.tensor([[0.9, 0.1, 0.2, 0.8]])}, context_of(tokens))["v"]
    rows = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert mask.hidden.view(4, 4).int().tolist() == rows


def test_cells_need_a_grid_that_they_divide():
    with pytest.raises(UserError, match=r"side=4 does not divide the grid of tokens \(6, 8\)"):
        mask_of(CellMasker(0.6, 4), grid_tokens((6, 8)))
    points = Tokens(torch.zeros(1, 4, 1), Layout(4, coords=torch.zeros(1, 4, 3)))
    with pytest.raises(UserError, match="fill a grid"):
        mask_of(CellMasker(0.6), points)


@pytest.mark.parametrize("masker", [RandomMasker(0.75), BlockMasker(0.6), CellMasker(0.5)])
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_draw_the_masks_of_their_rows_in_the_whole_batch(masker, size):
    """Two processes hide what one would: each has its place in the batch, and its rows of the draws."""

    def hidden(rows, rank=0, size=1):
        generator = PlacedGenerator()
        generator.rank, generator.size = rank, size
        seed_part(generator, seed=3, step=7, rank=rank, part=0)
        ctx = context_of(grid_tokens((4, 4), batch=rows))
        return masker(ctx.tokens, masker.draw(ctx.tokens, generator, ctx), ctx)["v"].hidden

    whole = hidden(6)
    parts = [hidden(6 // size, rank, size) for rank in range(size)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(parts[0], parts[1])


def test_one_process_draws_as_a_plain_generator_does():
    plain, placed = torch.Generator().manual_seed(5), PlacedGenerator()
    placed.manual_seed(5)
    assert torch.equal(placed.uniform((4, 3)), torch.rand(4, 3, generator=plain))


# Point-MAE: int(0.6 · 64) = 38 hidden, where int(64 · (1 − 0.6)) = 25 would be visible.
@pytest.mark.parametrize("count, ratio, hidden", [(64, 0.6, 38), (512, 0.6, 307), (20, 0.6, 12), (10, 0.0, 0)])
def test_hidden_counts_may_be_the_truncated_ones(count, ratio, hidden):
    mask = mask_of(RandomMasker(ratio, rounding="up"), grid_tokens((count,)))
    assert mask.hidden.sum(1).tolist() == [hidden] * 3 and mask.visible.count == count - hidden


def scattered(batch=3, count=20) -> Tokens:
    coords = torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(0))
    return Tokens(torch.zeros(batch, count, 1), Layout(count, coords=coords))


def test_a_neighbourhood_is_the_nearest_of_one_token():
    tokens = scattered()
    masker, start = NeighbourhoodMasker(0.6), torch.tensor([3, 0, 19])
    mask = masker.mask_view(tokens, (start + 0.5) / 20, context_of(tokens))
    assert mask.hidden.sum(1).tolist() == [12] * 3
    for coords, hidden, token in zip(tokens.layout.coords, mask.hidden, start, strict=True):
        distance = (coords - coords[token]).norm(dim=1)
        assert hidden[token] and distance[hidden].max() < distance[~hidden].min()


def test_every_token_may_begin_a_neighbourhood():
    tokens = scattered(batch=400, count=5)
    masker = NeighbourhoodMasker(0.2)
    first = mask_of(masker, tokens)
    assert first.hidden.sum(1).tolist() == [1] * 400
    assert (first.hidden.float().mean(0) - 0.2).abs().max() < 0.1  # five deviations of 400 draws
    assert torch.equal(first.hidden, mask_of(masker, tokens).hidden)


def test_neighbourhoods_need_coordinates():
    with pytest.raises(UserError, match="coordinates"):
        mask_of(NeighbourhoodMasker(0.5), grid_tokens((4, 4)))
