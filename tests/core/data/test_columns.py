"""Arrays of labels: classes, answers to several questions, real values, and shapes that fit nothing."""

import numpy as np
import pytest

from core.data.columns import Answers, read_labels


def names(values, count=None, classes=None):
    values = np.asarray(values)
    return read_labels("y", values, count or len(values), classes).names


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 0], ["3", "0"]),
        ([[3], [0]], ["3", "0"]),
        ([[3, 0]], ["3", "0"]),
        ([3.0, 0.0], ["3", "0"]),
        (["cat", "a dog"], ["cat", "a dog"]),
        ([b"cat", "é".encode()], ["cat", "é"]),
        ([True, False], ["True", "False"]),
        (np.array([258, 1], ">u2"), ["258", "1"]),
        ([0.5, -1.0], ["0.5", "-1.0"]),
        (np.array([0.1, 2], np.float32), ["0.1", "2.0"]),
    ],
)
def test_one_label_each(values, expected):
    assert names(values, count=2) == [{"label": name} for name in expected]


@pytest.mark.parametrize("values", [[1, -1], [1.0, np.nan], [1.0, np.inf], ["1", ""]])
def test_labels_that_are_unknown(values):
    assert names(values) == [{"label": "1"}, {}]


def test_numbers_have_names():
    assert names([1, 0, -1], classes=np.array(["car", "bus"])) == [{"label": "bus"}, {"label": "car"}, {}]
    labels = read_labels("y", np.array([1, 2]), 2, np.array(["car", "bus"]))
    assert labels.names == [{"label": "1"}, {"label": "2"}] and "do not fit" in labels.notes[0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, 0, 1], [0, 0, 0]], [(1, 0, 1), (0, 0, 0)]),
        ([[True, False], [True, True]], [(1, 0), (1, 1)]),
        ([[1.0, np.nan], [0.0, 1.0]], [(1, -1), (0, 1)]),
        ([[1, -1], [0, 1]], [(1, -1), (0, 1)]),  # unknown beside yes and no
        ([[1, -1], [1, 1]], [(1, 0), (1, 1)]),  # no
        ([[0, 0], [0, 0]], [(0, 0), (0, 0)]),
    ],
)
def test_answers(values, expected):
    assert [label["label"].values for label in names(values)] == expected


def test_questions_have_names():
    assert names([[1, 1]] * 3, classes=np.array(["wet", "cold"]))[0]["label"] == Answers((1, 1), ("wet", "cold"))
    assert names([[1, 1]] * 3, classes=np.array(["wet"]))[0]["label"].questions == ("0", "1")


@pytest.mark.parametrize("values", [[[3, 1], [0, 2]], [[3.0, 1.0], [0.0, 2.0]], [["3", "1"], ["0", "2"]]])
def test_several_classes_each(values):
    assert names(values) == [{"label_0": "3", "label_1": "1"}, {"label_0": "0", "label_1": "2"}]


def test_several_real_values_each():
    assert names([[0.5, 1.0], [2.0, 2.5]])[1] == {"label_0": "2.0", "label_1": "2.5"}


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (np.zeros((5, 4, 4)), "does not fit 5 samples"),  # masks
        (np.zeros((4, 14)), "does not fit 5 samples"),
        (np.zeros((0,)), "does not fit 5 samples"),
        (np.array(7), "does not fit 5 samples"),
        (np.random.rand(5, 100), "100 numbers a sample"),
        (np.zeros(5, np.complex64), "type complex64"),
        (np.zeros(5, "datetime64[s]"), "datetime64"),
    ],
)
def test_arrays_that_label_nothing_are_left_out_with_a_note(values, note):
    labels = read_labels("y", values, 5)
    assert labels.names is None and note in labels.notes[0] and "'y' is left out" in labels.notes[0]
