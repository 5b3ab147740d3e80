"""Held-out figures are measured a few times a run, for a small share of its time, and a failure ends only them."""

import pytest

from core.engine import watching
from core.engine.watching import Watching
from core.errors import UserError


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""
    now = [0.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])
    return now


def measured_steps(watch, clock, steps, seconds=1.0) -> list[int]:
    measured = []
    for step in range(1, steps + 1):
        clock[0] += seconds
        if watch.after(step):
            measured.append(step)
    return measured


@pytest.mark.parametrize(
    ("steps", "times", "expected"),
    [(1000, 10, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]), (1000, 2, [500, 1000]), (250, 10, [100, 200])],
)
def test_measured_at_even_steps_but_not_too_often(clock, steps, times, expected):
    watch = Watching(lambda: {"skill": 0.5}, steps=steps, times=times, note=print)
    assert measured_steps(watch, clock, steps) == expected


def test_measuring_takes_a_twentieth_of_the_time_at_most(clock):
    def measure():
        clock[0] += 15
        return {"skill": 0.5}

    # 15 s after step 100 are a twentieth of 300 s: the next is due at step 300, after 315 s.
    watch = Watching(measure, steps=1000, times=10, note=print)
    assert measured_steps(watch, clock, 1000) == [100, 300, 600, 900]


@pytest.mark.parametrize(("measure", "times"), [(None, 10), (lambda: {"skill": 0.5}, 0)])
def test_nothing_is_measured_without_measure_or_times(clock, measure, times):
    assert measured_steps(Watching(measure, steps=1000, times=times, note=print), clock, 1000) == []


def test_a_failure_is_noted_once(clock):
    def measure():
        raise UserError("no test samples")

    notes = []
    watch = Watching(measure, steps=1000, times=10, note=notes.append)
    assert measured_steps(watch, clock, 1000) == []
    assert notes == ["held-out figures are not measured while training: no test samples"]
