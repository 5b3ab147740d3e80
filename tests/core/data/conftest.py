"""A toy modality: samples are text files that hold a number."""

from pathlib import Path

import pytest
import torch

from core.data.folder import FolderSource
from core.data.reader import WholeReader
from core.errors import BadSample


class NumberReader(WholeReader):
    """ "7" becomes R random numbers around 7, so that both the sample and its random numbers show."""

    view = "number"
    extensions = (".num", ".npy", ".npz")

    def __init__(self, repeats: int = 1):
        self.repeats = repeats

    def decode(self, item):
        if item.suffix == ".npy":
            return torch.tensor([float(item.array().sum())])
        try:
            return torch.tensor([float(item.open())])
        except ValueError as error:
            raise BadSample("is no number") from error

    def augment(self, raw, train):
        return raw + torch.rand(self.repeats, 1) if train else raw[None]


@pytest.fixture
def number_reader():
    return NumberReader


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LACUNA_CACHE", str(folder))
    return folder


@pytest.fixture
def write(tmp_path):
    """Writes files below the test's folder: a list of names, or a dict of name and content (default: a number)."""

    def write(names) -> Path:
        contents = names if isinstance(names, dict) else {name: str(i) for i, name in enumerate(names)}
        for name, content in contents.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def source():
    """A FolderSource for numbers."""
    return lambda root, **settings: FolderSource(str(root), NumberReader.extensions, **settings)


@pytest.fixture
def keys():
    """Keys by split, "-" where there is none."""

    def keys(source) -> dict[str, list[str]]:
        return {split: [item.key for item in source.items(split)] for split in ("train", "test")}

    return keys
