"""Teachers of clouds in a method: what they see and give, that nothing trains or saves them, and runs that use them."""

import json

import pytest
import torch

from core import train
from core.config import compose
from core.config.build import build_method
from core.errors import UserError
from core.export import export_encoder
from core.tokens import Batch, levels
from core.train import main
from modalities.point.clouds import Clouds
from modalities.point.grouping import Grouping

SMALL = [
    "modality=point", "method=i2p_mae", "size=nano",
    "modality.pyramid.groups=[24, 12, 6]", "modality.pyramid.members=[6, 4, 3]", "method.encoder.dims=[12, 16, 24]",
    "method.encoder.depths=[1, 1, 1]", "method.encoder.widths=[8, 8, 16]",
]  # fmt: skip
TEACHER = "method.teachers.image.settings={img_size: 32, patch_size: 8, embed_dim: 24, depth: 1, num_heads: 3}"
RUN = [
    *SMALL, "modality.points=64", "data.source.train=16", "data.source.test=8", "batch_size=4", "precision=fp32",
    "engine.workers=0", "optim.schedule=constant", "optim.lr=1e-3",
]  # fmt: skip
IMAGE = [
    "modality=image", "modality.size=[32, 32]", "modality.side=8", "size.dim=24", "size.depth=1", "size.heads=3",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def built(*settings: str):
    torch.manual_seed(0)
    return build_method(compose([*SMALL, TEACHER, *settings]))


def clouds(batch: int = 3, count: int = 70) -> Batch:
    points = torch.randn(batch, count, 3, generator=torch.Generator().manual_seed(0))
    return Batch({"point": Clouds(points)})


def test_targets_take_their_width_from_the_teacher():
    config = compose([*SMALL, TEACHER])
    build_method(config)
    image = config["method"]["readouts"]["main"]["objectives"]["image"]
    assert image["target"] | {"_target_": ""} == {"_target_": "", "teacher": "image", "members": 4, "teacher_width": 72}
    assert image["head"]["out"] == 4 * 72


def test_a_teacher_is_neither_trained_nor_saved():
    method = built()
    out = method(clouds(), generator=torch.Generator().manual_seed(0))
    out.loss.backward()
    teacher = method.teachers["image"]
    assert not teacher.training and all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    mine = {id(p) for p in teacher.parameters()}
    assert not any(id(p) in mine for p in method.parameters())
    assert not any("teacher" in name for name in method.state_dict())
    method.train()
    assert not teacher.training


def test_a_teacher_runs_once_a_forward_before_the_mask(monkeypatch):
    method, calls = built(), []
    teacher = method.teachers["image"]
    forward = teacher.forward
    monkeypatch.setattr(teacher, "forward", lambda ctx: (calls.append(dict(ctx.masks)), forward(ctx))[1])
    method(clouds(), generator=torch.Generator().manual_seed(0))
    assert calls == [{}]


def test_masks_follow_saliency_and_go_down(monkeypatch):
    """The most salient group is visible in every draw; a finer group is visible iff a visible one lists it."""
    method, batch = built(), clouds()
    scores = torch.zeros(3, 6)
    scores[torch.arange(3), torch.tensor([0, 3, 5])] = 20.0
    monkeypatch.setattr(method.teachers["saliency"], "forward", lambda ctx: scores)
    tokens = levels(method.tokenizer(batch.views["point"]))

    for seed in range(20):
        context = method.context(batch, generator=torch.Generator().manual_seed(seed))
        masks = levels(method.draw_mask(context)["point"])
        assert (~masks[0].hidden).sum(1).tolist() == [6 - int(0.8 * 6)] * 3
        assert not masks[0].hidden[torch.arange(3), torch.tensor([0, 3, 5])].any()
        for coarse, fine, of_level in zip(masks, masks[1:], tokens, strict=False):
            for sample in range(3):
                members = of_level.layout.children[sample][~coarse.hidden[sample]].unique().tolist()
                assert members == (~fine.hidden[sample]).nonzero()[:, 0].tolist()


def test_features_are_those_at_the_members_of_visible_groups():
    method, batch = built(), clouds()
    context = method.context(batch, generator=torch.Generator().manual_seed(0))
    mask = method.draw_mask(context)["point"]
    target = method.readouts["main"].objectives["image"].target
    values = target(context, "point", mask.query("visible@1")).values

    tokens, maps = levels(context.tokens["point"])[1], context.teacher_output("image")
    rows = mask.finer.visible
    for sample, place in ((0, 0), (2, 1)):
        group = rows.index[sample, place]
        points = tokens.layout.finer.coords[sample, tokens.layout.children[sample, group]]
        spread = points.expand(3, -1, -1)  # as if they were in every sample
        expected = maps.projection.at(maps.features, spread)[sample].flatten()
        assert torch.allclose(values[sample, place], expected, atol=1e-6)


def test_groups_of_another_size_than_the_target_are_refused():
    method = built()
    method.tokenizer.grouping = Grouping(method.tokenizer.grouping.groups, (6, 5, 3))
    with pytest.raises(UserError, match="members=4 must be 5"):
        method(clouds(), generator=torch.Generator().manual_seed(0))


def test_clouds_of_unlike_size_and_of_a_batch_of_one_train():
    points = [torch.randn(count, 3, generator=torch.Generator().manual_seed(count)) for count in (60, 80)]
    for cloud in (points, points[:1]):
        out = built()(Batch({"point": Clouds(cloud)}), generator=torch.Generator().manual_seed(0))
        assert torch.isfinite(out.loss) and set(out.terms) == {"points", "image"}


def image_run(folder, *settings: str, seed: int = 1) -> str:
    """The folder of an image encoder, as a run leaves it."""
    torch.manual_seed(seed)
    config = compose([*IMAGE, *settings])
    export_encoder(folder, build_method(config), config)
    return str(folder)


def test_a_teacher_of_more_channels_is_refused(tmp_path):
    source = image_run(tmp_path, "modality.channels=4")
    with pytest.raises(UserError, match=r"4 channels; depth views have 1, or 3.*modality.channels=3"):
        build_method(compose([*SMALL, f"method.teachers.image.source={source}"]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_run_of_grey_or_colour_pictures_teaches(channels, tmp_path):
    source = image_run(tmp_path, f"modality.channels={channels}")
    method = build_method(compose([*SMALL, f"method.teachers.image.source={source}"]))
    out = method(clouds(), generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(out.loss) and out.predictions["image"].shape[2] == 4 * 3 * 24


def test_a_run_records_the_hash_of_its_teacher_and_goes_on_with_no_other(tmp_path, capsys):
    source, run_dir = image_run(tmp_path / "image"), tmp_path / "run"
    run = [*RUN, f"method.teachers.image.source={source}", f"run_dir={run_dir}"]
    assert main([*run, "steps=2"]) == 0
    recorded = json.loads((run_dir / "teachers.json").read_text())
    assert list(recorded) == ["image"] and len(recorded["image"]) == 64
    assert f"weights {recorded['image'][:12]}" in capsys.readouterr().out

    assert main([*run, "steps=4"]) == 0
    image_run(tmp_path / "image", seed=9)
    capsys.readouterr()
    assert main([*run, "steps=6"]) == 2
    assert "method.teachers.image has other weights than at the start" in capsys.readouterr().err


def test_a_stopped_run_ends_with_the_same_weights(tmp_path):
    run = [*RUN, TEACHER]
    whole = train(*run, "steps=4", run_dir=str(tmp_path / "whole"))
    train(*run, "steps=2", run_dir=str(tmp_path / "parts"))
    parts = train(*run, "steps=4", run_dir=str(tmp_path / "parts"))
    ours, theirs = parts.encoder().state_dict(), whole.encoder().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
