"""The waits of tests end: for what never comes, for a process that died, for a lock."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from tests.waiting import ended, limit, until

CONTEXT = multiprocessing.get_context("forkserver")


def started(target, *arguments):
    child = CONTEXT.Process(target=target, args=arguments)
    child.start()
    return child


def test_a_wait_for_what_never_comes_ends():
    child = started(time.sleep, 60)
    with pytest.raises(AssertionError, match="nothing after"):
        until(lambda: False, child, seconds=0.2)
    assert ended(child) == [-9]


def test_a_dead_child_is_noticed():
    child = started(os._exit, 3)
    with pytest.raises(AssertionError, match="exit code 3"):
        until(lambda: False, child)
    command = subprocess.Popen([sys.executable, "-c", "raise SystemExit(4)"])
    with pytest.raises(AssertionError, match="exit code 4"):
        until(lambda: False, command)


def test_who_does_not_end_is_killed():
    child = started(time.sleep, 60)
    with pytest.raises(AssertionError, match=r"processes \[0\] did not end"):
        ended(child, seconds=0.2)
    assert child.exitcode == -9


def test_a_test_that_waits_for_a_lock_is_ended():
    lock = threading.Lock()
    with lock, pytest.raises(TimeoutError, match=r"0\.1 s"), limit(0.1):
        lock.acquire()


@pytest.mark.parametrize("run", range(2))
def test_every_test_begins_with_one_seed(run):
    assert torch.initial_seed() == 0
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))
    assert np.random.rand() == np.random.RandomState(0).rand()
