"""Published data sets as they are downloaded, and folders that are like them: which clouds, splits and classes."""

import h5py
import numpy as np
import pytest

from core.errors import UserError
from modalities.point.reader import PointClouds
from modalities.point.source import PointSource

RNG = np.random.default_rng(0)


def cloud(rows: int = 40, columns: int = 3) -> np.ndarray:
    return RNG.normal(size=(rows, columns)).astype(np.float32)


def write_rows(path, rows: int = 40, columns: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, cloud(rows, columns), delimiter=",", fmt="%.5f")


def write_h5(path, count: int, labels, **arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data"] = RNG.normal(size=(count, 40, 3)).astype(np.float32)
        file["label"] = labels
        for name, values in arrays.items():
            file[name] = values


def keys(source: PointSource, split: str) -> list[str]:
    return [item.key for item in source.items(split)]


def label_names(source: PointSource, split: str) -> list[str]:
    return [source.classes["label"][item.labels["label"]] for item in source.items(split)]


def shapenet(root, lists: str = "ShapeNet-55", ending: str = ".npy", line_end: str = "\n"):
    (root / "shapenet_pc").mkdir(parents=True)
    names = ["02691156-a1", "02691156-b2", "03001627-c3", "03001627-d4", "04379243-e5"]
    for name in names:
        np.save(root / "shapenet_pc" / f"{name}.npy", cloud())
    (root / lists).mkdir(exist_ok=True)
    for split, part in (("train", names[:3]), ("test", names[3:])):
        (root / lists / f"{split}.txt").write_bytes("".join(f"{n}{ending}{line_end}" for n in part).encode())
    return root


@pytest.mark.parametrize(
    ("lists", "ending", "line_end"),
    [("ShapeNet-55", ".npy", "\n"), ("ShapeNet-55", ".npy", "\r\n"), ("lists", "", "\n\n"), (".", ".npy", "\n")],
)
def test_shapenet(tmp_path, lists, ending, line_end):
    source = PointSource(str(shapenet(tmp_path, lists, ending, line_end)))
    assert [key.removeprefix("shapenet_pc/") for key in keys(source, "train")] == [
        "02691156-a1.npy",
        "02691156-b2.npy",
        "03001627-c3.npy",
    ]
    assert label_names(source, "test") == ["03001627", "04379243"]
    assert PointClouds().read(source.items("train")[0], True).points.shape == (1, 40, 3)
    assert source.account().samples == {"train": 3, "test": 2} and not source.split_is_drawn


def test_the_larger_of_two_sets_of_lists(tmp_path):
    """ShapeNet-34 names a part of ShapeNet-55."""
    shapenet(tmp_path)
    (tmp_path / "ShapeNet-34").mkdir()
    (tmp_path / "ShapeNet-34/train.txt").write_text("02691156-a1.npy\n")
    source = PointSource(str(tmp_path))
    assert len(keys(source, "train")) == 3 and "ShapeNet-55" in source.account().split_by


def modelnet(root, classes=("airplane", "night_stand", "xbox")):
    names = {"train": [], "test": []}
    for name in classes:
        for number, split in enumerate(("train", "train", "test"), 1):
            write_rows(root / name / f"{name}_{number:04d}.txt")
            names[split].append(f"{name}_{number:04d}")
    for split, part in names.items():
        (root / f"modelnet40_{split}.txt").write_text("\n".join(part))
    (root / "modelnet40_shape_names.txt").write_text("\n".join(classes))
    (root / "filelist.txt").write_text("airplane/airplane_0001.txt\n")
    return root


@pytest.mark.parametrize("above", ["", "modelnet40_normal_resampled"])
def test_modelnet_resampled(tmp_path, above):
    modelnet(tmp_path / above)
    source = PointSource(str(tmp_path / above))
    assert keys(source, "test") == [
        "airplane/airplane_0003.txt",
        "night_stand/night_stand_0003.txt",
        "xbox/xbox_0003.txt",
    ]
    assert len(keys(source, "train")) == 6
    assert source.classes == {"label": ["airplane", "night_stand", "xbox"]}
    assert label_names(source, "test") == ["airplane", "night_stand", "xbox"]
    facts = PointClouds().peek(source.items("train"))
    assert facts.channels == 3 and facts.notes["6 channels a point, of which modality.channels=3 are read"] == 6
    assert PointClouds(channels=6).read(source.items("train")[0], False).points.shape == (1, 40, 6)


def test_many_class_folders(tmp_path):
    """More than core looks into for listed files: ModelNet40 has forty."""
    modelnet(tmp_path, [f"class{letter}" for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP"])
    source = PointSource(str(tmp_path))
    assert len(source.classes["label"]) == 42 and len(keys(source, "train")) == 84


def test_a_list_that_names_missing_clouds(tmp_path):
    root = modelnet(tmp_path)
    with (root / "modelnet40_train.txt").open("a") as file:
        file.write("\nxbox_0099\nxbox_0100")
    (root / "xbox/xbox_0050.txt").write_text("1 2 3\n4 5 6\n")
    source = PointSource(str(root))
    assert len(keys(source, "train")) == 6
    groups = {group.reason: group for group in source.account().passed_over}
    missing = groups["listed, but missing"]
    assert missing.count == 2 and missing.examples[0] == "modelnet40_train.txt: xbox_0099"
    assert groups["in no list"].examples == ["xbox/xbox_0050.txt"]


def test_a_cloud_of_two_splits(tmp_path):
    root = modelnet(tmp_path)
    with (root / "modelnet40_test.txt").open("a") as file:
        file.write("\nairplane_0001")
    with pytest.raises(UserError, match=r"names airplane_0001, which another list names for another split"):
        PointSource(str(root)).items("train")


def test_validation_stands_in_for_test(tmp_path):
    root = modelnet(tmp_path)
    (root / "modelnet40_test.txt").rename(root / "modelnet40_val.txt")
    assert len(keys(PointSource(str(root)), "test")) == 3


@pytest.mark.parametrize("names", [("chair/0001", "table/0001"), ("data/chair/0002", "data/table/0002"), ("a9",)])
def test_names_with_a_folder_and_without_ending(tmp_path, names):
    """The same name in two folders needs the folder; deeper folders do not matter."""
    for path in ("chair/0001", "chair/0002", "table/0001", "table/0002", "table/a9"):
        write_rows(tmp_path / "clouds/all" / f"{path}.txt")
    (tmp_path / "train.txt").write_text("\n".join([*names, "0001"]))
    source = PointSource(str(tmp_path))
    expected = {"a9": "table/a9"}
    paths = [expected.get(name, name.removeprefix("data/")) for name in names]
    assert keys(source, "train") == [f"clouds/all/{path}.txt" for path in paths]
    assert "train.txt: 0001" in source.account().passed_over[0].examples + source.account().passed_over[-1].examples


def test_lists_alone(tmp_path):
    (tmp_path / "modelnet40_train.txt").write_text("airplane_0001\nxbox_0001\n")
    with pytest.raises(UserError, match=r"modelnet40_train.txt lists names of clouds, which are not there"):
        PointSource(str(tmp_path)).items("train")


def test_lists_of_names_are_no_clouds(tmp_path):
    """Nor are notes and tables beside the clouds, in whatever layout."""
    for number in range(12):
        write_rows(tmp_path / "chair" / f"{number}.txt")
    for name in ("README.txt", "classes.csv", "chair/names.txt"):
        (tmp_path / name).write_text("chair\ntable\n")
    source = PointSource(str(tmp_path))
    assert len(keys(source, "train")) + len(keys(source, "test")) == 12
    account = source.account()
    assert sum(group.count for group in account.passed_over) == 3


def test_lists_of_paths(tmp_path):
    """Lists of the usual form, of text files too."""
    for number in range(6):
        write_rows(tmp_path / "a" / f"{number}.txt")
    lines = [
        f"a/{number}.txt,{'cat' if number % 2 else 'dog'},{'test' if number > 3 else 'train'}\n" for number in range(6)
    ]
    (tmp_path / "index.csv").write_text("path,label,split\n" + "".join(lines))
    for root in (tmp_path, tmp_path / "index.csv"):
        source = PointSource(str(root))
        assert keys(source, "test") == ["a/4.txt", "a/5.txt"] and label_names(source, "test") == ["dog", "cat"]


def modelnet_h5(root):
    for split, counts in (("train", (5, 3)), ("test", (4,))):
        for number, count in enumerate(counts):
            labels = np.arange(count, dtype=np.uint8)[:, None] % 3
            normal = np.zeros((count, 40, 3), np.float32)
            write_h5(root / f"ply_data_{split}{number}.h5", count, labels, normal=normal)
        lines = [f"data/modelnet40_ply_hdf5_2048/ply_data_{split}{n}.h5\n" for n in range(len(counts))]
        (root / f"{split}_files.txt").write_text("".join(lines))
    (root / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    (root / "ply_data_train_0_id2file.json").write_text("[]")
    return root


def test_modelnet_hdf5(tmp_path):
    source = PointSource(str(modelnet_h5(tmp_path / "modelnet40_ply_hdf5_2048")))
    assert keys(source, "train")[:6] == [f"ply_data_train0.h5#{n}" for n in range(5)] + ["ply_data_train1.h5#0"]
    assert len(keys(source, "test")) == 4
    assert label_names(source, "test") == ["airplane", "bathtub", "bed", "airplane"]

    item = source.items("train")[6]
    with h5py.File(tmp_path / "modelnet40_ply_hdf5_2048/ply_data_train1.h5") as file:
        assert (PointClouds().decode(item) == file["data"][1]).all()


@pytest.fixture
def scan_object(tmp_path):
    root = tmp_path / "h5_files"
    endings = ("", "_augmented25_norot", "_augmentedrot_scale75")
    for number, folder in enumerate(("main_split", "main_split_nobg", "split1")):
        for place, ending in enumerate(endings):
            for split, count in (("training", 10), ("test", 5)):
                labels = np.arange(count) % 3
                write_h5(root / folder / f"{split}_objectdataset{ending}.h5", count + 20 * number + place, labels)
    return root


@pytest.mark.parametrize(
    ("below", "variant", "train", "file"),
    [
        ("", None, 12, "main_split/training_objectdataset_augmentedrot_scale75.h5"),
        ("", "obj_bg", 10, "main_split/training_objectdataset.h5"),
        ("", "obj_only", 30, "main_split_nobg/training_objectdataset.h5"),
        ("main_split", "pb_t50_rs", 12, "training_objectdataset_augmentedrot_scale75.h5"),
        ("main_split", "obj_bg", 10, "training_objectdataset.h5"),
        ("main_split_nobg", None, 30, "training_objectdataset.h5"),
        ("split1", "obj_bg", 50, "training_objectdataset.h5"),
    ],
)
def test_scan_object_variants(scan_object, below, variant, train, file):
    source = PointSource(str(scan_object / below), variant=variant)
    items = source.items("train")
    assert len(items) == train and {item.path for item in items} == {str(scan_object / below / file)}
    assert len(source.items("test")) == train - 5
    assert [setting.override for setting in source.defaults()] == ["modality.reader.normalise=False"]
    account = source.account()
    assert any(group.reason == "of another variant" for group in account.passed_over)
    assert f"variant {variant or source._read_variant} of ScanObjectNN" in account.notes[-1]


def test_a_variant_that_is_not_there(scan_object, tmp_path):
    with pytest.raises(UserError, match=r"variant=obj_bg is not in .*; there is obj_only"):
        PointSource(str(scan_object / "main_split_nobg"), variant="obj_bg")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="there is no ScanObjectNN"):
        PointSource(str(tmp_path / "other"), variant="obj_bg")


def test_labels_of_another_length(tmp_path):
    write_h5(tmp_path / "train.h5", 6, np.arange(5))
    write_h5(tmp_path / "test.h5", 4, np.arange(4))
    source = PointSource(str(tmp_path))
    assert len(source.items("train")) == 6
    assert any("'label' is left out: its shape (5,) does not fit 6 samples" in note for note in source.account().notes)


@pytest.mark.parametrize("name", ["modelnet40_train_8192pts_fps.dat", "0.pkl", "cache.PICKLE"])
def test_pickled_caches_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    for root in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=r"is pickled: opening it could run anything, .* give their folder"):
            PointSource(str(root)).items("train")

    root = modelnet(tmp_path)  # beside the files that they were made from
    source = PointSource(str(root))
    assert len(source.items("train")) == 6 and "is pickled" in source.account().notes[-1]


@pytest.mark.parametrize("save", [np.save, lambda path, array: np.savez(path, points=array)])
def test_arrays_of_clouds_and_arrays_of_points(tmp_path, save):
    """Three axes: a cloud in each row, with three columns too; two: one cloud."""
    save(tmp_path / "clouds", cloud(40, 3)[None].repeat(6, 0))
    (path,) = tmp_path.iterdir()
    for root in (tmp_path, path):
        source = PointSource(str(root))
        assert len(source.items("train")) + len(source.items("test")) == 6
        assert PointClouds().decode(source.items("train")[0]).shape == (40, 3)

    for columns in (3, 5, 6):
        folder = tmp_path / f"single{columns}"
        folder.mkdir()
        save(folder / "cloud", cloud(50, columns))
        (item,) = PointSource(str(folder), holdout=0).items("train")
        assert PointClouds(channels=columns).decode(item).shape == (50, columns)


def test_class_folders_archives_and_splits(tmp_path):
    import zipfile

    for split in ("train", "test"):
        for name in ("chair", "table"):
            for number in range(3):
                write_rows(tmp_path / "data" / split / name / f"{number}.xyz", columns=3)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in sorted((tmp_path / "data").rglob("*.xyz")):
            archive.write(path, path.relative_to(tmp_path / "data"))
    for root in ("data", "data.zip", "data/*/*/*.xyz"):
        source = PointSource(str(tmp_path / root))
        assert label_names(source, "test") == ["chair"] * 3 + ["table"] * 3, root
        assert PointClouds().read(source.items("train")[0], True).points.shape == (1, 40, 3)
