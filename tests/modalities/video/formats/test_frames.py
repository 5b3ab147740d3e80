"""Parts of videos, and folders of pictures as videos."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.sources import Item, Part
from core.errors import BadSample
from modalities.image.formats import files
from modalities.video.formats.folder import FrameFolder
from modalities.video.formats.frames import MemoryVideo, cut
from modalities.video.reader import VideoClips


def video(frames: int = 20, fps: float | None = 10.0, times=None) -> MemoryVideo:
    pictures = torch.arange(frames, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 2, 3)
    return MemoryVideo(pictures, fps, times)


def shown(part: Part, **settings) -> list[int]:
    piece = cut(video(**settings), part)
    return piece.get(range(piece.frames))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("part", "frames"),
    [
        (Part(0.5, 1.0, "seconds"), range(5, 10)),
        (Part(0.45, 1.05, "seconds"), range(5, 11)),
        (Part(1.7, None, "seconds"), range(17, 20)),
        (Part(1.7, 99.0, "seconds"), range(17, 20)),
        (Part(3, 7, "frames"), range(3, 7)),
        (Part(0, None, "frames"), range(20)),
    ],
)
def test_parts(part, frames):
    assert shown(part) == list(frames)


def test_parts_by_time_stamps():
    times = np.array([0, 0.1, 0.2, 1.2, 2.2, 2.3])
    assert shown(Part(0.2, 2.2, "seconds"), frames=6, times=times) == [2, 3]
    piece = cut(video(6, times=times), Part(0.2, None, "seconds"))
    assert piece.times == pytest.approx([0, 1, 2, 2.1])


def test_parts_that_hold_nothing():
    for part in (Part(2.0, 3.0, "seconds"), Part(30, 40, "frames"), Part(0.51, 0.55, "seconds")):
        with pytest.raises(BadSample, match=f"the part {part} holds none of its 20 frames"):
            cut(video(), part)
    with pytest.raises(BadSample, match="frame rate is not known"):
        cut(video(fps=None), Part(0, 1, "seconds"))


def test_the_reader_cuts_parts(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(20, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2))
    item = Item("a.npy@4-12f", str(tmp_path / "a.npy"), part=Part(4, 12, "frames"))
    reader = VideoClips((4, 8, 8), stride=2)
    assert reader.read(item, False)[0, 0, :, 0, 0].tolist() == [4, 6, 8, 10]
    assert reader.decode(item).frames == 8 and reader.measure(item).size == (8, 8, 8)


@pytest.fixture
def put(tmp_path):
    """Writes pictures of one value each into a folder."""

    def put(values, form="{:d}.png", mode="L", size=(6, 4)):
        for number, value in values.items():
            colour = value if isinstance(value, int) else tuple(value)
            Image.new(mode, size, colour).save(tmp_path / form.format(number))
        return tmp_path

    return put


def test_pictures_come_in_the_order_of_their_numbers(put):
    folder = put({number: number for number in (1, 2, 9, 10, 11, 100)})
    frames = FrameFolder(folder, files.extensions())
    assert frames.frames == 6 and frames.fps is None
    assert frames.get(range(6))[:, 0, 0, 0].tolist() == [1, 2, 9, 10, 11, 100]
    assert frames.get([4, 1]).shape == (2, 4, 6, 1)


def test_kinds_of_pictures_in_a_folder(put):
    folder = put({1: 50}, "{:d}.jpg")
    put({2: (10, 20, 30)}, mode="RGB")
    put({3: (10, 20, 30, 0)}, mode="RGBA")
    pictures = FrameFolder(folder, files.extensions()).get(range(3))
    assert pictures[:, 0, 0].tolist() == [[50] * 3, [10, 20, 30], [0, 0, 0]]
    assert VideoClips((3, 4, 6), stride=1).read(Item("a", str(folder)), False).shape == (1, 3, 3, 4, 6)


def test_opacity_is_a_channel_where_there_are_four(put):
    folder = put({1: (10, 20, 30, 40), 2: (11, 21, 31, 41)}, mode="RGBA")
    clip = VideoClips((2, 4, 6), stride=1, channels=4).read(Item("a", str(folder)), False)
    assert clip[0, :, 0, 0, 0].tolist() == [10, 20, 30, 40]


def test_folders_that_are_no_clips(put, tmp_path):
    folder = put({1: 1, 2: 2})
    put({3: 3}, size=(8, 8))
    with pytest.raises(BadSample, match="different shapes"):
        FrameFolder(folder, files.extensions()).get([0, 2])
    (folder / "2.png").write_bytes(b"no picture")
    with pytest.raises(BadSample, match=r"2\.png is no readable image"):
        FrameFolder(folder, files.extensions()).get([1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSample, match="without pictures"):
        FrameFolder(tmp_path / "empty", files.extensions())


def test_grey_films_are_recognised(put):
    folder = put({number: number * 9 for number in range(8)})
    facts = VideoClips((2, 4, 6)).peek([Item("a", str(folder))])
    assert facts.channels == 1 and facts.sizes == [(8, 4, 6)]
    put({4: (1, 2, 3)}, mode="RGB")
    assert VideoClips((2, 4, 6)).peek([Item("a", str(folder))]).channels == 3
