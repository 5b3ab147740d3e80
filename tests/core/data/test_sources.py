import gzip
import pickle
import struct

import numpy as np
import pytest

from core.data import arrays
from core.data.sources import Item
from core.errors import BadSample, UserError


def test_item_survives_pickling():
    item = Item("a", "b", member="3", labels={"label": 1}, aux={"object": "c"}, group="g")
    assert pickle.loads(pickle.dumps(item)) == item


def test_files(tmp_path):
    (tmp_path / "a.PNG").write_bytes(b"x")
    item = Item("a", str(tmp_path / "a.PNG"))
    assert item.suffix == ".png" and item.open() == b"x"


@pytest.mark.parametrize(("content", "reason"), [(None, "cannot be read"), (b"", "empty")])
def test_bad_files(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(BadSample, match=reason):
        Item("a", str(tmp_path / "a")).open()


def test_rows_of_npy(tmp_path):
    values = np.arange(24, dtype=np.float16).reshape(4, 2, 3)
    np.save(tmp_path / "a.npy", values)
    item = Item("a.npy#2", str(tmp_path / "a.npy"), member="2")
    row = item.array()
    assert item.suffix == ".npy" and (row == values[2]).all() and row.flags.writeable
    assert (arrays.parse(item.open()) == values[2]).all()


def test_rows_of_npz_by_name(tmp_path):
    points, normals = np.random.rand(3, 8, 3), np.random.rand(3, 8, 2)
    np.savez(tmp_path / "a.npz", points=points, normals=normals, label=[0, 1, 0])
    item = Item("k", str(tmp_path / "a.npz"), member="1")
    assert (item.array() == points[1]).all() and (item.array("normals") == normals[1]).all()


def test_one_sample_per_file(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(3))
    np.savez(tmp_path / "b.npz", points=np.eye(3), label=np.array(1))
    assert (Item("a", str(tmp_path / "a.npy")).array() == np.eye(3)).all()
    assert (Item("b", str(tmp_path / "b.npz")).array() == np.eye(3)).all()


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadSample, match="no readable array"):
        Item("a", str(tmp_path / "a.npy")).array()
    with pytest.raises(UserError, match=r"a\.npy cannot be read .*nothing pickled"):
        arrays.load(str(tmp_path / "a.npy"))


def test_text_named_npy(tmp_path):
    (tmp_path / "a.npy").write_text("hello")
    with pytest.raises(BadSample, match="no readable array"):
        Item("a", str(tmp_path / "a.npy")).array()


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx(tmp_path, end):
    images = np.random.randint(0, 256, (5, 4, 3), dtype=np.uint8)
    pack = gzip.compress if end else bytes
    (tmp_path / f"train-images-idx3-ubyte{end}").write_bytes(pack(idx(images)))
    (tmp_path / f"train-labels-idx1-ubyte{end}").write_bytes(pack(idx(np.array([3, 1, 0, 2, 2], np.uint8))))
    (stack,) = arrays.list_stacks(str(tmp_path / f"train-images-idx3-ubyte{end}"))
    assert (stack.name, stack.count) == ("", 5)
    assert [names["label"] for names in stack.labels] == ["3", "1", "0", "2", "2"]
    assert not arrays.list_stacks(str(tmp_path / f"train-labels-idx1-ubyte{end}"))
    item = Item("k", str(tmp_path / f"train-images-idx3-ubyte{end}"), member="4")
    assert (item.array() == images[4]).all()


def test_idx_cut_short(tmp_path):
    (tmp_path / "t-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 4, 3), np.uint8))[:40])
    with pytest.raises(UserError, match="cannot be read"):
        arrays.list_stacks(str(tmp_path / "t-images-idx3-ubyte"))


def test_npz_with_both_splits(tmp_path):
    np.savez(
        tmp_path / "mnist.npz",
        x_train=np.zeros((4, 2, 2)),
        y_train=[1, 0, 1, 0],
        x_test=np.ones((2, 2, 2)),
        y_test=[1, 1],
    )
    stacks = {stack.name: stack for stack in arrays.list_stacks(str(tmp_path / "mnist.npz"))}
    assert [names["label"] for names in stacks["x_train"].labels] == ["1", "0", "1", "0"]
    assert stacks["x_test"].count == 2
