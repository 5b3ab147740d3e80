"""Real data sets as users have them: `data.root` is the folder that was downloaded."""

import pytest
import torch

from core.data.dataset import Samples
from core.data.folder import FolderSource
from core.data.loader import Loader, evaluation_batches
from modalities.image.reader import ImageReader

VIDEOS = (".mp4", ".avi")
LAYOUTS = {  # root: (extensions, train, test, classes); None: a fraction, not counted
    "cifar10": (ImageReader.extensions, 50000, 5000, 10),
    "eurosat_rgb": (ImageReader.extensions, 3000, 1000, 10),
    "clothing_small": (ImageReader.extensions, 1817, 341, 10),
    "chest_xray": (ImageReader.extensions, 786, 113, 3),
    "fashion_mnist": (ImageReader.extensions, 20000, 5000, 10),
    "imagenet_sample": (ImageReader.extensions, None, 600, 999),  # official numbers of 600 of the classes
    "eurosat_rgb/eurosat-test-a.tar.gz": (ImageReader.extensions, None, 1000, 10),
    "imagenet_sample/*-000.tar": (ImageReader.extensions, None, 300, 997),
    "fight_surv": (VIDEOS, 170, 50, 2),
    "fight_surv/clips.csv": (VIDEOS, 170, 50, 2),
    "weizmann4": (VIDEOS, None, 28, 4),
    "modelnet40_2class": ((".npz",), 406, 75, 2),
    "shapes69": ((".npz",), None, 92, 46),
}


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACUNA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("root", LAYOUTS)
def test_layouts(data_dir, root):
    extensions, train, test, classes = LAYOUTS[root]
    source = FolderSource(str(data_dir / root), extensions)
    counts = len(source.items("train")), len(source.items("test"))
    if train is None:
        assert sum(counts) == test and counts[0] > counts[1] > 0
    else:
        assert counts == (train, test)
    assert len(source.classes["label"]) == classes
    for item in (source.items("train")[-1], source.items("test")[0]):
        assert item.labels and item.open()


def test_scenes_do_not_cross_the_split(data_dir):
    source = FolderSource(str(data_dir / "weizmann4"), VIDEOS)
    train, test = ({item.group for item in source.items(split)} for split in ("train", "test"))
    assert train and test and not train & test


@pytest.mark.parametrize("root", ["eurosat_rgb", "fashion_mnist", "clothing_small", "chest_xray", "imagenet_sample"])
def test_images_train_and_evaluate(data_dir, root):
    reader = ImageReader((40, 32))
    source = FolderSource(str(data_dir / root), reader.extensions)
    batch = next(iter(Loader(Samples(source.items("train"), reader, 0), 32, 0, workers=1)))
    assert batch.views["image"].shape == (32, 3, 40, 32) and batch.views["image"].dtype == torch.uint8
    assert not batch.skipped and batch.labels["label"].min() >= 0
    seen = list(evaluation_batches(source.items("test")[:50], reader, 32, workers=0))
    assert sum(len(part.keys) for part in seen) == 50 and not any(part.skipped for part in seen)


def test_sixteen_bit_depth_is_read(data_dir):
    source = FolderSource(str(data_dir / "rgbd_7scenes" / "*.depth.png"), ImageReader.extensions)
    depth = ImageReader(64, channels=1, white=4000).read(source.items("test")[0], train=False)
    assert depth.shape == (1, 1, 64, 64) and 20 < depth.float().mean() < 235
