"""Reading clouds: shapes, channels, plans, determinism, and clouds that cannot be used."""

import tracemalloc

import numpy as np
import pytest
import torch

from core.data.dataset import Samples
from core.data.facts import DataFacts
from core.data.loader import Loader
from core.data.memory import as_items
from core.data.reader import CachedReader
from core.data.sources import Item
from core.errors import BadSample, UserError
from core.train import main
from modalities.point.clouds import Clouds
from modalities.point.grouping import Grouping
from modalities.point.reader import PointClouds, distances, occupancy
from modalities.point.source import PointSource

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(300, 6)).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    """Writes an array and gives its item."""

    def save(array: np.ndarray, name: str = "a.npy") -> Item:
        np.save(tmp_path / name, array)
        return Item(name, str(tmp_path / name))

    return save


def test_a_sample(save):
    reader = PointClouds(points=64, channels=3, transform=[])
    sample = reader.read_views(save(POINTS), True)["point"]
    assert isinstance(sample, Clouds) and sample.points.shape == (1, 64, 3) and sample.points.dtype == torch.float32
    assert sample.plans == () and sample.points[0].norm(dim=1).max() == pytest.approx(1)
    assert reader.views == ("point",)


def test_the_whole_cloud_is_decoded_and_stays_unchanged(save):
    reader = PointClouds(points=64, channels=6)
    raw = reader.decode(save(POINTS))
    reader.augment(raw, True)
    assert raw.shape == (300, 6) and (raw == POINTS).all()


def test_augmentation_is_for_training(save):
    item, reader = save(POINTS), PointClouds(points=None)
    still = reader.read(item, False).points[0]
    assert torch.allclose(still.norm(dim=1).max(), torch.ones(()), atol=1e-6)
    moved = reader.read(item, True).points[0]
    # Scale, then shift, on each axis: one line for each.
    for axis in range(3):
        x, y = still[:, axis].double(), moved[:, axis].double()
        slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
        assert 2 / 3 <= slope <= 1.5 and abs(y.mean() - slope * x.mean()) <= 0.2
        assert torch.allclose(y, slope * x + (y.mean() - slope * x.mean()), atol=1e-5)


def test_plans_are_those_of_the_augmented_points(save):
    grouping = Grouping([16, 4], [8, 5])
    sample = PointClouds(points=128, channels=6, grouping=grouping).read(save(POINTS), True)
    expected = grouping(Clouds(sample.points))
    assert len(sample.plans) == 2 and sample.plans[0].members.shape == (1, 16, 8)
    for plan, other in zip(sample.plans, expected, strict=True):
        assert torch.equal(plan.centres, other.centres) and torch.equal(plan.members, other.members)


def test_batches_join_clouds_of_any_size(save):
    reader = PointClouds(points=128, grouping=Grouping([16], [8]))
    samples = [reader.read(save(POINTS[:count], f"{count}.npy"), True) for count in (300, 200, 50)]
    even, uneven = reader.collate(samples[:2]), reader.collate(samples)
    assert even.points.shape == (2, 128, 3) and even.plans[0].centres.shape == (2, 16)
    assert [len(cloud) for cloud in uneven] == [128, 128, 50] and uneven.plans[0].members.shape == (3, 16, 8)
    assert reader.raw_features(uneven, by_token=False).shape == (3, 512)
    assert reader.raw_features(uneven, by_token=True) is None


def test_occupancy_by_hand():
    """The corners of [-1, 1]³ are the first and last cell; a point outside counts for the nearest."""
    cloud = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [5, 5, 5], [-0.9, -0.9, 0.1]])
    shares = occupancy(cloud).view(8, 8, 8)
    assert shares[0, 0, 0] == 0.25 and shares[7, 7, 7] == 0.5 and shares[0, 0, 4] == 0.25 and shares.sum() == 1


def test_distances_by_hand():
    """Three points 1 and 3 apart: of three pairs one at 1, one at 3 and one at 2, which the last bin holds too."""
    line = torch.tensor([[-1.0, 0, 0, 9], [0, 0, 0, 9], [2, 0, 0, 9]])
    shares = distances(line)
    assert shares.shape == (64,) and shares[32] == pytest.approx(1 / 3) and shares[63] == pytest.approx(2 / 3)
    assert distances(torch.zeros(1, 3)).tolist() == [0] * 64


def test_distances_are_blind_to_rotation_and_to_the_number_of_points():
    generator = torch.Generator().manual_seed(0)
    cloud = torch.nn.functional.normalize(torch.randn(1500, 3, generator=generator), dim=1)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    torch.testing.assert_close(distances(cloud @ turn), distances(cloud), atol=2e-3, rtol=0)

    # Distances d on the unit sphere have the density d / 2.
    expected = torch.linspace(0, 2, 65).square().diff() / 4
    for part in (cloud, cloud[:700]):
        torch.testing.assert_close(distances(part), expected, atol=4e-3, rtol=0)


def test_the_floor_of_shapes69(data_dir):
    """Its README: cosine of 8³ occupancy, top-1 9.8 %, top-5 27.2 %, on coordinates as they are."""
    source, reader = PointSource(str(data_dir / "shapes69"), holdout=0), PointClouds(points=None, normalise=False)
    items = source.items("train")
    features = torch.cat([reader.raw_features(reader.read(item, False), False) for item in items])
    labels = torch.tensor([item.labels["label"] for item in items])
    cosine = torch.nn.functional.normalize(features, dim=1)
    order = (cosine @ cosine.T).fill_diagonal_(-1).argsort(1, descending=True)
    correct = labels[order] == labels[:, None]
    assert round(float(correct[:, 0].float().mean()) * 100, 1) == 9.8
    assert round(float(correct[:, :5].any(1).float().mean()) * 100, 1) == 27.2


def test_modelnet40_2class(data_dir):
    source = PointSource(str(data_dir / "modelnet40_2class"))
    assert (len(source.items("train")), len(source.items("test"))) == (406, 75)
    assert source.classes == {"label": ["airplane", "bathtub"]}
    assert PointClouds().read(source.items("test")[0], False).points.shape == (1, 1024, 3)
    with pytest.raises(UserError, match="lists names of clouds, which are not there"):
        PointSource(str(data_dir / "modelnet_lists")).items("train")


# Facts


def test_measure(save):
    facts = PointClouds(points=100).measure(save(POINTS))
    assert (facts.channels, facts.size) == (3, (300,))
    assert facts.notes == ("6 channels a point, of which modality.channels=3 are read",)
    facts = PointClouds(points=1024, channels=6).measure(save(POINTS))
    assert facts.channels == 6 and facts.notes == ("fewer points than modality.points=1024: all of them are read",)
    assert PointClouds(points=100, channels=6).measure(save(POINTS[:, :4])).channels == 4


@pytest.mark.parametrize(("points", "is_dense"), [(64, False), (None, True), (200, True), (128, False)])
def test_a_cloud_that_its_groups_do_not_cover(save, points, is_dense):
    """8 groups of 8 hold 64 of the points."""
    notes = PointClouds(points=points, channels=6, grouping=Grouping([8], [8])).measure(save(POINTS)).notes
    assert any("its groups hold less than half of the points" in note for note in notes) == is_dense


# Clouds that cannot be used


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (POINTS[:1], "holds 1 point: two or more are needed"),
        (POINTS[:10], "A cloud of 10 points has too few for modality.groups=16: set it to at most 10"),
        (POINTS[:20], "A cloud of 20 points has too few for modality.members=24: set it to at most 20"),
        (POINTS[:1].repeat(100, 0), "its points are all the same"),
        (POINTS[:5].repeat(20, 0), r"of its 100 points 5 are distinct, too few for 16 groups"),
        (np.where(POINTS > 2, np.nan, POINTS), "are not finite"),
        (np.where(POINTS > 2, -np.inf, POINTS).astype(np.float16), "are not finite"),
    ],
)
def test_bad_clouds(save, array, reason):
    with pytest.raises(BadSample, match=reason):
        PointClouds(points=128, grouping=Grouping([16], [24])).read(save(array), True)


def test_repeated_points_are_read(save):
    sample = PointClouds(points=100, grouping=Grouping([16], [24])).read(save(POINTS[:50].repeat(2, 0)), True)
    assert len(sample.plans[0].centres.unique()) == 16


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_other_types_of_numbers(save, dtype):
    points = PointClouds(points=None, channels=6, transform=[]).read(save((POINTS * 50).astype(dtype)), True).points
    assert points.dtype == torch.float32 and torch.isfinite(points).all()


def test_ten_million_points_in_bounded_memory(tmp_path):
    """A file of 120 MB, of which only the points that are drawn are held."""
    values = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.float32, (10_000_000, 3))
    values[:, 0] = np.arange(len(values))
    values.flush()
    del values

    item = Item("big.npy", str(tmp_path / "big.npy"))
    for sampling in ("random", "farthest"):
        reader = PointClouds(sampling=sampling, grouping=Grouping([64], [32]))
        tracemalloc.start()
        assert reader.read(item, True).points.shape == (1, 1024, 3)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 50 * 2**20


def test_channels_that_files_lack(save):
    reader = PointClouds(points=100, channels=6)
    for width in (3, 5):
        with pytest.raises(BadSample, match=rf"has {width} channels a point.*set modality.channels={width}"):
            reader.read(save(POINTS[:, :width]), True)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"points": 1}, "modality.points is 1"),
        ({"points": 0}, "modality.points is 0"),
        ({"channels": 2}, "modality.channels is 2"),
    ],
)
def test_settings_out_of_range(settings, reason):
    with pytest.raises(UserError, match=reason):
        PointClouds(**settings)


def folder_of_clouds(tmp_path, bad: int = 2):
    """Class folders of text files with unlike column counts, of which `bad` cannot be read."""
    for number in range(12):
        path = tmp_path / ("chair" if number % 2 else "table") / f"{number:02d}.txt"
        path.parent.mkdir(exist_ok=True)
        np.savetxt(path, POINTS[: 100 + number, : 3 + number % 4])
    for number in range(bad):
        (tmp_path / "chair" / f"bad{number}.txt").write_text("1 2 3\n4 5 six\n7 8 9\n")
    return PointSource(str(tmp_path), holdout=0)


def test_bad_clouds_in_a_folder_are_skipped_and_named(tmp_path):
    source = folder_of_clouds(tmp_path)
    samples = Samples(source.items("train"), PointClouds(points=64), seed=0)
    skipped, keys = [], []
    for epoch in range(2):
        views, names, labels, bad = samples.batch([(epoch, index) for index in range(len(samples))])
        assert views["point"].points.shape == (14, 64, 3) and set(labels["label"].tolist()) == {0, 1}
        keys += names
        skipped += bad
    assert len(keys) == 28 and {key for key, _ in skipped} == {"chair/bad0.txt", "chair/bad1.txt"}
    assert all("line 2 has 'six' for a number" in reason for _, reason in skipped)


def test_batches_do_not_depend_on_workers(tmp_path):
    source, batches = folder_of_clouds(tmp_path, bad=0), {}
    reader = PointClouds(points=64, grouping=Grouping([8], [8]))
    for workers in (0, 2):
        loader = Loader(Samples(source.items("train"), reader, seed=3), 6, seed=3, workers=workers)
        batches[workers] = [batch.views["point"] for batch, _ in zip(loader, range(3), strict=False)]
    for first, second in zip(batches[0], batches[2], strict=True):
        assert torch.equal(first.points, second.points)
        assert torch.equal(first.plans[0].members, second.plans[0].members)


def test_rows_of_hdf5_in_workers(tmp_path):
    """Opened in the process that starts them, and in each of them."""
    import h5py

    for split, count in (("train", 8), ("test", 4)):
        with h5py.File(tmp_path / f"{split}.h5", "w") as file:
            file.create_dataset("data", data=RNG.normal(size=(count, 100, 3)), compression="gzip")
            file["label"] = np.arange(count)
    source, batches = PointSource(str(tmp_path)), {}
    samples = Samples(source.items("train"), PointClouds(points=64), seed=3)
    samples.batch([(0, 0), (0, 1)])
    for workers in (0, 2):
        loader = Loader(samples, 4, seed=3, workers=workers)
        batches[workers] = [batch.views["point"].points for batch, _ in zip(loader, range(4), strict=False)]
    assert all(map(torch.equal, batches[0], batches[2]))


def test_clouds_in_memory_and_in_a_cache(save):
    reader = PointClouds(points=64, channels=6)
    (item,) = as_items([POINTS])
    assert reader.read(item, True).points.shape == (1, 64, 6)

    cache = CachedReader(reader, megabytes=1)
    for _ in range(2):
        torch.manual_seed(5)
        first = cache.read(save(POINTS), True).points
        torch.manual_seed(5)
        assert torch.equal(first, reader.read(save(POINTS), True).points)
    assert cache.free_bytes == 2**20 - POINTS.nbytes


def test_meshes_have_as_many_points_as_are_asked_for(tmp_path):
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n2 0 0\n0 1 0\n3 0 1 2\n")
    item = Item("a", str(tmp_path / "a.off"))
    assert len(PointClouds(points=1024).decode(item)) == 8192 and len(PointClouds(points=10_000).decode(item)) == 10_000


@pytest.mark.parametrize(
    "sizes, levels, expected",
    [
        ([256] * 3, ([64], [32]), {"modality.groups": [32], "modality.members": [16]}),
        ([16, 4, 20], ([64], [32]), {"modality.groups": [8], "modality.members": [4]}),
        ([256], ([128, 64, 32], [16, 8, 8]), {"modality.groups": [64, 32, 16], "modality.members": [8, 4, 4]}),
        ([1024, 5000], ([64], [32]), {}),
        ([], ([64], [32]), {}),
    ],
)
def test_small_clouds_get_fewer_and_smaller_groups(sizes, levels, expected):
    reader = PointClouds(points=1024, grouping=Grouping(*levels))
    facts = DataFacts(samples=len(sizes), channels=3, sizes=[(size,) for size in sizes])
    assert {setting.key: setting.value for setting in reader.defaults(facts)} == expected


def test_groups_that_are_given_stay(tmp_path, capsys):
    for split, count in {"train": 8, "test": 2}.items():
        (tmp_path / split).mkdir()
        for index in range(count):
            np.save(tmp_path / split / f"{index}.npy", np.random.default_rng(index).normal(size=(64, 3)))
    settings = ["modality=point", "data=folder", f"data.root={tmp_path}", "dry_run=true", f"run_dir={tmp_path}/run"]
    assert main(settings) == 0
    assert "modality.groups=[16]" in capsys.readouterr().out
    assert main([*settings, "modality.members=[4]"]) == 0
    assert "modality.groups=" not in capsys.readouterr().out
