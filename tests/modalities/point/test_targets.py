"""Members of hidden groups that no visible group shows."""

import torch

from core.losses import to_nearest
from core.tokens import Batch, ForwardContext, Mask, Query, Rows
from modalities.point.clouds import Clouds, Plan
from modalities.point.grouping import Grouping
from modalities.point.targets import GroupPoints
from modalities.point.tokenizer import PointGroups


def context(clouds: Clouds, tokenizer: PointGroups, hidden: torch.Tensor) -> ForwardContext:
    tokens = tokenizer(clouds)
    ctx = ForwardContext(Batch({"point": clouds}), {"point": tokens})
    ctx.masks["point"] = Mask.from_hidden(hidden).propagate(tokens.layout)
    return ctx


def test_points_in_no_visible_group():
    """Groups {0, 1, 2}, {2, 3, 4} and {4, 5, 0} of six points; the second and third are hidden."""
    members = torch.tensor([[[0, 1, 2], [2, 3, 4], [4, 5, 0]]])
    clouds = Clouds(torch.rand(1, 6, 3), plans=(Plan(torch.tensor([[1, 3, 5]]), members),))
    hidden = torch.tensor([[False, True, True]])
    ctx = context(clouds, PointGroups(Grouping([3], [3])), hidden)

    query = Query(Rows(torch.tensor([[2, 1]])))
    unseen = GroupPoints(3).unseen(ctx, "point", query, [hidden])
    assert unseen.tolist() == [[[True, True, False], [False, True, True]]]
    assert not GroupPoints(3).unseen(ctx, "point", query, [~hidden])[:, 0, 0].any()  # 4 is in the second group


def test_without_plans_it_is_unknown():
    clouds = Clouds(torch.rand(1, 20, 3))
    hidden = torch.tensor([[True, False, False]])
    ctx = context(clouds, PointGroups(Grouping([3], [3])), hidden)
    assert GroupPoints(3).unseen(ctx, "point", Query(Rows.from_mask(hidden)), [hidden]) is None


def test_higher_levels_of_a_pyramid():
    """Of a higher level's group those members are unseen that are hidden groups themselves."""
    tokenizer = PointGroups(Grouping([6, 3, 2], [4, 3, 2]))
    clouds = Clouds(torch.rand(2, 40, 3, generator=torch.Generator().manual_seed(0)) - 0.5)
    top = torch.tensor([[True, False], [False, True]])
    ctx = context(clouds, tokenizer, top)

    middle, finest = ctx.masks["point"].finer, ctx.masks["point"].finer.finer
    hidden = [top, middle.hidden, finest.hidden]
    rows = Rows(torch.tensor([[0, 1, 2]] * 2))
    unseen = GroupPoints(3).unseen(ctx, "point", Query(rows, level=1), hidden)
    children = ctx.tokens["point"].finer.layout.children
    for sample in range(2):
        for row in range(3):
            expected = [bool(finest.hidden[sample, child]) for child in children[sample, row]]
            assert unseen[sample, row].tolist() == expected


def test_distance_to_the_nearest_predicted_point():
    values = torch.tensor([[[[0.0, 0, 0], [1, 0, 0]]]])
    prediction = torch.tensor([[[0.0, 2, 0, 1, 0, 3]]])  # (0, 2, 0) and (1, 0, 3)
    assert to_nearest(prediction, values).tolist() == [[[4, 5]]]
