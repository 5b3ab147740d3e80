"""Folders of numbered pictures as samples."""

import pytest

from core.data.clips import ClipFolders, has_gaps, number
from core.data.folder import FolderSource
from core.errors import UserError

PICTURES = (".jpg", ".png")


def fill(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def source(root, **settings) -> FolderSource:
    return FolderSource(str(root), (".mp4",), frame_extensions=PICTURES, **settings)


def keys(source) -> set[str]:
    items = [*source.items("train"), *source.items("test")]
    assert all(item.path.endswith(item.key) for item in items)
    return {item.key for item in items}


@pytest.mark.parametrize("form", ["{:05d}.jpg", "frame{}.png", "img_{:03d}_rgb.jpg", "2024-{:d}.jpg"])
def test_a_folder_of_numbered_pictures_is_one_sample(tmp_path, form):
    for label in ("run", "walk"):
        for clip in ("c1", "c2", "c3"):
            fill(tmp_path / label / clip, [form.format(k) for k in range(8, 13)])
    (tmp_path / "notes.md").write_text("x")

    data = source(tmp_path)
    assert keys(data) == {f"{label}/c{k}" for label in ("run", "walk") for k in (1, 2, 3)}
    assert data.classes == {"label": ["run", "walk"]}
    assert "folders of numbered pictures are read as one clip each: 6" in data.account().notes


def test_films_go_before_pictures(tmp_path):
    fill(tmp_path / "a", ["1.jpg", "2.jpg"])
    fill(tmp_path, ["x.mp4", "y.mp4"])
    data = source(tmp_path)
    assert keys(data) == {"x.mp4", "y.mp4"}
    [passed_over] = data.account().passed_over
    assert (passed_over.kind, passed_over.count) == (".jpg", 2)


def test_the_root_may_be_a_clip(tmp_path):
    fill(tmp_path / "film", ["1.jpg", "2.jpg"])
    assert [item.key for item in source(tmp_path / "film").items("train")] == ["film"]


def test_other_folders_are_passed_over_and_counted(tmp_path):
    fill(tmp_path / "a", ["1.jpg", "2.jpg", "4.jpg"])
    fill(tmp_path / "b", ["1.jpg", "2.jpg"])
    fill(tmp_path / "single", ["1.jpg"])
    fill(tmp_path / "unnumbered", ["cat.jpg", "dog.jpg", "1.jpg"])
    fill(tmp_path / "twice", ["a_1.jpg", "b_1.jpg"])
    data = source(tmp_path)
    assert keys(data) == {"a", "b"}
    account = data.account()
    assert [(group.kind, group.count) for group in account.passed_over] == [(".jpg", 6)]
    assert any("1 lack pictures by their numbers" in note for note in account.notes)


def test_lists_name_clips(tmp_path):
    for clip in ("a", "b", "c", "d"):
        fill(tmp_path / "frames" / clip, ["1.jpg", "2.jpg", "3.jpg"])
    (tmp_path / "train.csv").write_text("path,label\nframes/a,0\nframes/b,1\n")
    (tmp_path / "val.csv").write_text("path,label\nframes/c,1\n")
    data = source(tmp_path)
    assert [item.key for item in data.items("train")] == ["frames/a", "frames/b"]
    assert [item.labels for item in data.items("test")] == [{"label": 1}]
    assert any(group.reason == "in no list" and group.count == 1 for group in data.account().passed_over)


def test_modalities_without_frames_pass_pictures_over(tmp_path):
    fill(tmp_path / "a", ["1.jpg", "2.jpg"])
    with pytest.raises(UserError, match=r"holds no sample.*found: 2 \.jpg"):
        FolderSource(str(tmp_path), (".mp4",)).items("train")
    assert str(tmp_path / "a") not in ClipFolders() and str(tmp_path / "a") in ClipFolders(PICTURES)


def test_numbers():
    assert number("clip12_0034.jpg") == 34 and number("img_007_rgb.png") == 7 and number("cat.jpg") is None
    assert not has_gaps([1, 2, 3]) and not has_gaps([0, 5, 10]) and has_gaps([1, 2, 4])
