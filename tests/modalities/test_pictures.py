"""Pictures: nothing shown at a hidden place knows what is hidden there."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.decoders import MAEDecoder
from core.embeddings import PatchEmbed, SinCos
from core.encoder import Trunk, ViT
from core.losses import mse
from core.maskers import RandomMasker
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.objectives import Head, Objective, Readout
from core.reconstruction.baseline import HarmonicInterpolation
from core.reconstruction.pictures import (
    COVER,
    SCORED,
    UNSCORED,
    colour_versions,
    grid_views,
    tinted,
    visible_statistics,
)
from core.targets import Pixels, Target
from core.tokenizers import Normalise, Patchify
from core.tokens import Batch, ForwardContext, Mask, Progress, TargetValues
from modalities.image.pictures import ImagePictures
from modalities.video.methods.videomaev2 import DualMasker
from modalities.video.pictures import GAP, MOST, VideoPictures

SIZE = {"image": (32, 48), "video": (8, 32, 32)}
PATCH = {"image": (8, 8), "video": (2, 8, 8)}
CASES = [
    ("image", {"per": "none"}),
    ("image", {"per": "patch"}),
    ("video", {"per": "channel", "count": "hidden"}),
    ("video", {"per": "patch", "per_slot": 1}),
]


def method_for(
    view: str, channels: int = 3, target: Target | None = None, size=None, patch=None, **settings
) -> MaskedAutoencoder:
    torch.manual_seed(0)
    patch = patch or PATCH[view]
    tokenizer = Patchify(patch, size or SIZE[view], channels)
    values, grid = tokenizer.provides["values"], tokenizer.grid
    target = target or Pixels(patch, channels, grid, Normalise([0.4], [0.3]), **settings)
    embed = PatchEmbed(values, 24, Normalise([0.5], [0.25]), SinCos(grid, 24))
    encoder = ViT(trunk=Trunk(24, 1, 2), embed=embed)
    visible_rows = "latent" if view == "image" else "mask_token"
    decoder = MAEDecoder(24, dim=24, trunk=Trunk(24, 1, 2), positions=SinCos(grid, 24), visible_rows=visible_rows)
    masker = RandomMasker(0.7) if view == "image" else DualMasker(0.6, 0.5)
    objective = Objective(target=target, loss=mse, head=Head(24, target.out))
    return MaskedAutoencoder(
        tokenizer, masker, encoder, {"main": Readout(decoder=decoder, objectives={"pixels": objective})}
    ).eval()


def batch_for(view: str, channels: int = 3, samples: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    data = torch.randint(0, 256, (samples, channels, *SIZE[view]), generator=generator, dtype=torch.uint8)
    return Batch({view: data}, [f"sample {i}" for i in range(samples)])


def masks_for(method: MaskedAutoencoder, batch: Batch) -> dict:
    generator = torch.Generator().manual_seed(2)
    return method.draw_mask(
        ForwardContext(
            batch,
            method.tokenizer.tokenize_views(batch.views),
            progress=Progress(),
            teachers={},
            method=method,
            generator=generator,
        )
    )


def disturbed(batch: Batch, view: str, cells: torch.Tensor) -> Batch:
    """The same batch with other values in these cells, far brighter or darker."""
    data = batch.views[view]
    other = torch.where(cells.unsqueeze(1), (255 - data.float() * 0.2).to(torch.uint8), data)
    return replace(batch, views={view: other})


@pytest.mark.parametrize(("view", "settings"), CASES)
def test_hidden_places_know_nothing_of_what_is_hidden(view, settings):
    method, batch = method_for(view, **settings), batch_for(view)
    masks = masks_for(method, batch)
    before = grid_views(method, batch, view, masks, HarmonicInterpolation())
    after = grid_views(method, disturbed(batch, view, before.hidden), view, masks, HarmonicInterpolation())
    torch.testing.assert_close(after.reconstruction, before.reconstruction, rtol=0, atol=0)
    torch.testing.assert_close(after.interpolation, before.interpolation, rtol=0, atol=0)
    for name in ("masked", "interpolation", "reconstruction"):
        assert torch.equal(colour_versions(after, 1)[name], colour_versions(before, 1)[name])
    assert not torch.equal(after.input, before.input)
    seen = grid_views(method, disturbed(batch, view, ~before.hidden), view, masks, HarmonicInterpolation())
    shown = before.hidden.unsqueeze(1).expand_as(before.input)
    assert (seen.reconstruction - before.reconstruction)[shown].abs().max() > 0.05


@pytest.mark.parametrize(("view", "settings"), CASES)
def test_visible_places_are_the_input_and_no_hidden_one_is_left_open(view, settings):
    method, batch = method_for(view, **settings), batch_for(view)
    views = grid_views(method, batch, view, masks_for(method, batch), HarmonicInterpolation())
    seen = (~views.hidden).unsqueeze(1).expand_as(views.input)
    for version in (views.reconstruction, views.interpolation):
        torch.testing.assert_close(version[seen], views.input[seen], rtol=0, atol=1e-6)
    patches = method.tokenizer(views.reconstruction).content.flatten(2)
    hidden = method.tokenizer(views.hidden.unsqueeze(1).expand_as(views.input)).content.flatten(2).all(2)
    assert hidden.any()
    assert (patches[hidden].std(1) > 0).all(), "a hole: nothing was predicted there"


@pytest.mark.parametrize(("per", "last"), [("patch", 1), ("channel", 3)])
def test_statistics_are_exact_where_visible_and_between_neighbours_where_hidden(per, last):
    method, batch = method_for("image", per=per), batch_for("image")
    tokens, masks = method.tokenizer.tokenize_views(batch.views)["image"], masks_for(method, batch)
    target, mask = method.readouts["main"].objectives["pixels"].target, masks["image"]
    true = target.statistics(target.values(tokens.content))
    for found, exact in zip(visible_statistics(target, tokens, mask), true, strict=True):
        assert found.shape == (2, tokens.layout.count, 1, last)
        torch.testing.assert_close(found[~mask.hidden], exact[~mask.hidden], rtol=0, atol=1e-6)
        assert found[mask.hidden].min() >= exact[~mask.hidden].min() - 1e-3
        assert found[mask.hidden].max() <= exact[~mask.hidden].max() + 1e-3
        assert (found - exact)[mask.hidden].abs().max() > 1e-2


@pytest.mark.parametrize("per", ["patch", "channel"])
def test_where_nothing_is_visible_statistics_are_those_of_the_whole_set(per):
    """0 and 1 of normalised values; nothing warns of a variance of no values."""
    method, batch = method_for("image", per=per), batch_for("image")
    tokens = method.tokenizer.tokenize_views(batch.views)["image"]
    mask = Mask.from_hidden(torch.ones(2, tokens.layout.count, dtype=torch.bool))
    mean, std = visible_statistics(method.readouts["main"].objectives["pixels"].target, tokens, mask)
    assert mean.shape == std.shape == (2, tokens.layout.count, 1, 1)
    assert (mean == 0).all() and (std == 1).all()


def test_true_predictions_of_even_patches_come_back():
    """Where all patches share their statistics, the answer put back is what the prediction says."""
    method, batch = method_for("image", per="patch"), batch_for("image")
    patch = batch.views["image"][:1, :, :8, :8]
    batch = replace(batch, views={"image": patch.repeat(1, 1, 4, 6)}, keys=["same"])
    masks = masks_for(method, batch)

    def truth(tokens, masks, names=None, ctx=None):
        ctx = ForwardContext(batch, tokens, masks=masks)
        return {}, {key: o.target(ctx, v, p).values for key, (o, v, p) in method.prediction_tasks(masks).items()}

    method.predict = truth
    views = grid_views(method, batch, "image", masks, HarmonicInterpolation())
    torch.testing.assert_close(views.reconstruction, views.input, rtol=0, atol=2e-3)


def test_frames_that_are_not_predicted_repeat_the_nearest_and_the_page_says_so():
    method, batch = method_for("video", patch=(4, 8, 8), per="none", per_slot=2), batch_for("video")
    views = grid_views(method, batch, "video", masks_for(method, batch), HarmonicInterpolation())
    tubes, hidden = (x.unflatten(-3, (2, 4)) for x in (views.reconstruction, views.hidden))
    # Of the frames 0 to 7 the target predicts 0, 2, 4 and 7.
    for tube, frame, shown in [(0, 0, 0), (0, 1, 0), (0, 2, 2), (0, 3, 2), (1, 0, 0), (1, 1, 0), (1, 2, 3), (1, 3, 3)]:
        where = hidden[:, None, tube, 0].expand(-1, 3, -1, -1)
        assert torch.equal(tubes[:, :, tube, frame][where], tubes[:, :, tube, shown][where]), (tube, frame)
    assert not torch.equal(tubes[:, :, 0, 0][where], tubes[:, :, 0, 2][where])
    assert any("2 are predicted; the others repeat the nearest" in note for note in views.notes)


@pytest.mark.parametrize(("per", "word"), [("none", "plain pixels"), ("patch", "interpolated from visible patches")])
def test_the_page_says_how_predictions_were_put_back(per, word):
    method, batch = method_for("image", per=per), batch_for("image")
    notes = ImagePictures().draw(method, batch, masks_for(method, batch)).notes
    assert any(word in note for note in notes)
    assert any("harmonic" in note for note in notes)


def test_cells_that_the_decoder_leaves_out_have_their_own_colour():
    method, batch = method_for("video"), batch_for("video")
    masks = masks_for(method, batch)
    views = grid_views(method, batch, "video", masks, HarmonicInterpolation())
    black = replace(views, input=torch.zeros_like(views.input))
    colours = tinted(black, 0)
    scored, left_out = (views.hidden & views.predicted)[0], (views.hidden & ~views.predicted)[0]
    assert scored.any() and left_out.any()
    for flag, colour in ((scored, SCORED), (left_out, UNSCORED)):
        named = colours[flag] / colours[flag].amax(1, keepdim=True) * max(colour)
        torch.testing.assert_close(named, torch.tensor(colour).expand_as(named), rtol=0, atol=1e-5)
    assert (colours[~views.hidden[0]] == 0).all()
    assert torch.equal(views.predicted[0, ::2, ::8, ::8].flatten(), masks["video"].queries["main"].rows.to_mask(64)[0])
    assert any("predicts all hidden patches" in note for note in views.notes)


def test_a_method_that_predicts_no_pixels_shows_its_mask():
    class Sum(Target):
        out = 1

        def forward(self, step, view, place) -> TargetValues:
            raise AssertionError("pictures need no truth")

    method, batch = method_for("image", target=Sum()), batch_for("image")
    gallery = ImagePictures().draw(method, batch, masks_for(method, batch))
    assert [raster.label for raster in gallery.reconstructions[0].rasters] == ["input", "masked", "interpolation"]
    assert any("predicts no pixels" in note for note in gallery.notes)


def decoded(data: bytes) -> list[np.ndarray]:
    image = Image.open(io.BytesIO(data))
    frames = []
    for index in range(image.n_frames):
        image.seek(index)
        frames.append(np.array(image.convert("RGBA")))
    return frames


def test_images_stand_in_columns():
    method, batch = method_for("image"), batch_for("image")
    masks = masks_for(method, batch)
    gallery = ImagePictures().draw(method, batch, masks)
    assert [panel.title for panel in gallery.reconstructions] == [panel.title for panel in gallery.masks] == batch.keys
    panel = gallery.reconstructions[1]
    assert [r.label for r in panel.rasters] == ["input", "masked", "interpolation", "reconstruction"]
    assert all("sample 1" in r.alt and r.size == (48, 32) for r in panel.rasters)
    pictures = {r.label: torch.from_numpy(decoded(r.data)[0][..., :3]) for r in panel.rasters}
    original = batch.views["image"][1].permute(1, 2, 0)
    hidden = grid_views(method, batch, "image", masks, HarmonicInterpolation()).hidden[1]
    assert torch.equal(pictures["input"], original)
    assert torch.equal(pictures["masked"][~hidden], original[~hidden])
    assert (pictures["masked"][hidden] == round(COVER[0] * 255)).all()
    assert torch.equal(pictures["reconstruction"][~hidden], original[~hidden])
    assert not torch.equal(pictures["reconstruction"][hidden], original[hidden])


def test_clips_become_film_strips_and_an_animation():
    method, batch = method_for("video"), batch_for("video")
    panel = VideoPictures().draw(method, batch, masks_for(method, batch)).reconstructions[0]
    labels = [raster.label for raster in panel.rasters]
    assert labels == ["input", "masked", "interpolation", "reconstruction", "the same, moving"]
    clip = batch.views["video"][0].permute(1, 2, 3, 0).numpy()
    strip = decoded(panel.rasters[0].data)[0]
    assert strip.shape == (32, 8 * 32 + 7 * GAP, 4)
    for index, frame in enumerate(clip):
        start = index * (32 + GAP)
        assert (strip[:, start : start + 32, :3] == frame).all()
        assert (strip[:, start + 32 : start + 32 + GAP, 3] == 0).all()
    moving = decoded(panel.rasters[-1].data)
    assert len(moving) == 8
    for shown, frame in zip(moving, clip, strict=True):
        assert shown.shape == (32, 4 * 32 + 3 * GAP, 4)
        assert (shown[:, :32, :3] == frame).all()


def test_masks_of_clips_show_one_frame_a_time_slot():
    method, batch = method_for("video"), batch_for("video")
    raster = VideoPictures().draw(method, batch, masks_for(method, batch)).masks[0].rasters[0]
    assert raster.size == (4 * 32 + 3 * GAP, 32)


def test_long_and_large_clips_are_cut_down():
    batch = Batch({"video": torch.zeros(1, 3, 40, 16, 240, dtype=torch.uint8)}, ["long"])
    method = method_for("video", size=(40, 16, 240))
    gallery = VideoPictures().draw(method, batch, masks_for(method, batch))
    assert gallery.reconstructions[0].rasters[0].size[0] == MOST * 112 + (MOST - 1) * GAP
    assert any(f"{MOST} of 40 frames" in note for note in gallery.notes)


@pytest.mark.parametrize(
    ("channels", "shown", "same"), [(1, None, True), (2, None, True), (5, [3], True), (5, None, False)]
)
def test_any_number_of_channels_is_drawn(channels, shown, same):
    method, batch = method_for("image", channels), batch_for("image", channels)
    gallery = ImagePictures(shown=shown).draw(method, batch, masks_for(method, batch))
    picture = decoded(gallery.reconstructions[0].rasters[0].data)[0]
    assert (picture[..., 0] == batch.views["image"][0, (shown or [0])[0]].numpy()).all()
    assert (picture[..., 0] == picture[..., 2]).all() == same
