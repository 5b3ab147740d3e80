"""Pictures of clouds: points in the colours of their groups, predictions in their places, nothing hidden shown."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.config import compose
from core.config.build import build_method
from core.reconstruction.pictures import SCORED, UNSCORED, Gallery
from core.targets import Target
from core.tokens import Batch, Layout, Rows, TargetValues, Tokens
from modalities.point.clouds import Clouds
from modalities.point.grouping import Grouping
from modalities.point.pictures import (
    BASELINE,
    METHOD,
    MOST,
    RAMP,
    UNGROUPED,
    VISIBLE,
    PointPictures,
    answers_at,
    cloud_sets,
    ramp,
    split,
)

GROUPS, MEMBERS, HIDDEN = 16, 12, 9


def clouds(samples: int = 2, count: int = 300) -> torch.Tensor:
    """Points of two flat sheets, one above the other."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(samples, count, 3, generator=generator) * 2 - 1
    points[..., 1] = points[..., 1].sign() * 0.4
    return points


def tokens_of(points: torch.Tensor) -> Tokens:
    (plan,) = Grouping([GROUPS], [MEMBERS])(Clouds(points))
    centres = Rows(plan.centres).gather(points[..., :3])
    members = Rows(plan.members.flatten(1)).gather(points).unflatten(1, (GROUPS, MEMBERS))
    relative = torch.cat([members[..., :3] - centres[:, :, None], members[..., 3:]], 3)
    return Tokens(relative, Layout(GROUPS, coords=centres))


def hidden_groups(samples: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(samples, GROUPS, generator=generator).argsort(1) < HIDDEN


def samples_of(points=None, hidden=None, rows=None, prediction="truth", keys=("a", "b")):
    points = clouds() if points is None else points
    hidden = hidden_groups(len(points)) if hidden is None else hidden
    rows = Rows.from_mask(hidden) if rows is None else rows
    tokens = tokens_of(points)
    if isinstance(prediction, str):
        prediction = rows.gather(tokens.content)[..., :3].flatten(2)
    answers = answers_at(tokens, [hidden], 0, rows, prediction)
    return split(tokens, hidden, rows, answers, keys, list(points))


def decoded(raster) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(raster.data)))


def by_name(sets) -> dict:
    return {part.name: part for part in sets}


def is_in(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (np.abs(points[:, None] - others[None]).max(2) < 1e-5).any(1)


def test_a_prediction_lies_round_its_centre():
    """True members, given as a prediction, are points of the cloud, those of the hidden groups."""
    for sample, cloud in zip(samples_of(), clouds().numpy(), strict=True):
        assert sample.answers[METHOD].shape == (HIDDEN, MEMBERS, 3)
        assert is_in(sample.answers[METHOD].reshape(-1, 3), cloud).all()
        assert sample.distances(METHOD).max() < 1e-6 < sample.distances(BASELINE).mean()
        np.testing.assert_allclose(sample.answers[METHOD], sample.members[sample.hidden], atol=1e-6)


def test_rows_in_any_order_and_padding_keep_their_places():
    hidden = hidden_groups()
    rows = Rows.from_mask(hidden)
    order = torch.arange(HIDDEN).flip(0)
    turned = Rows(rows.index[:, order], torch.arange(HIDDEN).expand(2, -1) < 6)
    for sample in samples_of(hidden=hidden, rows=turned):
        assert len(sample.rows) == 6 and sample.rows.tolist() == sorted(sample.rows.tolist(), reverse=True)
        assert sample.distances(METHOD).max() < 1e-6

    visible_too = Rows(torch.arange(GROUPS).expand(2, -1))
    for sample, flags in zip(samples_of(hidden=hidden, rows=visible_too), hidden.numpy(), strict=True):
        assert sample.rows.tolist() == np.flatnonzero(flags).tolist(), "visible groups are not replaced"


def test_more_points_may_be_predicted_than_a_group_has():
    sample = samples_of(prediction=torch.zeros(2, HIDDEN, 3 * 20))[0]
    assert sample.answers[METHOD].shape == (HIDDEN, 20, 3)
    np.testing.assert_allclose(sample.answers[METHOD][:, 7], sample.centres[sample.rows], atol=1e-6)


def test_the_baseline_is_the_group_with_the_nearest_visible_centre():
    for sample in samples_of():
        for row, points in zip(sample.rows, sample.answers[BASELINE], strict=True):
            gaps = np.linalg.norm(sample.centres - sample.centres[row], axis=1)
            gaps[~sample.visible] = np.inf
            source = gaps.argmin()
            expected = sample.members[source] - sample.centres[source] + sample.centres[row]
            np.testing.assert_allclose(points, expected, atol=1e-6)


def test_every_point_of_a_cloud_has_one_kind():
    points, hidden = clouds(), hidden_groups()
    predicted = Rows(Rows.from_mask(hidden).index[:, :4])
    for sample, cloud in zip(samples_of(points, hidden, predicted), points.numpy(), strict=True):
        sets = by_name(cloud_sets(sample))
        assert sum(len(part.positions) for part in sets.values()) == len(cloud)

        seen = is_in(cloud, sample.members[sample.visible].reshape(-1, 3))
        scored = is_in(cloud, sample.members[sample.rows].reshape(-1, 3)) & ~seen
        grouped = is_in(cloud, sample.members.reshape(-1, 3))
        expected = {"visible": seen, "hidden": scored, "in no group": ~grouped}
        expected["hidden, not predicted"] = grouped & ~seen & ~scored
        for name, flags in expected.items():
            np.testing.assert_allclose(sets[name].positions, cloud[flags], atol=1e-6)
            assert flags.any()

    colours = {name: tuple(part.colours[0]) for name, part in sets.items()}
    assert list(colours.values()) == [VISIBLE, SCORED, UNSCORED, UNGROUPED]


def test_far_from_the_origin_points_keep_their_kind():
    """Groups are relative to their centres in float32; a cloud at 100 times its size is still recognised."""
    near, far = (cloud_sets(samples_of(points)[0]) for points in (clouds(), clouds() + 100))
    assert [len(part.positions) for part in near] == pytest.approx([len(part.positions) for part in far], abs=3)


def test_panels_show_input_visible_groups_baseline_and_reconstruction():
    gallery = PointPictures().gallery(samples_of())
    assert [panel.title for panel in gallery.reconstructions] == [panel.title for panel in gallery.masks] == ["a", "b"]
    panel = gallery.reconstructions[1]
    labels = ["input", "visible groups", BASELINE, METHOD]
    assert [raster.label for raster in panel.rasters] == [scene.label for scene in panel.scenes] == labels
    assert all(raster.mime == "image/png" and raster.alt.endswith(" of b") for raster in panel.rasters)
    assert len({(*scene.centre, scene.radius, scene.up) for scene in panel.scenes}) == 1, "one frame for all"

    counts = [sum(len(part.positions) for part in scene.sets) for scene in panel.scenes]
    shown = (GROUPS - HIDDEN) * MEMBERS
    assert counts == [300, shown, GROUPS * MEMBERS, GROUPS * MEMBERS]
    assert gallery.masks[0].rasters[0].data == gallery.reconstructions[0].rasters[0].data


def test_hidden_points_have_their_colour_in_the_picture():
    panel = PointPictures().gallery(samples_of()).reconstructions[0]
    is_orange = []
    for raster in panel.rasters:
        picture = decoded(raster).astype(int)
        red, _, blue, opacity = picture.reshape(-1, 4).T
        is_orange.append(((red > 2 * blue + 40) & (opacity > 60)).mean())
    assert is_orange[1] == 0 and min(is_orange[0], is_orange[2], is_orange[3]) > 0.01


def test_pictures_of_hidden_places_know_nothing_of_hidden_points():
    """Other points in hidden groups change the input alone."""
    points, hidden = clouds(), hidden_groups()
    tokens, rows = tokens_of(points), Rows.from_mask(hidden)
    prediction = 0.1 * torch.randn(2, HIDDEN, 3 * MEMBERS, generator=torch.Generator().manual_seed(2))
    moved = torch.where(hidden[..., None, None], 5 * tokens.content + 0.3, tokens.content)

    stills = []
    for content, cloud in ((tokens.content, points), (moved, 3 * points)):
        changed = replace(tokens, content=content)
        answers = answers_at(changed, [hidden], 0, rows, prediction)
        samples = split(changed, hidden, rows, answers, ["a", "b"], list(cloud))
        panel = PointPictures().gallery(samples).reconstructions[0]
        stills.append([raster.data for raster in panel.rasters])
    assert stills[0][1:] == stills[1][1:] and stills[0][0] != stills[1][0]


def test_colours_by_distance():
    """Blue at the truth; the last colour at twice the mean distance of the baseline."""
    samples = samples_of()
    mean = np.mean([sample.distances(BASELINE) for sample in samples])
    far = [replace(s, answers={**s.answers, METHOD: s.answers[METHOD] + (0, 3 * mean + 2, 0)}) for s in samples]
    for part, colour in ((samples, RAMP[0]), (far, RAMP[-1])):
        gallery = PointPictures(colour="distance").gallery(part)
        scene = gallery.reconstructions[0].scenes[3]
        assert np.allclose(scene.sets[1].colours, colour, atol=1e-5)
        assert tuple(scene.sets[0].colours[0]) == VISIBLE
        assert scene.label == f"{METHOD}: {part[0].distances(METHOD).mean():.3g} from the truth"
        assert any(f"{2 * mean:.3g}" in note for note in gallery.notes)

    baseline = PointPictures(colour="distance").gallery(samples).reconstructions[0].scenes[2].sets[1]
    expected = ramp(samples[0].distances(BASELINE).ravel() / (2 * mean))
    np.testing.assert_allclose(baseline.colours, expected)
    assert np.allclose(ramp(np.array([0.5, 7])), [RAMP[1], RAMP[2]])


def test_without_a_prediction_or_visible_groups():
    gallery = PointPictures().gallery(samples_of(prediction=None))
    assert [raster.label for raster in gallery.reconstructions[0].rasters] == ["input", "visible groups", BASELINE]
    assert any("predicts no points" in note for note in gallery.notes)

    everything = torch.ones(2, GROUPS, dtype=torch.bool)
    gallery = PointPictures(colour="distance").gallery(samples_of(hidden=everything))
    baseline = gallery.reconstructions[0].scenes[2].sets[1]
    assert len(np.unique(baseline.positions, axis=0)) == GROUPS, "its points lie at the centres"

    nothing = samples_of(hidden=~everything)
    gallery = PointPictures(colour="distance").gallery(nothing)
    assert len(by_name(cloud_sets(nothing[0]))["hidden"].positions) == 0
    assert len(gallery.reconstructions) == 2


@pytest.mark.parametrize("points", [torch.zeros(1, 40, 3), torch.ones(1, 40, 3).cumsum(1)])
def test_clouds_without_extent_are_drawn(points):
    samples = samples_of(points, keys=["same"])
    panel = PointPictures().gallery(samples).reconstructions[0]
    assert all(decoded(raster).max() > 0 for raster in panel.rasters)


def test_large_clouds_are_thinned_and_the_page_says_so():
    samples = samples_of(clouds(1, MOST + 500), keys=["large"])
    drawn = np.concatenate([part.positions for part in cloud_sets(samples[0])])
    assert len(drawn) == MOST and len(np.unique(drawn, axis=0)) == MOST
    assert any(f"{MOST:,}" in note for note in PointPictures().gallery(samples).notes)
    assert is_in(drawn[:50], clouds(1, MOST + 500)[0].numpy()).all()


def test_points_outside_of_the_pictures_are_counted():
    counts = []
    for far in (0, 5):
        prediction = torch.zeros(2, HIDDEN, MEMBERS, 3)
        prediction[0, 2, :far] = 50.0
        notes = PointPictures().gallery(samples_of(prediction=prediction.flatten(2))).notes
        counts.append(sum(int(note.split()[-1].rstrip(".")) for note in notes if note.startswith("Points left out")))
    assert counts[1] == counts[0] + 5 and counts[0] < 5


def test_thumbnails_of_clouds_of_unlike_size():
    points = [clouds(1, 100)[0], torch.cat([clouds(1, 50)[0], torch.rand(50, 3)], 1)]
    rasters = PointPictures(up="z").thumbnails(Batch({"point": Clouds(points)}, ["a", "b"]), 72)
    assert [raster.size for raster in rasters] == [(72, 72)] * 2 and rasters[1].alt == "picture of b"
    assert all((decoded(raster)[..., 3] > 0).mean() > 0.01 for raster in rasters)


@pytest.fixture(scope="module")
def method():
    """The modality's own method, as small as it gets."""
    sizes = ["modality.groups=[16]", "modality.members=[12]", "size.dim=24", "size.depth=1", "size.heads=2"]
    torch.manual_seed(0)
    return build_method(compose(["modality=point", "method.readouts.main.decoder.trunk.depth=1", *sizes])).eval()


def drawing_of(method, points) -> tuple[dict, Gallery]:
    batch = Batch({"point": Clouds(points)}, ["a", "b"])
    masks = method.draw_mask(method.context(batch, generator=torch.Generator().manual_seed(0)))
    return masks, PointPictures().draw(method, batch, masks)


def test_a_methods_own_predictions_are_drawn(method):
    points = clouds()
    masks, gallery = drawing_of(method, points)
    hidden, tokens = masks["point"].hidden, method.tokenizer(Clouds(points))
    with torch.no_grad():
        prediction = method.predict({"point": tokens}, masks)[1]["points"]
    places = prediction[1].unflatten(1, (-1, 3)) + tokens.layout.coords[1, hidden[1], None]

    scene = gallery.reconstructions[1].scenes[3]
    assert scene.label == METHOD
    np.testing.assert_allclose(scene.sets[1].positions, places.flatten(0, 1).numpy(), atol=1e-6)
    visible = tokens.content[1, ~hidden[1]] + tokens.layout.coords[1, ~hidden[1], None]
    np.testing.assert_allclose(scene.sets[0].positions, visible.flatten(0, 1).numpy(), atol=1e-6)


def test_a_method_without_points_to_predict_shows_its_groups(method):
    class Other(Target):
        out = 36

        def forward(self, ctx, view, query) -> TargetValues:
            raise AssertionError("pictures need no truth of it")

    objective = method.readouts["main"].objectives["points"]
    target, objective.target = objective.target, Other()
    try:
        _, gallery = drawing_of(method, clouds())
    finally:
        objective.target = target
    assert [scene.label for scene in gallery.reconstructions[0].scenes] == ["input", "visible groups", BASELINE]
    assert any("predicts no points" in note for note in gallery.notes)
