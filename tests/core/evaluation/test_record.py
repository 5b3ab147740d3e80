"""Records: one file for each task, data, settings and set of runs, with a name that people read."""

import re

import pytest

from core.evaluation.record import about, file_name, heading, subject
from core.evaluation.settings import EvaluationSettings

DATA = {"data": {"name": "folder", "root": "/pictures/flowers"}}


def name_of(data=None, **settings):
    settings = EvaluationSettings(**{"run": "runs/a", "task": "knn", **settings})
    return file_name(heading(settings, DATA), data)


def test_a_run_on_its_own_data_by_default_settings_is_named_by_its_task():
    assert name_of() == "knn" == name_of(workers=3, device="cpu")  # which change no figure
    assert name_of(task="reconstruction") == "reconstruction"


def test_all_that_differs_has_a_file_of_its_own():
    names = [
        name_of(),
        name_of(data=DATA),
        name_of(data={"data": {"name": "folder", "root": "/others/flowers"}}),
        name_of(seeds=5),
        name_of(shots=3),
        name_of(shots=3, data=DATA),
        name_of(run=["runs/a", "runs/b"]),
        name_of(run=["runs/a", "runs/c"]),
        name_of(compare_to="runs/b"),
        name_of(compare_to=["runs/b", "runs/c"]),
        name_of(run=["runs/a", "runs/b"], compare_to="runs/c"),
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.=-]+", name) for name in names)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"data": DATA, "shots": 3}, "knn-flowers-shots=3-[0-9a-f]{6}"),
        ({"run": ["runs/a", "runs/b", "runs/c"]}, "knn-3runs-[0-9a-f]{6}"),
        ({"compare_to": "runs/b x"}, "knn-against_b_x-[0-9a-f]{6}"),
    ],
)
def test_names_are_read(settings, pattern):
    assert re.fullmatch(pattern, name_of(**settings))


def test_the_same_runs_in_another_order_are_the_same_set():
    assert name_of(run=["runs/a", "runs/b"]) == name_of(run=["runs/b", "runs/a"])


def test_a_record_says_what_it_is_about():
    settings = EvaluationSettings(["runs/a", "runs/b"], "knn", shots=3, compare_to="runs/c")
    head = heading(settings, DATA)
    assert about(head) == (
        "knn, mean of 2 runs (runs/a, runs/b), data=folder /pictures/flowers, shots=3, compared with runs/c"
    )
    assert subject(head) == "mean of 2 runs"
    old = {"task": "knn", "run": "runs/a", "data": "world", "beside": []}
    assert about(old) == "knn, data=world" and subject(old) == "this run"
