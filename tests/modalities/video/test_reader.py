import tarfile

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from core import seeding
from core.data.folder import FolderSource
from core.data.reader import CachedReader
from core.data.sources import Item
from core.errors import BadSample, UserError
from modalities.video.formats.frames import FileVideo, MemoryVideo, Video
from modalities.video.reader import VideoClips, video_from_array
from modalities.video.transforms import CentreCrop, MultiScaleCrop, ResizedCrop
from modalities.video.world import VideoWorld
from tests.modalities.video.films import HEIGHT, WIDTH, film, numbers

WHOLE = (HEIGHT, WIDTH)


class Counting(Video):
    """Notes what it is asked for; every pixel of frame k is k."""

    def __init__(self, frames: int, fps: float | None = 25.0, side: int = 8):
        self.frames, self.fps, self.side, self.asked = frames, fps, side, []

    def _read(self, indices):
        self.asked.append(indices)
        return torch.tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(-1, self.side, self.side, 3)

    def close(self):
        pass


@pytest.fixture(scope="module")
def item(tmp_path_factory) -> Item:
    path = film(tmp_path_factory.mktemp("clips") / "a.mp4", 40)
    return Item("a.mp4", str(path))


def read(reader, item, train=True, seed=0):
    with seeding.seeded(seed):
        return reader.read(item, train)


def shown(clips: torch.Tensor) -> list[list[int]]:
    """Frame numbers of clips (R, C, T, HEIGHT, WIDTH)."""
    return [numbers(clip.permute(1, 2, 3, 0)) for clip in clips]


def frames_of(clips: torch.Tensor) -> list[list[int]]:
    return clips[:, 0, :, 0, 0].tolist()


def test_evaluation_takes_the_middle(item):
    reader = VideoClips((4, *WHOLE), stride=4, repeats=3)
    clips = read(reader, item, train=False)
    assert clips.shape == (1, 3, 4, *WHOLE) and clips.dtype == torch.uint8 and clips.is_contiguous()
    assert shown(clips) == [[12, 16, 20, 24]]
    assert (clips == read(reader, item, train=False, seed=1)).all()


def test_training_draws(item):
    reader = VideoClips((4, *WHOLE), stride=4, transform=[])
    drawn = [shown(read(reader, item, seed=seed))[0] for seed in range(20)]
    assert drawn == [shown(read(reader, item, seed=seed))[0] for seed in range(20)]
    starts = {clip[0] for clip in drawn}
    assert len(starts) > 8 and max(starts) <= 24
    assert all(clip == list(range(clip[0], clip[0] + 16, 4)) for clip in drawn)


def test_every_start_is_as_likely():
    reader = VideoClips((2, 8, 8), stride=3, transform=[])
    with seeding.seeded(0):
        starts = [reader.augment(Counting(10), True)[0, 0, 0, 0, 0].item() for _ in range(1000)]
    assert all(150 < count < 250 for count in np.bincount(starts, minlength=5)) and max(starts) == 4


def test_repeats_share_their_frames_but_not_their_crops():
    video = Counting(64, side=20)
    reader = VideoClips((4, 8, 8), stride=2, repeats=5)
    marked = torch.arange(20, dtype=torch.uint8).expand(20, 20)  # columns, so that crops show
    video._read = lambda indices: video.asked.append(indices) or marked[None, ..., None].expand(len(indices), -1, -1, 3)
    with seeding.seeded(0):
        clips = reader.augment(video, True)
    assert clips.shape == (5, 3, 4, 8, 8) and len(video.asked) == 1 and len(video.asked[0]) == 4
    assert len({tuple(clip[0, 0, 0].tolist()) for clip in clips}) > 1
    assert (clips == clips[:, :, :1]).all()  # one crop for the whole clip


def test_resampled_views_have_their_own_start_and_one_decode():
    video = Counting(200)
    reader = VideoClips((4, 8, 8), stride=4, target_fps=30, repeats=6, resample_time=True, transform=[])
    with seeding.seeded(0):
        clips = frames_of(reader.augment(video, True))
    assert len({clip[0] for clip in clips}) == 6 and len(video.asked) == 1
    assert video.asked[0] == sorted({frame for clip in clips for frame in clip})


def test_frame_rates():
    reader = VideoClips((4, 8, 8), stride=4, target_fps=30)
    assert frames_of(reader.augment(Counting(200, 30.0), False)) == [[92, 97, 102, 107]]
    assert frames_of(reader.augment(Counting(200, 60.0), False)) == [[84, 94, 104, 115]]
    with pytest.raises(BadSample, match="frame rate"):
        reader.augment(Counting(200, None), False)
    assert VideoClips((4, 8, 8)).augment(Counting(200, None), False).shape == (1, 3, 4, 8, 8)


def test_frame_rates_that_vary():
    """Frames by their time: every `stride` / `target_fps` seconds the one that is shown then."""
    video = Counting(30, 8.0)
    video.times = np.concatenate([np.arange(20) * 0.04, 0.8 + np.arange(10) * 0.4])
    reader = VideoClips((8, 8, 8), stride=5, target_fps=25)
    for position in (0.0, 0.3, 1.0):
        frames = reader.indices(video, position)
        start = video.times[frames[0]]
        for number, frame in enumerate(frames):
            assert video.times[frame] <= start + number * 0.2 + 0.4
        if position == 0:  # 0, 0.2, …, 1.4 s
            assert frames == [0, 5, 10, 15, 20, 20, 21, 21]
    # The video lasts for 30 mean intervals; the last point lies a step of 0.2 s before its end.
    end = 30 * video.times[-1] / 29 - 0.2
    assert reader.indices(video, 1.0)[-1] == np.searchsorted(video.times, end, side="right") - 1
    assert VideoClips((8, 8, 8), stride=2).indices(video, 0.0) == list(range(0, 16, 2))  # without a rate by number


def test_any_number_of_channels(tmp_path):
    for channels in (1, 2, 4, 13):
        clip = np.random.default_rng(0).integers(0, 256, (6, 8, 8, channels), dtype=np.uint8)
        np.save(tmp_path / "a.npy", clip)
        item, reader = Item("a.npy", str(tmp_path / "a.npy")), VideoClips((4, 8, 8), stride=1, channels=channels)
        expected = torch.from_numpy(clip[1:5]).permute(3, 0, 1, 2)
        assert torch.equal(reader.read(item, False)[0], expected)
        assert reader.read(item, True).shape == (1, channels, 4, 8, 8)
        assert reader.measure(item).channels == channels


def test_films_have_three_channels(item):
    with pytest.raises(BadSample, match=r"has 3 channels, but 4 are wanted: set modality.channels=3"):
        read(VideoClips((4, *WHOLE), channels=4), item)


def test_short_videos():
    given, free = VideoClips((8, 8, 8), stride=4), VideoClips((8, 8, 8))
    assert frames_of(given.augment(Counting(9), False)) == [[0, 4, 8, 8, 8, 8, 8, 8]]
    assert frames_of(free.augment(Counting(8), False)) == [list(range(8))]
    assert frames_of(free.augment(Counting(23), False)) == [[4, 6, 8, 10, 12, 14, 16, 18]]
    assert frames_of(free.augment(Counting(100), False)) == [list(range(34, 66, 4))]
    timed = VideoClips((8, 8, 8), target_fps=30)
    assert frames_of(timed.augment(Counting(8, 30.0), False)) == [list(range(8))]
    for reader in (given, free, timed):
        assert frames_of(reader.augment(Counting(1), True)) == [[0] * 8]


def test_sizes_and_channels(item):
    for size in ((2, 32, 48), (4, 50, 20), (1, 7, 7)):
        for train in (True, False):
            assert read(VideoClips(size, channels=1), item, train).shape == (1, 1, *size)
            assert read(VideoClips(size, transform=[ResizedCrop(size)]), item, train).shape == (1, 3, *size)
    grey = np.arange(12, dtype=np.uint8).reshape(3, 2, 2) * 20
    clips = VideoClips((3, 2, 2), channels=1).augment(video_from_array(grey), False)
    assert (clips[0, 0].numpy() == grey).all()


@pytest.mark.parametrize("kind", [MultiScaleCrop, ResizedCrop, v2.RandomHorizontalFlip, CentreCrop])
def test_transforms_treat_frames_alike(kind):
    sizes = {MultiScaleCrop: (4, 24, 40), ResizedCrop: (4, 24, 40), CentreCrop: (4, 9, 9)}
    transform = kind(sizes[kind]) if kind in sizes else kind()
    picture = torch.randint(0, 256, (1, 3, 30, 60), dtype=torch.uint8)
    clip = picture.expand(4, -1, -1, -1)
    with seeding.seeded(3):
        for _ in range(5):
            changed = transform(clip)
            assert changed.dtype == torch.uint8 and (changed == changed[:1]).all()


def test_multi_scale_crops_stay_inside():
    for size, shape in (((224, 224), (222, 500)), ((32, 96), (240, 320)), ((96, 32), (17, 20)), ((8, 8), (1, 1))):
        crop = MultiScaleCrop(size)
        for height, width in crop.pairs(*shape):
            assert 1 <= height <= shape[0] and 1 <= width <= shape[1]
        assert crop(torch.zeros(4, 3, *shape, dtype=torch.uint8)).shape == (4, 3, *size)
    assert (224, 224) in MultiScaleCrop((4, 224, 224)).pairs(225, 400)  # nearly the wanted size: not resampled
    assert MultiScaleCrop((4, 32, 64)).pairs(100, 100)[0] == (50, 100)


def test_short_videos_are_kept_whole_and_long_ones_are_not(item, monkeypatch):
    reader = VideoClips((4, *WHOLE), repeats=2)
    kept = reader.decode(item)
    assert isinstance(kept, MemoryVideo) and kept.nbytes == 40 * HEIGHT * WIDTH * 3
    monkeypatch.setattr("modalities.video.reader.MEMORY_BYTES", kept.nbytes - 1)
    stored = reader.decode(item)
    assert isinstance(stored, FileVideo) and stored.nbytes == 0 and stored.frames == 40
    for raw in (kept, stored):
        with seeding.seeded(5):
            assert (reader.augment(raw, True) == read(reader, item, seed=5)).all()


def test_cache(item):
    reader = VideoClips((4, *WHOLE))
    cached = CachedReader(reader, 64)
    for seed in range(3):
        assert (read(cached, item, seed=seed) == read(reader, item, seed=seed)).all()
    assert len(cached.cache) == 1


def test_archives(item, tmp_path):
    with tarfile.open(tmp_path / "films.tar", "w") as tar:
        for name in ("train/a.mp4", "test/a.mp4"):
            tar.add(item.path, name)
    reader = VideoClips((4, *WHOLE))
    [packed] = FolderSource(str(tmp_path / "films.tar"), reader.extensions).items("train")
    assert (read(reader, packed, False) == read(reader, item, False)).all()


def test_arrays(tmp_path):
    reader = VideoClips((2, 1, 1), stride=3)
    path = tmp_path / "clips.npy"
    np.save(path, np.arange(20, dtype=np.uint8).reshape(2, 10, 1, 1))
    clips = reader.read(Item("clips.npy#1", str(path), member="1"), False)
    assert clips.shape == (1, 3, 2, 1, 1) and clips[0, 2].flatten().tolist() == [12, 15]
    for wrong in (np.zeros((4, 4)), np.zeros((0, 2, 2), np.uint8), np.zeros((2, 5, 4, 4), np.uint8)):
        np.save(tmp_path / "wrong.npy", wrong)
        with pytest.raises(BadSample, match=r"an array of|has 4 channels, but 3 are wanted: set modality.channels=4"):
            reader.read(Item("wrong", str(tmp_path / "wrong.npy")), False)


def test_world(tmp_path):
    source = VideoWorld(str(tmp_path), train=8, test=8, size=32, frames=8)
    reader = VideoClips((8, 32, 32))
    for item in source.items("test"):
        assert (reader.read(item, False)[0] == source.clean(item.key)).all()
        objects = reader.objects(item)
        assert objects.dtype == torch.bool and (objects.numpy() == np.load(item.aux["object"])).all()
    item = source.items("test")[0]
    cut = VideoClips((4, 16, 24), stride=2)
    assert cut.objects(item).shape == (4, 16, 24) and cut.objects(Item("a", item.path)) is None
    np.save(tmp_path / "short.npy", np.ones((3, 32, 32), bool))
    with pytest.raises(BadSample, match="has 8 frames"):
        reader.objects(Item("a", item.path, aux={"object": str(tmp_path / "short.npy")}))


def test_bad_files(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 300)
    reader, item = VideoClips((4, 8, 8)), Item("bad.mp4", str(tmp_path / "bad.mp4"))
    with pytest.raises(BadSample, match="cannot open it"):
        reader.read(item, True)
    with pytest.raises(BadSample, match="cannot open it"):
        reader.decode(item)


@pytest.mark.parametrize(
    "settings",
    [{"size": (8, 8)}, {"size": (0, 8, 8)}, {"stride": 0}, {"target_fps": 0.0}, {"channels": 0}, {"repeats": 0}],
)
def test_settings_are_checked(settings):
    with pytest.raises(UserError, match=r"modality\.(size|channels|reader)"):
        VideoClips(**{"size": (4, 8, 8), **settings})


def test_transforms_must_keep_bytes():
    class Scale(nn.Module):
        def forward(self, clip):
            return clip / 255

    with pytest.raises(UserError, match="must stay uint8"):
        VideoClips((4, 8, 8), transform=[Scale()]).augment(Counting(20), True)
