import pytest

from core.data import splits
from core.errors import UserError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train2017", "train"),
        ("val2017", "validation"),
        ("valid", "validation"),
        ("cifar10-test-a.tar.gz", "test"),
        ("t10k-images-idx3-ubyte.gz", "test"),
        ("x_train", "train"),
        ("contest", None),
        ("trainer", None),
        ("2017", None),
    ],
)
def test_from_name(name, split):
    assert splits.from_name(name) == split


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([("train", "a"), ("test", "a")], ["train", "test"]),
        ([("train", "test tube"), ("val", "a")], ["train", "validation"]),  # the first mark counts
        ([("images",), ("test",)], None),  # no folder for training: two classes
        ([(), ("test",)], ["train", "test"]),  # loose files, and a folder for testing
        ([("valid",), ("invalid",)], None),
        ([("control",), ("test",)], None),
        ([("bullet_train",), ("crash_test_dummy",), ("car",)], None),
        ([("crash_test", "train"), ("car", "test")], ["train", "test"]),
        ([("crash_test", "train"), ("crash_train", "test")], ["train", "test"]),
        ([("train", "test"), ("bus", "train")], ["test", "train"]),  # a class called train
        ([("train_images",), ("val_images",)], ["train", "validation"]),
        ([("set-train-000.tar",), ("set-test.tar",)], ["train", "test"]),
        ([("x_train",), ("x_test",)], ["train", "test"]),
        ([("train", "a"), ("test", "a"), ("extra", "a")], ["train", "test", "train"]),
        ([("bus",), ("car",), ("train",)], None),  # a class
        ([("car",), ("crash test dummy",)], None),
        ([("train", "a"), ("train", "b")], None),
        ([("test", "a"), ("test", "b")], None),
        ([("a",), ("b",)], None),
    ],
)
def test_by_folders(places, expected):
    found = splits.by_folders(places)
    assert (found and found.splits) == expected


def test_by_files_needs_a_mark_on_every_file():
    assert splits.by_files(["train_1", "test_1"]) == ["train", "test"]
    assert splits.by_files(["train_1", "test_1", "cat"]) is None
    assert splits.by_files(["train_1", "train_2"]) is None


def test_fraction_is_about_right_and_moves_no_other_sample():
    keys = [f"{i}.jpg" for i in range(5000)]
    marks = splits.by_fraction(keys, 0.1, seed=0)
    assert 0.085 < marks.count("test") / 5000 < 0.115
    more = splits.by_fraction([*keys, *(f"new/{i}.jpg" for i in range(5000))], 0.1, seed=0)
    assert more[:5000] == marks
    assert splits.by_fraction(keys, 0.1, seed=1) != marks


def test_fraction_leaves_no_side_empty():
    for count in range(2, 8):
        for holdout in (0.001, 0.5, 0.999):
            assert set(splits.by_fraction([f"{i}" for i in range(count)], holdout, seed=0)) == {"train", "test"}
    assert splits.by_fraction(["a"], 0.1, seed=0) == ["train"] or splits.by_fraction(["a"], 0.1, seed=0) == ["test"]
    assert set(splits.by_fraction(["a", "b", "c"], 0, seed=0)) == {"train"}


def test_fraction_keeps_groups_together():
    groups = [f"scene{i % 20}" for i in range(400)]
    marks = splits.by_fraction(groups, 0.2, seed=0)
    assert all(len({mark for group, mark in zip(groups, marks, strict=True) if group == g}) == 1 for g in groups)


def test_column_values():
    assert splits.parse(" VAL ", "x.csv") == "validation"
    with pytest.raises(UserError, match=r"x\.csv: the split column says 'fold1'"):
        splits.parse("fold1", "x.csv")
