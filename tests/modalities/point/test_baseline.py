"""The nearest visible group as an answer: at hidden rows alone, level by level, layouts kept."""

import torch

from core.tokens import Layout, Mask, Tokens, levels
from modalities.point.baseline import NearestGroup
from modalities.point.grouping import Grouping
from modalities.point.tokenizer import PointGroups


def line(*centres: float) -> torch.Tensor:
    """(1, G, 3): centres on the x axis."""
    x = torch.tensor(centres)[None, :, None]
    return torch.cat([x, torch.zeros(1, len(centres), 2)], 2)


def tokens(centres: torch.Tensor, members: int = 2, channels: int = 3, **layout) -> Tokens:
    """Groups whose content is the number of their row, plus 100 for each sample."""
    batch, groups, _ = centres.shape
    number = torch.arange(groups).float() + 100 * torch.arange(batch).float()[:, None]
    content = number[..., None, None].expand(batch, groups, members, channels)
    return Tokens(content.clone(), Layout(groups, coords=centres, **layout))


def rows_shown(answer: Tokens) -> list:
    return answer.content[:, :, 0, 0].tolist()


def flags(*hidden: list[int]) -> torch.Tensor:
    return torch.tensor(hidden).bool()


def test_hidden_groups_get_the_content_of_the_nearest_visible_one():
    groups = tokens(line(0.0, 1.0, 2.5, 3.0, 10.0))
    assert rows_shown(NearestGroup().predict_tokens(groups, [flags([0, 1, 1, 0, 1])])) == [[0, 0, 3, 3, 3]]
    assert rows_shown(NearestGroup().predict_tokens(groups, [flags([1, 1, 1, 1, 0])])) == [[4, 4, 4, 4, 4]]
    assert rows_shown(NearestGroup().predict_tokens(groups, [flags([0, 0, 0, 0, 0])])) == [[0, 1, 2, 3, 4]]


def test_nearness_counts_all_three_axes():
    centres = torch.tensor([[[0.0, 0, 0], [0.1, 5, 0], [1, 0, 0], [0.1, 0, 4]]])
    assert rows_shown(NearestGroup().predict_tokens(tokens(centres), [flags([1, 0, 0, 0])])) == [[2, 1, 2, 3]]


def test_of_equally_near_groups_the_lower_row_counts():
    groups = tokens(line(1.0, 0.0, -1.0))
    assert rows_shown(NearestGroup().predict_tokens(groups, [flags([0, 1, 0])])) == [[0, 0, 2]]


def test_samples_do_not_mix():
    groups = tokens(torch.cat([line(0.0, 1.0, 5.0), line(4.0, 1.0, 0.0)]))
    answer = NearestGroup().predict_tokens(groups, [flags([1, 0, 0], [1, 1, 0])])
    assert rows_shown(answer) == [[1, 1, 2], [102, 102, 102]]


def test_without_a_visible_group_members_are_at_the_centre():
    groups = tokens(torch.cat([line(0.0, 1.0), line(0.0, 1.0)]))
    answer = NearestGroup().predict_tokens(groups, [flags([1, 1], [1, 0])])
    assert rows_shown(answer) == [[0, 0], [101, 101]]
    assert (answer.content[0] == 0).all()


def test_padding_is_no_source_and_stays():
    groups = tokens(line(0.0, 0.2, 5.0), valid=flags([1, 0, 1]))
    answer = NearestGroup().predict_tokens(groups, [flags([1, 0, 0])])
    assert rows_shown(answer) == [[2, 1, 2]]


def test_all_members_and_channels_are_copied_and_the_tokens_stay_as_they_were():
    generator = torch.Generator().manual_seed(0)
    centres, content = torch.randn(3, 8, 3, generator=generator), torch.randn(3, 8, 4, 6, generator=generator)
    groups = Tokens(content, Layout(8, coords=centres), side={"saliency": centres})
    hidden = torch.rand(3, 8, generator=generator) < 0.5
    before = content.clone()
    answer = NearestGroup().predict_tokens(groups, [hidden])
    assert answer.layout is groups.layout and answer.side is groups.side and torch.equal(content, before)

    for sample in range(3):
        for row in range(8):
            source = row
            if hidden[sample, row]:
                candidates = [other for other in range(8) if not hidden[sample, other]]
                source = min(candidates, key=lambda other: (centres[sample, other] - centres[sample, row]).norm())
            assert torch.equal(answer.content[sample, row], before[sample, source])


def test_levels_of_a_pyramid_follow_their_own_masks():
    """A finer group may be visible where its coarse neighbour is hidden, and the other way round."""
    fine = tokens(line(0.0, 1.0, 2.0, 3.0))
    children = torch.tensor([[[0, 1], [1, 2]]])
    coarse = tokens(line(0.0, 2.0), finer=fine.layout, children=children)
    pyramid = Tokens(coarse.content, coarse.layout, finer=fine)

    mask = Mask.from_hidden(flags([0, 1])).propagate(pyramid.layout)
    hidden = [level.hidden for level in levels(mask)]
    assert [level.tolist() for level in hidden] == [[[False, True]], [[False, False, True, True]]]

    answer = NearestGroup().predict_tokens(pyramid, hidden)
    assert [rows_shown(level) for level in levels(answer)] == [[[0, 0]], [[0, 1, 1, 1]]]
    assert answer.layout is pyramid.layout and answer.finer.layout is fine.layout

    other = NearestGroup().predict_tokens(pyramid, [flags([1, 0]), flags([1, 0, 0, 0])])
    assert [rows_shown(level) for level in levels(other)] == [[[1, 1]], [[1, 1, 2, 3]]]


class Spheres:
    """Samples on unit spheres, drawn anew from another seed."""

    def resample(self, key: str) -> torch.Tensor:
        points = torch.randn(300, 3, generator=torch.Generator().manual_seed(int(key)))
        return points / points.norm(dim=1, keepdim=True)


def test_the_ceiling_takes_other_points_of_the_same_surface():
    tokenizer = PointGroups(Grouping([12, 6], [8, 3]))
    drawn = torch.randn(2, 300, 3, generator=torch.Generator().manual_seed(7))
    groups = tokenizer(drawn / drawn.norm(dim=2, keepdim=True))
    answer = NearestGroup().ceiling_tokens(tokenizer, Spheres(), ["0", "1"], groups)

    fine, given = answer.finer, groups.finer
    assert answer.layout is groups.layout and fine.layout is given.layout
    pool = torch.stack([Spheres().resample("0"), Spheres().resample("1")])
    for sample in range(2):
        for row in range(12):
            centre = given.layout.coords[sample, row]
            nearest = (pool[sample] - centre).norm(dim=1).argsort()[:8]
            torch.testing.assert_close(fine.content[sample, row], pool[sample][nearest] - centre)

    # Members of the higher level are groups of the other points, and lie on the sphere as well.
    members = answer.content + groups.layout.coords[:, :, None]
    torch.testing.assert_close(members.norm(dim=3), torch.ones(2, 6, 3))
    assert NearestGroup().ceiling_tokens(tokenizer, object(), ["0", "1"], groups) is None
