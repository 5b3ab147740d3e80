"""Killed at any moment, started again, a run ends with the same bits; signals end it in good order."""

import multiprocessing
import os
import signal
import sys
import time

import pytest
from safetensors.torch import load_file

from core.engine import checkpoint
from core.engine.stopping import Interrupted
from tests.core.engine import toy
from tests.waiting import ended, until

STEPS = 40
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.core.engine.toy", "torch._dynamo"])  # children start in milliseconds


def train_quietly(run_dir, kill_in_flush=None, slow=0.0):
    """Child process. `kill_in_flush`: SIGKILL to itself instead of the n-th flush to the disk. Exits 128 + signal."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if kill_in_flush is not None:
        flushes, flush = iter(range(kill_in_flush)), checkpoint.flush_to_disk

        def flush_or_die(path):
            if next(flushes, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            flush(path)

        checkpoint.flush_to_disk = flush_or_die
    if slow:
        toy.ToyMethod.before_step = lambda self, progress: time.sleep(slow)
    try:
        toy.train_toy(run_dir, STEPS, checkpoint_every=4)
    except Interrupted as stopped:
        sys.exit(128 + stopped.number)


def start(run_dir, **how):
    child = CONTEXT.Process(target=train_quietly, args=(run_dir,), kwargs=how)
    child.start()
    return child


def finish(run_dir) -> dict:
    """Starts until the end is reached; final weights, averages and optimiser state."""
    assert ended(start(run_dir)) == [0]
    folder = run_dir / "checkpoints" / f"step_{STEPS:08d}"
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "state.safetensors")}


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("whole"))


def test_killed_at_random_moments(tmp_path, whole):
    """Six kills, each a little later after the run directory has shown its next sign of life."""
    for attempt in range(6):
        child = start(tmp_path, slow=0.01)
        before = newest(tmp_path)
        until(lambda before=before: newest(tmp_path) != before, child)
        time.sleep(0.007 * attempt)
        child.kill()
        ended(child)
    assert equal(whole, finish(tmp_path))


def newest(run_dir):
    return max((run_dir / "checkpoints").glob("step_*"), default=None)


@pytest.mark.parametrize("flush", [0, 2, 3, 4, 9])
def test_killed_while_a_checkpoint_is_written(tmp_path, whole, flush):
    """A checkpoint flushes two tensor files, the JSON, the folder and, renamed, its parent."""
    assert ended(start(tmp_path, kill_in_flush=flush)) == [-signal.SIGKILL]
    assert equal(whole, finish(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_the_last_step_and_leave(tmp_path, whole, number):
    child = start(tmp_path, slow=0.02)
    until(lambda: newest(tmp_path) is not None, child)
    before = newest(tmp_path)
    os.kill(child.pid, number)
    assert ended(child) == [128 + number]
    assert newest(tmp_path) >= before
    assert equal(whole, finish(tmp_path))
