"""Labels of an archive's samples in files beside them."""

import json
import zipfile

import pytest

from core.data import archives, sidecars
from core.data.columns import Answers


@pytest.fixture
def read(tmp_path):
    """The labels in a zip with samples of the given names and one file beside each."""

    def read(ending, *contents, sample="{}.num"):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number, content in enumerate(contents):
                archive.writestr(sample.format(number), "5")
                if content is not None:
                    archive.writestr(f"{number}{ending}", content)
        members = archives.open_contents(str(path)).members
        samples = [sample.format(number) for number in range(len(contents))]
        found = sidecars.read_labels(members, samples)
        return [found.names.get(path, {}).get("label") for path in samples], found.notes

    return read


@pytest.mark.parametrize("content", [b"7", b"7\n", b"\xef\xbb\xbf7"])
def test_class_numbers(read, content):
    assert read(".cls", content, None, b"cat")[0] == ["7", None, "cat"]


@pytest.mark.parametrize("content", [b"\x80\x04K\x07.", b"\x07\0\0\0\0\0\0\0", b"\xff", b"", b"\x93NUMPY\x01\0"])
def test_binary_labels_are_unknown(read, content):
    labels, notes = read(".cls", content, b"3")
    assert labels == [None, "3"] and any("1 .cls files hold no label" in note and "0.cls" in note for note in notes)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (7, "7"),
        ("cat", "cat"),
        ({"label": 7}, "7"),
        ({"url": "x", "cls": 7.0}, "7"),
        ({"class": "cat", "y": 3}, "cat"),
        ({"label": [1, 0, 1]}, Answers((1, 0, 1), ("0", "1", "2"))),
    ],
)
def test_json(read, value, label):
    assert read(".json", json.dumps(value))[0] == [label]


@pytest.mark.parametrize("content", ["{", '{"url": "x"}', '{"label": {"a": 1}}', '{"label": [[1], [2, 3]]}', "null"])
def test_json_without_a_label(read, content):
    labels, notes = read(".json", content)
    assert labels == [None] and "1 .json files hold no label" in notes[0]


def test_texts_that_repeat_are_classes(read):
    assert read(".txt", "cat", "dog", "cat", "dog")[0] == ["cat", "dog", "cat", "dog"]
    assert read(".txt", "1", "2")[0] == ["1", "2"]


def test_texts_that_differ_are_captions(read):
    labels, notes = read(".txt", "a cat on a mat", "a dog", "two cats")
    assert labels == [None] * 3 and "3 texts" in notes[0] and "captions" in notes[0]


def test_a_sample_is_named_up_to_its_first_dot(read):
    assert read(".cls", "3", "4", sample="{}.left.num")[0] == ["3", "4"]
