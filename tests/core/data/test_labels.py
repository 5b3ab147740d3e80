"""Names of labels become class numbers, or answers."""

from core.data.columns import Answers
from core.data.labels import numbers


def answers(*rows, questions=None):
    width = len(rows[0])
    return [{"label": Answers(row, questions or tuple(map(str, range(width))))} for row in rows]


def test_class_numbers():
    found = numbers([{"label": "dog"}, {"label": "cat"}, {}, {"label": "-1"}])
    assert found.numbers == [{"label": 1}, {"label": 0}, {}, {}] and found.classes == {"label": ["cat", "dog"]}
    assert not found.questions and not found.notes


def test_several_answers():
    found = numbers([*answers((1, 0, 1), (0, 0, 0), (-1, -1, -1)), {}])
    assert found.numbers == [{"label": (1, 0, 1)}, {"label": (0, 0, 0)}, {}, {}]
    assert found.questions == {"label": ["0", "1", "2"]} and not found.classes


def test_one_hot_rows_are_classes():
    found = numbers(answers((0, 0, 1), (1, 0, 0), (-1, -1, -1)))
    assert found.numbers == [{"label": 2}, {"label": 0}, {}] and found.classes == {"label": ["0", "1", "2"]}
    assert "one-hot" in found.notes[0]


def test_one_hot_rows_beside_class_numbers():
    """As y_train one-hot and y_test numbers."""
    found = numbers([*answers((0, 0, 1), (1, 0, 0)), {"label": "2"}])
    assert [label["label"] for label in found.numbers] == [2, 0, 2]


def test_one_hot_rows_with_names():
    found = numbers(answers((0, 1), (1, 0), questions=("dog", "cat")))
    assert found.classes == {"label": ["cat", "dog"]} and found.numbers == [{"label": 0}, {"label": 1}]


def test_one_row_that_is_not_one_hot_makes_all_answers():
    assert numbers(answers((0, 1), (0, 0))).questions == {"label": ["0", "1"]}


def test_names_of_questions_from_any_file():
    found = numbers([*answers((1, 1)), *answers((0, 1), questions=("wet", "cold"))])
    assert found.questions == {"label": ["wet", "cold"]}


def test_labels_that_do_not_go_together_are_left_out():
    mixed = numbers([*answers((1, 1)), {"label": "cat"}])
    unlike = numbers([*answers((1, 1)), *answers((1, 1, 0))])
    for found in (mixed, unlike):
        assert found.numbers == [{}, {}] and "label is left out" in found.notes[0]


def test_real_values_are_noted():
    found = numbers([{"label": "0.5"}, {"label": "-1.0"}])
    assert sorted(found.classes["label"]) == ["-1.0", "0.5"] and "real values" in found.notes[0]
    assert not numbers([{"label": "inf"}, {"label": "cat"}]).notes
