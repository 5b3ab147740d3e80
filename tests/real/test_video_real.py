"""Every real clip decodes, and its frames are those that decoding from the start gives."""

import csv
from pathlib import Path

import av
import numpy as np
import pytest

from core import seeding
from core.data.folder import FolderSource
from core.data.loader import evaluation_batches
from modalities.video.formats.decoder import open_video
from modalities.video.reader import VideoClips

SETS = {"weizmann4": 28, "fight_surv": 220, "clips_misc": 2}


def clips(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".avi"))
    assert len(found) == SETS[folder.name]
    return found


@pytest.mark.parametrize("name", SETS)
def test_all_clips_decode(data_dir, name, capfd):
    reader = VideoClips((16, 112, 112), stride=4)
    for path in clips(data_dir / name):
        with open_video(path) as video, seeding.seeded(0):
            assert reader.augment(video, train=True).shape == (1, 3, 16, 112, 112)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["weizmann4", "fight_surv"])
def test_lengths(data_dir, name):
    for row in csv.DictReader((data_dir / name / "clips.csv").read_text().splitlines()):
        with open_video(data_dir / name / row["file"]) as video:
            assert video.frames == int(row["frames"])
            assert video.fps == pytest.approx(float(row.get("fps") or 25))


@pytest.mark.parametrize("name", SETS)
def test_frames_are_exact(data_dir, name):
    for path in clips(data_dir / name)[:8]:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        draw = np.random.default_rng(0)
        with open_video(path) as video:
            assert video.frames == len(frames)
            for _ in range(3):
                wanted = draw.integers(0, len(frames), 4).tolist()
                assert (video.get(wanted).numpy() == np.stack([frames[i] for i in wanted])).all()


def test_batches(data_dir):
    reader = VideoClips((8, 64, 64))
    items = FolderSource(str(data_dir / "weizmann4"), reader.extensions).items("test")
    batches = list(evaluation_batches(items, reader, batch_size=8, workers=0))
    assert sum(len(batch.keys) for batch in batches) == len(items) and not any(batch.skipped for batch in batches)
    assert batches[0].views["video"].shape[1:] == (3, 8, 64, 64)
