import os
import tarfile
import zipfile

import numpy as np
import pytest

from core.errors import UserError


def tar(path, members: dict[str, str], mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            (path.parent / "member").write_text(content)
            archive.add(path.parent / "member", name)
    (path.parent / "member").unlink()


def labels(source) -> dict[str, str]:
    """Class names by key, over both splits; keys without label are missing."""
    items = [*source.items("train"), *source.items("test")]
    return {item.key: source.classes["label"][item.labels["label"]] for item in items if item.labels}


def test_flat_folder_without_labels(write, source):
    numbers = source(write([f"{i}.num" for i in range(30)]))
    items = numbers.items("train") + numbers.items("test")
    assert len(items) == 30 and numbers.classes == {} and all(not item.labels for item in items)
    assert [item.key for item in numbers.items("train")] == sorted(item.key for item in numbers.items("train"))
    assert {item.open() for item in items} == {str(i).encode() for i in range(30)}


def test_class_folders(write, source):
    found = source(write(["cat/1.num", "cat/deep/2.num", "dog/3.num", "dog/4.num"]), holdout=0.3)
    assert labels(found) == {"cat/1.num": "cat", "cat/deep/2.num": "cat", "dog/3.num": "dog", "dog/4.num": "dog"}
    assert found.classes == {"label": ["cat", "dog"]}


def test_numbered_classes_keep_their_numbers(write, source):
    found = source(write(["2/a.num", "10/b.num"]))
    assert labels(found) == {"2/a.num": "2", "10/b.num": "10"} and len(found.classes["label"]) == 11


@pytest.mark.parametrize("above", ["", "data/set/"])
def test_split_folders(write, source, keys, above):
    found = source(write([f"{above}{split}/{c}/1.num" for split in ("train", "test", "val") for c in ("a", "b")]))
    root = f"{above}{{}}/{{}}/1.num"
    assert keys(found) == {split: [root.format(split, c) for c in "ab"] for split in ("train", "test")}
    assert labels(found)[root.format("test", "b")] == "b" and found.classes == {"label": ["a", "b"]}
    assert found.split_by.endswith("train, val, test") and found.account().samples == {
        "train": 2,
        "test": 2,
        "validation": 2,
    }


def test_class_then_split(write, source, keys):
    found = source(write(["a/train/1.num", "b/train/2.num", "a/test/3.num"]))
    assert keys(found)["test"] == ["a/test/3.num"] and labels(found)["b/train/2.num"] == "b"


@pytest.mark.parametrize(
    ("classes", "splits"),
    [
        (["crash_test", "car"], ["train", "test"]),
        (["crash_test", "crash_train"], ["train", "test"]),
        (["train_station", "test_station", "harbour"], ["train", "val"]),
        (["validated", "valid", "invalid"], ["train", "test"]),
        (["train", "bus"], ["train", "test"]),
        (["val-d'or", "dev_board"], ["train_images", "test_images"]),
        (["crash_test", "car"], ["set_train", "set_val"]),
    ],
)
@pytest.mark.parametrize("form", ["{label}/{split}/1.num", "{split}/{label}/1.num", "set/{label}/{split}/deep/1.num"])
def test_classes_with_split_words_in_their_names(write, source, classes, splits, form):
    places = {form.format(label=label, split=split): (label, split) for label in classes for split in splits}
    found = source(write(list(places)))
    assert labels(found) == {key: label for key, (label, _) in places.items()}
    for name, split in zip(("train", "test"), splits, strict=True):
        assert {item.key for item in found.items(name)} == {key for key, place in places.items() if place[1] == split}


@pytest.mark.parametrize("folder", ["train", "test_tube"])
def test_archives_tell_the_split_and_folders_in_them_classes(tmp_path, source, folder):
    for split in ("train", "test"):
        tar(tmp_path / f"set-{split}.tar", {f"{folder}/1.num": "1", "bus/2.num": "2"})
    assert set(labels(source(tmp_path)).values()) == {folder, "bus"}


def test_split_folders_above_split_folders(write, source):
    found = source(write([f"{s}/{s}_images/{c}/1.num" for s in ("train", "test") for c in ("cat", "dog")]))
    assert found.classes == {"label": ["cat", "dog"]}


def test_validation_stands_in_for_test(write, source, keys):
    assert keys(source(write(["train/1.num", "valid/2.num"])))["test"] == ["valid/2.num"]


def test_file_names_tell_the_split(write, source, keys):
    found = source(write(["train_1.num", "train_2.num", "test_1.num"]))
    assert keys(found) == {"train": ["train_1.num", "train_2.num"], "test": ["test_1.num"]}


def test_a_class_called_train(write, source):
    found = source(write(["bus/1.num", "car/2.num", "train/3.num"]))
    assert labels(found)["train/3.num"] == "train" and found.split_by.startswith("a fraction")


def test_glob(write, source):
    folder = write(["a/1.num", "a/2.num", "b/3.num", "b/no.txt"])
    found = source(folder / "*" / "*.num")
    assert labels(found) == {"a/1.num": "a", "a/2.num": "a", "b/3.num": "b"}
    assert len(labels(source(folder / "**" / "*.num"))) == 3
    assert len(labels(source(folder / "[ab]"))) == 3


def test_csv_with_split_labels_and_group(write, source, keys):
    lines = ["file,label,split,scene", "x/1.num,cat,train,s1", "x/2.num,dog,test,s2", "x/3.num,dog,train,s1"]
    folder = write(
        {"x/1.num": "1", "x/2.num": "2", "x/3.num": "3", "x/unlisted.num": "4", "clips.csv": "\n".join(lines)}
    )
    for root in (folder, folder / "clips.csv"):
        found = source(root)
        assert keys(found) == {"train": ["x/1.num", "x/3.num"], "test": ["x/2.num"]}
        assert labels(found) == {"x/1.num": "cat", "x/2.num": "dog", "x/3.num": "dog"}
        assert [item.group for item in found.items("train")] == ["s1", "s1"]


def test_csv_groups_stay_together(write, source):
    rows = [f"{i}.num,{i % 5}" for i in range(50)]
    folder = write({f"{i}.num": "1" for i in range(50)} | {"clips.csv": "\n".join(["file,person", *rows])})
    found = source(folder, holdout=0.3)
    train, test = ({item.group for item in found.items(split)} for split in ("train", "test"))
    assert train | test == set("01234") and not train & test and train and test


def test_several_labels(write, source):
    folder = write({"1.num": "1", "2.num": "2", "l.csv": "file,shape,motion\n1.num,box,spin\n2.num,cone,\n"})
    found = source(folder, labels=["shape", "motion"])
    items = {item.key: item for split in ("train", "test") for item in found.items(split)}
    assert items["1.num"].labels == {"shape": 0, "motion": 0} and items["2.num"].labels == {"shape": 1}
    assert found.classes == {"motion": ["spin"], "shape": ["box", "cone"]}


def test_split_tables(write, source, keys):
    folder = write(
        {
            "1.num": "1",
            "2.num": "2",
            "train.csv": "path\n1.num\n",
            "test.csv": "path\n2.num\n",
            "all.csv": "path\n1.num\n2.num",
        }
    )
    assert keys(source(folder)) == {"train": ["1.num"], "test": ["2.num"]}


def test_list_with_absolute_paths_and_missing_files(write, source):
    folder = write(["a/1.num", "b/2.num"])
    (folder / "list.txt").write_text(f"{folder}/a/1.num 0\nb/2.num 1\nb/missing.num 1\n")
    found = source(folder / "list.txt")
    assert labels(found) == {"a/1.num": "0", "b/2.num": "1"}
    (missing,) = found.account().passed_over
    assert (missing.count, missing.examples) == (1, ["list.txt, line 3: b/missing.num"])


def test_lists_that_are_wrong(write, source):
    folder = write(
        {"1.num": "1", "gone.txt": "9.num\n", "empty.txt": "\n", "twice.csv": "path,split\n1.num,train\n1.num,test\n"}
    )
    with pytest.raises(UserError, match=r"gone\.txt lists .*9\.num, which does not exist.*relative to"):
        source(folder / "gone.txt").items("train")
    with pytest.raises(UserError, match=r"empty\.txt is empty"):
        source(folder / "empty.txt").items("train")
    with pytest.raises(UserError, match=r"lists 1\.num twice, for different splits"):
        source(folder / "twice.csv").items("train")


def test_repeated_lines_count_once(write, source):
    folder = write({"1.num": "1", "2.num": "2", "l.txt": "1.num\n1.num\n2.num\n"})
    found = source(folder / "l.txt")
    assert len(found.items("train")) + len(found.items("test")) == 2


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_tar(tmp_path, source, keys, name, mode):
    tar(
        tmp_path / name,
        {"./train/a/1.num": "5", "./test/a/2.num": "6", "./train/b/._1.num": "x", "__MACOSX/3.num": "x"},
        mode,
    )
    for root in (tmp_path, tmp_path / name):
        found = source(root)
        assert keys(found) == {"train": [f"{name}::train/a/1.num"], "test": [f"{name}::test/a/2.num"]}
        assert found.items("train")[0].open() == b"5"


def test_tars_named_by_split(tmp_path, source, keys):
    tar(tmp_path / "set-train-000.tar", {"a/1.num": "1", "b/2.num": "2"})
    tar(tmp_path / "set-test.tar", {"a/1.num": "3"})
    found = source(tmp_path)
    assert keys(found)["test"] == ["set-test.tar::a/1.num"] and labels(found)["set-train-000.tar::b/2.num"] == "b"


def test_webdataset_labels(tmp_path, source):
    tar(tmp_path / "s.tar", {"x.num": "1", "x.cls": "7", "x.json": "{}", "y.num": "1", "y.cls": "2"})
    assert labels(source(tmp_path / "s.tar")) == {"s.tar::x.num": "7", "s.tar::y.num": "2"}


def test_zip(tmp_path, source, keys):
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/1.num", "5")
        archive.writestr("test/b/2.num", "6")
    found = source(tmp_path / "z.zip")
    assert keys(found) == {"train": ["z.zip::train/a/1.num"], "test": ["z.zip::test/b/2.num"]}
    assert found.items("test")[0].open() == b"6" and found.items("test")[0].suffix == ".num"


def test_an_archive_beside_its_unpacked_files_is_left_alone(write, source):
    folder = write(["a/1.num", "a/2.num"])
    tar(folder / "a.tar", {"a/1.num": "1", "a/2.num": "2"})
    found = source(folder)
    assert len(found.items("train")) + len(found.items("test")) == 2
    assert [(group.kind, group.count) for group in found.account().passed_over] == [(".tar", 1)]


def test_array_files(tmp_path, source, keys):
    np.save(tmp_path / "alone.npy", np.ones((3, 2)))
    found = source(tmp_path / "alone.npy")
    assert sorted(keys(found)["train"] + keys(found)["test"]) == [f"alone.npy#{i}" for i in range(3)]
    assert len(source(tmp_path).items("train") + source(tmp_path).items("test")) == 3
    np.save(tmp_path / "other.npy", np.ones((5, 2)))
    assert sorted(keys(source(tmp_path))["train"] + keys(source(tmp_path))["test"]) == ["alone.npy", "other.npy"]
    assert len(source(tmp_path, rows=True).items("train") + source(tmp_path, rows=True).items("test")) == 8


def test_arrays_by_split_with_class_names(tmp_path, source, keys):
    for name, count in (("train", 4), ("test-a", 2)):
        np.savez(
            tmp_path / f"{name}.npz", points=np.ones((count, 2)), label=[0, 1] * (count // 2), classes=["car", "bus"]
        )
    found = source(tmp_path)
    assert keys(found) == {"train": [f"train.npz#{i}" for i in range(4)], "test": ["test-a.npz#0", "test-a.npz#1"]}
    assert labels(found)["test-a.npz#0"] == "car" and found.classes == {"label": ["bus", "car"]}


def test_one_npz_with_both_splits(tmp_path, source, keys):
    np.savez(tmp_path / "m.npz", x_train=np.ones((2, 3)), y_train=[1, 0], x_test=np.zeros((1, 3)), y_test=[1])
    found = source(tmp_path / "m.npz")
    assert keys(found) == {"train": ["m.npz::x_train#0", "m.npz::x_train#1"], "test": ["m.npz::x_test#0"]}
    assert found.items("test")[0].array().tolist() == [0, 0, 0] and found.items("train")[1].labels == {"label": 0}


def test_files_beside_a_sample(write, source):
    folder = write(["a/1.num", "a/1.object.npy", "b/2.num"])
    items = {item.key: item for split in ("train", "test") for item in source(folder).items(split)}
    assert set(items) == {"a/1.num", "b/2.num"}
    assert items["a/1.num"].aux == {"object": str(folder / "a" / "1.object.npy")} and items["b/2.num"].aux == {}


def test_links_are_followed_but_not_in_circles(write, source):
    folder = write(["a/1.num", "elsewhere/2.num"])
    os.symlink(folder, folder / "a" / "loop")
    os.symlink(folder / "elsewhere" / "2.num", folder / "a" / "2.num")
    found = source(folder / "a")
    assert {item.key for split in ("train", "test") for item in found.items(split)} >= {"1.num", "2.num"}


def test_hidden_files_are_passed_over(write, source):
    found = source(write(["1.num", "2.num", ".3.num", ".git/4.num", "._1.num"]))
    assert len(found.items("train")) + len(found.items("test")) == 2


def test_unicode_and_spaces(write, source):
    found = source(write(["кот и пёс/фото 1.num", "кот и пёс/2.num"]))
    assert {item.open() for split in ("train", "test") for item in found.items(split)} == {b"0", b"1"}


def test_split_does_not_depend_on_where_the_folder_is(write, source, keys):
    folder = write([f"{place}/{i}.num" for place in ("here", "there") for i in range(50)])
    assert keys(source(folder / "here")) == keys(source(folder / "there"))


@pytest.mark.parametrize(
    ("make", "root", "message"),
    [
        ([], "", "data.root is not set"),
        (["folder/1.num"], "foldr", r"foldr does not exist\. .* does, and holds folder\."),
        (["a/1.jpg", "a/2.jpg", "a/r.md"], "a", r"holds no sample\. This modality reads \.num.*found: 2 \.jpg, 1 \.md"),
        (["a/1.jpg"], "a/1.jpg", r"holds no sample.*found: 1 \.jpg"),
        (["a/1.num"], "b*/*.num", "nothing matches"),
        ([], "s3://bucket/x", "Remote places are not read"),
    ],
)
def test_roots_that_are_wrong(write, source, make, root, message):
    folder = write(make)
    with pytest.raises(UserError, match=f"(?s)data.root.*{message}" if root else message):
        source(folder / root if root and "://" not in root else root).items("train")


def test_empty_folder(tmp_path, source):
    with pytest.raises(UserError, match=r"holds no sample\. It is empty"):
        source(tmp_path).items("train")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(write, source):
    folder = write(["a/1.num"])
    (folder / "a").chmod(0)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        source(folder).items("train")


def test_no_sample_for_a_split(write, source):
    folder = write(["1.num", "2.num"])
    with pytest.raises(UserError, match=r"no sample for 'test'.*data.source.holdout"):
        source(folder, holdout=0).items("test")
    with pytest.raises(UserError, match=r"data\.source\.holdout is 1"):
        source(folder, holdout=1)
    assert len(source(folder, holdout=0).items("train")) == 2


def test_bad_split_column(write, source):
    folder = write({"1.num": "1", "l.csv": "file,split\n1.num,fold3\n"})
    with pytest.raises(UserError, match="the split column says 'fold3'"):
        source(folder).items("train")


def test_answers_to_several_questions(tmp_path, source):
    """As ChestMNIST has them, in one file, or in one for each split."""
    train, test = np.array([[1, 0, 1], [0, 0, 0]]), np.array([[1, 1, 1]])
    np.savez(tmp_path / "a.npz", x_train=np.ones((2, 3)), y_train=train, x_test=np.ones((1, 3)), y_test=test)
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "b" / "train.npz", x=np.ones((2, 3)), y=train)
    np.savez(tmp_path / "b" / "test.npz", x=np.ones((1, 3)), y=test)
    for root in (tmp_path / "a.npz", tmp_path / "b"):
        found = source(root)
        assert [item.labels["label"] for item in found.items("train")] == [(1, 0, 1), (0, 0, 0)]
        assert found.items("test")[0].labels == {"label": (1, 1, 1)}
        assert found.questions == {"label": ["0", "1", "2"]} and not found.classes
        assert "y" in found.account().labels["label"]


def test_one_hot_rows(tmp_path, source):
    np.savez(tmp_path / "a.npz", x=np.ones((40, 3)), y=np.eye(4)[np.arange(40) % 4])
    found = source(tmp_path / "a.npz")
    items = found.items("train") + found.items("test")
    assert {item.labels["label"] == int(item.key.split("#")[1]) % 4 for item in items} == {True}
    assert any("one-hot" in note for note in found.account().notes)


def test_labels_that_fit_nothing(tmp_path, source):
    np.savez(tmp_path / "a.npz", points=np.zeros((9, 5)), label=[0, 1], mask=np.zeros((9, 5)))
    found = source(tmp_path / "a.npz")
    assert len(found.items("train") + found.items("test")) == 9 and not found.classes
    notes = " ".join(found.account().notes)
    assert "'label' is left out" in notes and "not read: 'mask'" in notes


def test_members_that_are_passed_over_are_in_the_account(tmp_path, source):
    tar(tmp_path / "a.tar", {"1.num": "1", "2.num": "2", "x.zip": "", "1.cls": "7", "readme.md": ""})
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        link = tarfile.TarInfo("3.num")
        link.type, link.linkname = tarfile.SYMTYPE, "9.num"
        archive.addfile(link)
    found = source(tmp_path / "a.tar")
    passed_over = {group.examples[0]: (group.kind, group.count) for group in found.account().passed_over}
    assert passed_over == {"a.tar::x.zip": (".zip", 1), "a.tar::readme.md": (".md", 1), "a.tar::3.num": (".num", 1)}
    assert found.account().labels == {"label": ".cls files"}


def test_one_sample_in_an_array_file(tmp_path, source):
    np.save(tmp_path / "a.npy", np.ones((4, 6, 3)))
    for root in (tmp_path, tmp_path / "a.npy"):
        (item,) = source(root, sample_axes=2).items("train")
        assert item.key == "a.npy" and item.array().shape == (4, 6, 3)
    found = source(tmp_path / "a.npy", sample_axes=2, rows=True)
    assert len(found.items("train") + found.items("test")) == 4


@pytest.mark.parametrize("rows", [np.ones((3, 2)), np.ones(4)])
def test_one_array_file_among_other_samples_is_a_sample(write, source, rows):
    folder = write(["1.num", "2.num"])
    np.save(folder / "3.npy", rows)
    found = source(folder, holdout=0)
    assert [item.key for item in found.items("train")] == ["1.num", "2.num", "3.npy"]


def test_array_files_with_a_split_in_their_names_are_samples_by_their_shape(tmp_path, source, keys):
    for name in ("train_0", "train_1", "test_0"):
        np.save(tmp_path / f"{name}.npy", np.ones((6, 8, 3)))
    assert keys(source(tmp_path, sample_axes=2)) == {"train": ["train_0.npy", "train_1.npy"], "test": ["test_0.npy"]}
    assert len(source(tmp_path).items("train")) == 12
