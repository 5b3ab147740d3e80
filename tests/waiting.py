"""Waits that end: every wait has a limit, and none goes on for a process that has died."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from subprocess import Popen

SECONDS = 120.0  # of one wait; what tests wait for takes a few seconds, more on a busy machine


def until(condition: Callable[[], bool], child: BaseProcess | Popen, seconds: float = SECONDS) -> None:
    """Waits until `condition` holds, which `child` brings about.

    Raises: AssertionError where the child has ended without it, or `seconds` have passed; the child is killed then.
    """
    end = time.monotonic() + seconds
    while not condition():
        alive = child.poll() is None if isinstance(child, Popen) else child.is_alive()
        if not alive and not condition():
            raise AssertionError(f"the process has ended before that, {exit_of(child)}")
        if time.monotonic() > end:
            child.kill()
            raise AssertionError(f"nothing after {seconds:.0f} s; the process is killed")
        time.sleep(0.001)


def ended(*children: BaseProcess, seconds: float = SECONDS) -> list[int]:
    """Waits for the end of all `children`; their exit codes.

    Raises: AssertionError where one is left after `seconds`, or waits for another that has failed; it is killed then.
    """
    end = time.monotonic() + seconds
    while any(child.is_alive() for child in children) and time.monotonic() < end:
        for child in children:
            child.join(0.05)
        if any(child.exitcode for child in children):
            end = min(end, time.monotonic() + 10)  # the others may end by themselves

    late = [number for number, child in enumerate(children) if child.is_alive()]
    for number in late:
        children[number].kill()
        children[number].join()
    codes = [child.exitcode for child in children]
    assert not late, f"processes {late} did not end and are killed; exit codes {codes}"
    return codes


def exit_of(child: BaseProcess | Popen) -> str:
    """Exit code, and the errors printed where they come through a pipe."""
    if isinstance(child, BaseProcess):
        return f"exit code {child.exitcode}"
    errors = child.stderr.read() if child.stderr else ""
    return f"exit code {child.returncode} {errors}".strip()


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside the block after `seconds`, also from a wait for a lock, a pipe or a socket."""

    def stop(number, frame):
        raise TimeoutError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
