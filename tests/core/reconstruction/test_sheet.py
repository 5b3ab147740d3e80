"""A user's own samples as pictures: input, mask and reconstruction, with the skill of each sample."""

import io
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import core
from core import open_run, reconstruct
from core.reconstruction.pictures import COVER, Panel, encode
from core.reconstruction.sheet import SampleSkill, Sheet, draw_sheet
from core.tokens import Batch


@pytest.fixture
def files(photo_run):
    return sorted((photo_run / "photos" / "test").rglob("*.png"))


def read_picture(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).copy()


def pixels_of(raster) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(raster.data)).convert("RGB"))


def grey(raster) -> np.ndarray:
    """(H, W) bool: pixels in the colour of hidden cells."""
    return (pixels_of(raster) == round(255 * COVER[0])).all(-1)


def test_a_file_is_shown_masked_and_reconstructed(photo_run, files):
    sheet = draw_sheet([photo_run / "run"], [files[0]])
    (panel,) = sheet.panels
    assert [raster.label for raster in panel.rasters] == ["input", "masked", "interpolation", "reconstruction"]
    assert panel.title == f"{files[0]} · skill {sheet.skills[0].skill:.3f}"

    original = read_picture(files[0])
    shown, masked, _, reconstruction = map(pixels_of, panel.rasters)
    hidden = grey(panel.rasters[1])
    assert (shown == original).all() and hidden.mean() == 0.75
    assert (masked[~hidden] == original[~hidden]).all() and (reconstruction[~hidden] == original[~hidden]).all()
    assert (reconstruction[hidden] != original[hidden]).any()


def test_a_sheet_prints_its_skills_without_the_pictures(photo_run, files):
    text = repr(draw_sheet([photo_run / "run"], files))
    assert "skill=" in text and "RIFF" not in text and len(text) < 5000


def test_the_error_is_the_loss_of_the_sample(photo_run, files):
    """The method's own loss under the same mask; zero, as an answer to standardised patches, has the error 1 − 1/P."""
    (skill,) = draw_sheet([photo_run / "run"], [files[0]], seed=3).skills
    method = open_run(photo_run / "run").method().eval()
    batch = Batch({"image": torch.from_numpy(read_picture(files[0])).permute(2, 0, 1)[None]})
    with torch.no_grad():
        ctx = method.context(batch, generator=torch.Generator().manual_seed(3))
        loss = method(batch, masks=method.draw_mask(ctx)).loss
    assert skill.error == pytest.approx(float(loss), rel=1e-5)
    assert skill.skill <= 1 - skill.error / (1 - 1 / 48) + 1e-3 and skill.objective == "pixels"


def test_a_picture_depends_on_its_file_and_seed_alone(photo_run, files):
    single = draw_sheet([photo_run / "run"], [files[1]]).panels[0].rasters
    assert draw_sheet([photo_run / "run"], files[:3]).panels[1].rasters == single
    assert draw_sheet([photo_run / "run"], [files[1]], seed=1).panels[0].rasters[1] != single[1]


def test_the_share_to_hide(photo_run, files):
    (panel,) = draw_sheet([photo_run / "run"], [files[0]], ratio=0.5).panels
    assert grey(panel.rasters[1]).mean() == 0.5


def test_several_runs_share_what_is_equal(photo_run, files, tmp_path):
    other = shutil.copytree(photo_run / "run", tmp_path / "other")
    assert core.train(f"config={photo_run / 'run' / 'config.yaml'}", seed=5, run_dir=str(tmp_path / "x"))
    sheet = draw_sheet([photo_run / "run", tmp_path / "x"], [files[0]])
    labels = [raster.label for raster in sheet.panels[0].rasters]
    assert labels[:3] == ["input", "masked", "interpolation"] and len(labels) == 5
    assert labels[3].startswith("reconstruction, ") and labels[3].endswith("run") and labels[4].endswith("x")
    assert sheet.panels[0].title.count(".") >= 3 and [skill.run[-3:] for skill in sheet.skills] == ["run", "0/x"]

    assert len(draw_sheet([photo_run / "run", other], [files[0]]).panels[0].rasters) == 4


def test_the_command_writes_and_says_where(photo_run, files, tmp_path, capsys):
    bad = tmp_path / "[1] bad.png"
    bad.write_bytes(b"no picture")
    argv = [f"run={photo_run / 'run'}", f"file=[{files[0]},'{bad}']"]
    assert reconstruct.main(argv) == 0
    lines = capsys.readouterr().out
    path = photo_run / "run" / "reconstructions" / f"{files[0].stem}.png"
    assert f"Wrote {path}" in lines and f"skipped {bad}: " in lines and f"{files[0]}: pixels by " in lines
    with Image.open(path) as page:
        assert page.size[0] > 4 * 160

    assert reconstruct.main([*argv, f"out={tmp_path / 'new' / 'a.png'}"]) == 0
    assert (tmp_path / "new" / "a.png").exists()


def test_a_folder_shows_a_few_of_its_samples(photo_run):
    sheet = draw_sheet([photo_run / "run"], [photo_run / "photos"], seed=1)
    assert len(sheet.panels) + len(sheet.skipped) == 8
    assert any("8 of 17 samples" in note for note in sheet.notes)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Give run= and file="),
        (["file=nowhere.png"], "file: nowhere.png does not exist"),
        (["file={bad}"], "file: the only sample could not be used"),
        (["file={good}", "ratio=1.5"], "ratio"),
        (["file={good}", "out=x.jpg"], "written as .png"),
        (["file={good}", "sed=1"], "Did you mean seed"),
        (["file={good}", "device=gpu"], "device=gpu"),
    ],
)
def test_mistakes_are_one_message(photo_run, files, tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    paths = {"good": files[0], "bad": photo_run / "photos" / "train" / "class1" / "bad.png"}
    words = [word.format(**paths) for word in argv]
    assert reconstruct.main([f"run={photo_run / 'run'}", *words]) == 2
    assert message in capsys.readouterr().err


def test_runs_of_two_modalities_make_no_sheet(photo_run, graph_run, files, capsys):
    assert reconstruct.main([f"run=[{photo_run / 'run'},{graph_run / 'run'}]", f"file={files[0]}"]) == 2
    assert "one modality" in capsys.readouterr().err


def test_graphs_are_line_drawings(graph_run, tmp_path):
    edges = np.array([[0, 1, 2, 3], [1, 2, 3, 0]])
    for name in ("a<&>b", "c"):
        np.savez(tmp_path / f"{name}.npz", x=np.eye(4, 3, dtype=np.float32), edge_index=edges)
    names = sorted(tmp_path.glob("*.npz"))
    sheet = core.reconstruct(open_run(graph_run / "run"), names, ratio=0.5)

    assert sheet.suffix == ".svg" and sheet._repr_png_() is None
    (path,) = sheet.save(tmp_path / "sheet.svg")
    page = ElementTree.parse(path).getroot()
    texts = [element.text for element in page.iter("{http://www.w3.org/2000/svg}text")]
    assert any("a<&>b.npz" in text for text in texts)
    assert len(list(page.iter("{http://www.w3.org/2000/svg}circle"))) == 2 * 3 * 4  # samples, pictures, nodes


def test_moving_pictures_lie_beside_the_sheet(tmp_path):
    frames = torch.rand(3, 8, 8, 3)
    rasters = [encode(frames[:1], "input", "a", exact=True), encode(frames, "moving", "b", exact=True, milliseconds=9)]
    skill = SampleSkill(run="r", key="k", objective="pixels", skill=None)
    sheet = Sheet(panels=[Panel("clip", rasters, "rows")], skills=[skill], notes=[], skipped=[])

    paths = sheet.save(tmp_path / "clip.png")
    assert [path.name for path in paths] == ["clip.png", "clip_1.webp"]
    with Image.open(paths[1]) as moving, Image.open(paths[0]) as page:
        assert moving.n_frames == 3
        shown = np.asarray(page)
    enlarged = np.kron(pixels_of(rasters[0]), np.ones((8, 8, 1), dtype=np.uint8))  # 8 pixels become 64
    assert (shown[56:120, 12:76] == enlarged).all()
