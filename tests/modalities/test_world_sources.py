"""The generated world as files: what is in them, and that they survive kills, company and growth."""

import io
import multiprocessing
import os
import signal
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.world import cache as cache_module
from core.world.cache import Cache
from core.world.render import render
from modalities.image.world import ImageWorld
from modalities.video.world import VideoWorld, encode
from tests.waiting import ended, until

FORK = multiprocessing.get_context("fork")  # as the source makes its own workers
FORKS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def decode(content: bytes) -> np.ndarray:
    with av.open(io.BytesIO(content)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_images(tmp_path):
    source = ImageWorld(str(tmp_path), seed=1, train=16, test=8, size=32)
    train, test = source.items("train"), source.items("test")
    assert [item.key for item in train] == [f"train/{i:06d}" for i in range(16)]
    assert not {item.key for item in train} & {item.key for item in test}
    assert source.classes["shape"][0] == "sphere" and len(source.classes["shape"]) == 8 and len(source.classes) == 1
    assert sorted(item.labels["shape"] for item in train) == sorted(2 * list(range(8)))
    for item in test:
        picture, solid = render([source.scene(item.key)], [0.0], 32)
        assert (np.array(Image.open(io.BytesIO(item.open()))) == picture[0, 0]).all()
        assert (np.load(item.aux["object"]) == solid[0, 0]).all()
        assert source.scene(item.key).shape == item.labels["shape"]


def test_clips(tmp_path):
    source = VideoWorld(str(tmp_path), seed=0, train=8, test=8, size=32, frames=6)
    train, test = source.items("train"), source.items("test")
    assert list(source.classes) == ["shape", "motion"] and source.classes["motion"][7] == "swing"
    for name in source.classes:
        assert sorted(item.labels[name] for item in train) == list(range(8))
    for item in test:
        clip, clean = decode(item.open()), source.clean(item.key)
        assert clean.shape == (3, 6, 32, 32) and clean.dtype == torch.uint8
        assert (clip == clean.permute(1, 2, 3, 0).numpy()).all()  # the codec costs nothing
        solid = np.load(item.aux["object"])
        assert solid.shape == (6, 32, 32) and solid.dtype == bool and solid.any()


@pytest.mark.parametrize("shape", [(1, 64, 64, 3), (8, 64, 64, 3), (30, 48, 80, 3), (3, 33, 47, 3)])
def test_mp4_holds_exactly_the_frames(shape):
    clip = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    content = encode(clip)
    assert content == encode(clip)
    assert (decode(content) == clip).all()


def test_more_samples_keep_those_that_exist(tmp_path, monkeypatch):
    ImageWorld(str(tmp_path), 0, train=10, test=1, size=16).items("train")
    made = []
    make = ImageWorld.make
    monkeypatch.setattr(ImageWorld, "make", lambda self, scenes: made.extend(scenes) or make(self, scenes))
    source = ImageWorld(str(tmp_path), 0, train=25, test=1, size=16)
    items = source.items("train")
    assert len(items) == 25 and made == [source.scene(item.key) for item in items[10:]]
    source.items("train")
    ImageWorld(str(tmp_path), 0, train=5, test=1, size=16).items("train")
    assert len(made) == 15


def test_settings_have_folders_of_their_own(tmp_path):
    sources = [ImageWorld(str(tmp_path), seed, 1, 1, size) for seed in (0, 1) for size in (16, 32)]
    sources += [VideoWorld(str(tmp_path), 0, 1, 1, 16, frames) for frames in (2, 3)]
    assert len({source.folder for source in sources}) == 6
    assert ImageWorld(str(tmp_path), 0, 9, 9, 16).folder == sources[0].folder


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path))
    assert ImageWorld().folder.parent == tmp_path / "world"
    monkeypatch.delenv("LACUNA_CACHE")
    assert ImageWorld().folder.parent == Path.home() / ".cache/lacuna/world"


@FORKS
def test_killed_half_way_it_continues(tmp_path):
    source = ImageWorld(str(tmp_path), 0, train=2000, test=1, size=16)
    folder = source.folder / "train"
    reader, writer = os.pipe()
    child = FORK.Process(target=source.items, args=("train",))
    child.start()
    os.close(writer)
    until(lambda: folder.is_dir() and len(os.listdir(folder)) >= 50, child)
    child.kill()
    ended(child)
    assert os.read(reader, 1) == b""  # the end of its last worker, which held the other end of the pipe as well
    os.close(reader)
    before = contents(folder)
    assert 50 <= len(before) < 2000
    small = ImageWorld(str(tmp_path), 0, train=400, test=1, size=16)
    small.items("train")
    after = contents(folder)
    assert len([name for name in after if not name.startswith(".") and name < "000400"]) == 400
    assert all(after[name] == content for name, content in before.items())
    for item in small.items("train")[::20]:
        picture, _ = render([small.scene(item.key)], [0.0], 16)
        assert (np.array(Image.open(item.path)) == picture[0, 0]).all()


@FORKS
def test_two_processes_at_once(tmp_path):
    source = ImageWorld(str(tmp_path / "both"), 0, train=1, test=160, size=16)
    source.chunk_size = 16
    child = FORK.Process(target=source.items, args=("test",))
    child.start()
    source.items("test")
    assert ended(child) == [0]
    alone = ImageWorld(str(tmp_path / "alone"), 0, train=1, test=160, size=16)
    alone.items("test")
    assert contents(source.folder / "test") == contents(alone.folder / "test")
    assert len(contents(source.folder / "test")) == 320


def test_empty_and_half_written_files_are_made_again(tmp_path):
    source = ImageWorld(str(tmp_path), 0, train=1, test=4, size=16)
    first = source.items("test")
    whole = contents(source.folder / "test")
    Path(first[1].path).write_bytes(b"")
    Path(first[2].aux["object"]).unlink()
    stale = source.folder / "test" / ".000003.png.1.part"
    stale.write_bytes(b"half")
    os.utime(stale, (0, 0))
    source.items("test")
    assert contents(source.folder / "test") == whole


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot keep generated samples in .*file.*data\.source\.root.*LACUNA_CACHE"):
        ImageWorld(str(tmp_path / "file"), 0, 2, 2).items("train")


def test_full_disk_is_told_from_a_worker(tmp_path, monkeypatch):
    def full(path, content, durable):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "write_atomic", full)
    with pytest.raises(UserError, match="No space left on device"):
        ImageWorld(str(tmp_path), 0, 300, 2, size=16).items("train")


@FORKS
def test_a_killed_worker_is_an_error(tmp_path):
    def die(indices):
        os.kill(os.getpid(), signal.SIGKILL)

    samples = Cache(tmp_path, [".png"])
    if len(os.sched_getaffinity(0)) > 1:  # else it is this process that would die
        with pytest.raises(RuntimeError, match="killed"):
            samples.fill(20, die, chunk_size=5)


@pytest.mark.parametrize("setting", [{"train": 0}, {"test": -1}, {"size": 4}, {"seed": -1}, {"size": 8.5}])
def test_wrong_settings_are_named(setting):
    with pytest.raises(UserError, match=rf"data\.source\.{next(iter(setting))} is"):
        ImageWorld(**setting)
