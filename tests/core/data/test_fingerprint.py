"""The identity of samples: the same wherever they lie, another where any of them changed."""

import shutil
import tarfile

import numpy as np
import pytest

from core.data import fingerprint as module
from core.data.fingerprint import fingerprint
from core.data.folder import FolderSource


def identity(root):
    source = FolderSource(str(root), [".bin", ".npy"], holdout=0.0)
    return fingerprint([source.items("train")], str(root))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "first" / "photos"
    for number in range(12):
        file = root / f"class{number % 2}" / f"{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * (100 + number))
    return root


def test_the_same_wherever_it_lies(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "other" / "name")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    expected = identity(folder)
    assert expected.samples == 12
    for root in (copy, tmp_path / "link", "photos", "photos/", "./photos", f"{folder}/../photos"):
        assert identity(root) == expected
        assert expected.difference(identity(root)) is None


def remove(folder):
    (folder / "class0" / "4.bin").unlink()


def add(folder):
    (folder / "class0" / "new.bin").write_bytes(b"new")


def rename(folder):
    (folder / "class0" / "4.bin").rename(folder / "class0" / "5.bin")


def resize(folder):
    (folder / "class0" / "4.bin").write_bytes(b"4")


def alter(folder):
    (folder / "class0" / "4.bin").write_bytes(b"4" * 104)


@pytest.mark.parametrize(
    "change, words",
    [
        (remove, "12 samples, now 11"),
        (add, "12 samples, now 13"),
        (rename, "12 samples as before, but with other names"),
        (resize, "12 samples of the same names, but with other contents"),
        (alter, "12 samples of the same names, but with other contents"),
    ],
)
def test_a_change_is_noticed_and_named(folder, change, words):
    before = identity(folder)
    change(folder)
    assert before.difference(identity(folder)) == words


def test_a_file_beside_the_samples_is_no_change(folder):
    before = identity(folder)
    (folder / "notes.md").write_text("mine")
    assert identity(folder) == before


@pytest.mark.parametrize("name", ["array.npy", "clips.tar"])
def test_one_file_of_many_samples(folder, tmp_path, name):
    """Under another name too, which its samples' keys begin with; one altered byte in the middle is another content."""
    file = tmp_path / name
    if name.endswith(".npy"):
        np.save(file, np.zeros((50, 8, 8, 3), np.uint8))
    else:
        with tarfile.open(file, "w") as archive:
            archive.add(folder, ".")
    moved = tmp_path / "elsewhere" / f"renamed{file.suffix}"
    moved.parent.mkdir()
    shutil.copy(file, moved)
    assert identity(moved) == identity(file)

    content = bytearray(file.read_bytes())
    place = content.find(b"\x04" * 104) if name.endswith(".tar") else len(content) // 2
    content[place] ^= 1
    moved.write_bytes(content)
    assert identity(file).difference(identity(moved)) == f"{identity(file).samples} samples of the same names, " + (
        "but with other contents"
    )


def test_of_large_data_a_part_is_read(folder, monkeypatch):
    """Sizes count for all samples, bytes for an even spread of them."""
    monkeypatch.setattr(module, "PIECES", 3)
    before = identity(folder)
    alter(folder)  # the fourth in order; of twelve the first, fifth and ninth are read
    assert identity(folder) == before
    resize(folder)
    assert identity(folder) != before
