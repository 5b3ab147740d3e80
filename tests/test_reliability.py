"""Some of the data sets of `benchmarks.reliability`, and that it sees faults."""

import signal
import time

import numpy as np
import pytest

from benchmarks import reliability, reliability_files
from benchmarks.reliability import FAULT, Outcome, render, run, sort_files
from benchmarks.reliability_files import MAKERS
from core.data import labels, splits
from core.data.account import Leftovers
from core.data.folder import FolderSource
from core.errors import BadSample
from modalities.image.reader import ImageReader


def test_every_file_of_sixty_is_accounted_for():
    outcomes = run(60, 3, list(MAKERS))
    assert len(outcomes) >= 60 and {outcome.modality for outcome in outcomes} == set(MAKERS)
    assert [outcome for outcome in outcomes if outcome.kind == FAULT] == []


@pytest.fixture
def flat(tmp_path):
    """Kinds of outcome of four undamaged pictures, in one folder or another layout."""

    def sort(layout_of=reliability_files.flat) -> set[str]:
        rng = np.random.default_rng(0)
        files = reliability_files.draw_files("image", 4, rng, "flat")
        for file in files:
            file.damage, file.content = "none", file.original.content
            file.name = file.name.split(".")[0] + file.original.suffix
        layout = layout_of(tmp_path, files, rng)
        reliability_files.add_others(tmp_path, layout, rng)
        return {detail.split(":")[0] or kind for kind, detail in sort_files("image", layout, files, "none")}

    return sort


def a_file(damage: str):
    content = reliability_files.contents("image", ".png")[0]
    return reliability_files.File("a.png", content, content=b"", damage=damage, label="cat", split="train")


def crash(*_):
    raise ValueError("a crash")


def hang(*_):
    time.sleep(5)


@pytest.mark.parametrize(
    ("place", "name", "fault", "expected"),
    [
        (None, "", None, {"exact"}),
        (ImageReader, "decode", crash, {"ValueError"}),
        (FolderSource, "account", crash, {"ValueError"}),
        (ImageReader, "decode", hang, {"TimeoutError"}),
    ],
)
def test_faults_are_seen(flat, monkeypatch, place, name, fault, expected):
    monkeypatch.setattr(reliability, "SECONDS", 0.2)
    if place is not None:
        monkeypatch.setattr(place, name, fault)
    assert flat() == expected
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_sample_missing_in_silence_is_seen(flat, monkeypatch):
    items = FolderSource.items
    monkeypatch.setattr(FolderSource, "items", lambda self, split: items(self, split)[:-1])
    assert flat() == {"exact", "missing in silence"}


@pytest.mark.parametrize("layout", ["class_folders", "split_folders", "metadata", "split_lists", "zip_with_folders"])
def test_layouts_with_labels_are_read_exactly(flat, layout):
    assert flat(getattr(reliability_files, layout)) == {"exact"}


def test_another_label_is_seen(flat, monkeypatch):
    """The folder of the split is taken for the class."""
    monkeypatch.setattr(labels, "names", lambda entries, marks: [{"label": entry.folders[0]} for entry in entries])
    assert flat(reliability_files.split_folders) == {"another label"}


def test_another_split_is_seen(flat, monkeypatch):
    monkeypatch.setattr(splits, "by_folders", lambda paths: None)
    assert flat(reliability_files.split_folders) == {"another split"}


def test_another_file_in_no_count_is_seen(flat, monkeypatch):
    monkeypatch.setattr(Leftovers, "groups", lambda self: [])
    assert flat() == {"in no count"}


def test_an_address_in_a_reason_is_seen():
    result = reliability.sort_result(BadSample("x"), a_file("truncated"), True)
    assert result == ("skipped", "")
    error = BadSample("x")
    error.args = (f"cannot identify {object()!r}",)
    assert reliability.sort_result(error, a_file("truncated"), True)[1].startswith("an address in a reason")


def test_other_values_are_seen(flat, monkeypatch):
    decode = ImageReader.decode
    monkeypatch.setattr(ImageReader, "decode", lambda self, item: 255 - decode(self, item))
    assert flat() == {"other values than the file's"}


def test_the_summary_counts():
    common = {"number": 7, "modality": "image", "layout": "tar", "damage": "none", "name": "a"}
    text = render([Outcome("exact", **common), Outcome("fault", **common, detail="boom")], "command")
    assert "| tar | 2 | 1 | 0 | 0 | 0 | 0 | 0 | 1 |" in text and "- 1 × boom (image, tar, damage: none" in text
