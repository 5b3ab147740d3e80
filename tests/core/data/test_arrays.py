"""Array files: which array holds the samples, which are labels, and files that hold none."""

import sys

import numpy as np
import pytest

from core.data import arrays
from core.data.sources import Item
from core.errors import BadSample, UserError

ROWS = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)


@pytest.fixture
def save(tmp_path):
    """Writes a .npz, or a .npy of one array, and gives its path."""

    def save(*array, **named):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.{'npy' if array else 'npz'}"
        if array:
            np.save(path, array[0], allow_pickle=True)
        else:
            np.savez(path, **named)
        return str(path)

    return save


@pytest.mark.parametrize(
    ("main", "others"),
    [
        ("image", {"depth": np.zeros((6, 4, 4, 9))}),
        ("images", {"masks": ROWS.astype(np.float64), "x": ROWS}),
        ("x", {"embedding": np.zeros((6, 9999))}),
        ("data", {"x": np.arange(6.0), "meta": np.zeros((6, 99))}),  # x of one axis are numbers, no samples
        ("X", {"label": np.zeros((6, 999))}),
        ("video", {"audio": np.zeros((6, 9999))}),
        ("arr_0", {"arr_1": np.zeros((6, 999))}),
        ("whatever", {"ids": np.arange(6)}),  # the biggest, where no name is usual
        ("whatever", {"labels": np.zeros((6, 999))}),
    ],
)
def test_the_name_tells_which_array_holds_the_samples(save, main, others):
    path = save(**others, **{main: ROWS})
    (stack,) = arrays.list_stacks(path)
    assert stack.count == 6 and f"'{main}' holds the samples" in stack.notes[0]
    assert (Item("k", path, member="5").array() == ROWS[5]).all() and (Item("k", path).array() == ROWS).all()
    unread = others.keys() - {"label", "labels"}
    assert all(f"'{name}' of shape" in stack.notes[0] for name in unread)


def test_names_by_split(save):
    """As MedMNIST has them; words that are no split without a part for training are none."""
    answers = np.eye(6, dtype=int) + np.eye(6, k=1, dtype=int)
    medmnist = save(train_images=ROWS, train_labels=answers, val_images=ROWS[:2], val_labels=answers[:2])
    stacks = {stack.name: stack for stack in arrays.list_stacks(medmnist)}
    assert stacks.keys() == {"train_images", "val_images"} and stacks["val_images"].count == 2
    assert stacks["train_images"].labels[0]["label"].values == (1, 1, 0, 0, 0, 0)

    (stack,) = arrays.list_stacks(save(image=ROWS, valid=np.zeros((6, 99))))
    assert stack.name == "" and "'valid' of shape (6, 99)" in stack.notes[0]

    dashes = save(**{"train-x": ROWS, "train-y": np.arange(6), "test-x": ROWS, "test-y": np.arange(6)})
    assert [stack.labels[3] for stack in arrays.list_stacks(dashes)] == [{"label": "3"}] * 2


@pytest.mark.parametrize("labels", [np.zeros(5), np.zeros((3, 6)), np.zeros((6, 4, 4)), np.array(1)])
def test_labels_that_fit_nothing_block_nothing(save, labels):
    (stack,) = arrays.list_stacks(save(images=ROWS, labels=labels))
    assert stack.count == 6 and stack.labels is None and "'labels' is left out" in stack.notes[1]


def test_numbers_called_classes_are_labels(save):
    (stack,) = arrays.list_stacks(save(images=ROWS, classes=np.arange(6)))
    assert stack.labels[5] == {"label": "5"}


@pytest.mark.parametrize("values", [np.array(5), np.array(5.0), np.zeros((0, 4, 4)), np.zeros((5, 0, 3)), np.zeros(0)])
def test_arrays_without_rows(save, values):
    for path in (save(values), save(x=values)):
        with pytest.raises(UserError, match=r"must hold samples along its first axis; the shape of"):
            arrays.list_stacks(path)


def test_pickled_arrays_are_refused_or_passed_over(save):
    pickled = np.array([{"a": 1}, None], dtype=object)
    for path in (save(pickled), save(x=pickled)):
        with pytest.raises(UserError, match="nothing pickled"):
            arrays.list_stacks(path)
        with pytest.raises(BadSample):
            Item("k", path).array()

    beside = save(images=ROWS, meta=pickled)
    (stack,) = arrays.list_stacks(beside)
    assert "'meta', which is pickled" in stack.notes[0] and (Item("k", beside).array() == ROWS).all()


@pytest.mark.parametrize("dtype", [">u2", "<u2", ">f4", ">i8"])
def test_rows_come_in_this_machines_byte_order(save, dtype):
    values = ROWS.astype(dtype)
    for path in (save(values), save(x=values)):
        for array in (Item("k", path, member="2").array(), arrays.parse(Item("k", path, member="2").open())):
            assert array.dtype.isnative and (array == ROWS[2]).all()
        assert Item("k", path).array().dtype.isnative


def test_columns_first_in_memory(save):
    values = np.asfortranarray(ROWS)
    assert (Item("k", save(values), member="3").array() == ROWS[3]).all()


def test_a_big_file_stays_on_disk(tmp_path):
    """Of 64 GB, almost all of it a hole, one row is read."""
    shape = (1 << 20, 256, 256)
    values = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.uint8, shape)
    values[-1] = 7
    del values
    path = str(tmp_path / "big.npy")
    (stack,) = arrays.list_stacks(path)
    assert stack.count == 1 << 20 and (Item("k", path, member=str((1 << 20) - 1)).array() == 7).all()


@pytest.mark.parametrize(
    ("shape", "axes", "is_one"),
    [
        ((28, 32, 3), 2, True),
        ((3, 28, 32), 2, True),
        ((28, 32, 4), 2, True),
        ((28, 32), 2, True),
        ((5, 28, 32), 2, False),
        ((4, 28, 32), 2, False),
        ((5, 28, 32, 3), 2, False),
        ((8, 28, 32, 3), 3, True),
        ((8, 28, 32), 3, True),
        ((5, 8, 28, 32), 3, False),
    ],
)
def test_one_sample_alone(save, shape, axes, is_one):
    assert arrays.is_one_sample(save(np.zeros(shape)), axes) == is_one
    assert arrays.is_one_sample(save(image=np.zeros(shape), label=1), axes) == is_one


def test_rows_with_labels_are_samples(save):
    assert not arrays.is_one_sample(save(images=np.zeros((3, 28, 28)), labels=[1, 0, 1]), 2)
    assert arrays.has_rows(save(images=ROWS, labels=np.zeros((6, 14))))
    assert not arrays.has_rows(save(images=ROWS, labels=np.zeros(14)))


def test_the_first_readable_file_tells_whether_files_are_samples(save, tmp_path):
    (tmp_path / "cut.npy").write_bytes(b"")
    paths = [str(tmp_path / "cut.npy"), save(np.zeros((28, 32, 3)))]
    assert arrays.are_one_sample_each(paths, 2) and not arrays.are_one_sample_each(paths, None)
    assert not arrays.are_one_sample_each(paths[:1], 2)


@pytest.fixture
def hdf5(tmp_path):
    """Writes a .h5 and gives its path."""
    h5py = pytest.importorskip("h5py")

    def write(name="a.h5", **named):
        with h5py.File(tmp_path / name, "w") as file:
            for key, values in named.items():
                file[key.replace("__", "/")] = values
        return str(tmp_path / name)

    return write


def test_hdf5(hdf5):
    """Rows are read alone; labels of any shape, and class names in texts."""
    names = np.array(["cat", "dog"], dtype=object)
    path = hdf5(data=ROWS, label=np.arange(6, dtype=np.uint8)[:, None] % 2, class_names=names, extra=np.zeros(9999))
    (stack,) = arrays.list_stacks(path)
    assert stack.count == 6 and stack.labels[3] == {"label": "dog"} and "'extra' of shape (9999,)" in stack.notes[0]
    assert arrays.has_rows(path) and not arrays.is_one_sample(path, 2)
    row = Item("k", path, member="4").array()
    assert isinstance(row, np.ndarray) and (row == ROWS[4]).all()
    assert not isinstance(arrays.load(path)["data"], np.ndarray)  # it stays on disk


def test_hdf5_groups_and_splits(hdf5):
    by_split = hdf5("b.h5", train_x=ROWS, train_y=np.arange(6), test_x=ROWS[:2], test_y=np.arange(2))
    assert {stack.name: stack.count for stack in arrays.list_stacks(by_split)} == {"train_x": 6, "test_x": 2}
    grouped = hdf5("c.h5", set__images=ROWS)
    assert arrays.load(grouped).keys() == {"set/images"} and arrays.list_stacks(grouped)[0].count == 6


@pytest.mark.parametrize("content", [b"", b"no hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 90])
def test_damaged_hdf5(tmp_path, content):
    pytest.importorskip("h5py")
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"the array file .*a.h5 cannot be read"):
        arrays.list_stacks(str(tmp_path / "a.h5"))


def test_labels_of_another_length_in_hdf5(hdf5):
    (stack,) = arrays.list_stacks(hdf5(data=ROWS, label=np.arange(5)))
    assert stack.labels is None and "'label' is left out: its shape (5,) does not fit 6 samples" in stack.notes[1]


def test_hdf5_without_its_package(hdf5, monkeypatch):
    path = hdf5("d.h5", data=ROWS)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r'needs h5py: pip install "lacuna-ssl\[points\]"'):
        arrays.load(path)
