"""Applies a function to many parts of a task in forked processes.

Not in threads: with NumPy calls of some 10 µs, two threads were no faster than one.
"""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar, cast

MAX_WORKERS = 16
Part = TypeVar("Part")


def map_parallel(function: Callable[[Part], int], parts: Sequence[Part]) -> Generator[int]:
    """Results of the function for all parts, in the order in which they finish.

    Without fork (macOS, Windows), with one core or one part, all happens in this process.
    Raises: the function's exceptions; RuntimeError where a worker was killed.
    """
    count = min(_cores(), len(parts), MAX_WORKERS)
    if count < 2 or multiprocessing.current_process().daemon:
        yield from map(function, parts)
        return

    workers = [_start(function, parts[number::count]) for number in range(count)]
    try:
        yield from _results([connection for connection, _ in workers])
    finally:
        for connection, process in workers:
            connection.close()
            process.terminate()
            process.join()


def _cores() -> int:
    """Cores that forked processes may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return 1


def _start(function: Callable[[Part], int], parts: Sequence[Part]) -> tuple[Connection, BaseProcess]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_work,
        args=(function, parts, sender, os.getpid()),
        daemon=True,
    )
    with warnings.catch_warnings():
        # From Python 3.12 on, about threads that may hold locks; the workers take none but their own.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()

    sender.close()  # so that the end of the worker ends the connection
    return receiver, process


def _work(function: Callable[[Part], int], parts: Sequence[Part], out: Connection, parent: int) -> None:
    """Sends a result for each part, then None; or the exception that ended the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent's handler is not for this process

    for part in parts:
        if os.getppid() != parent:  # the parent was killed
            return
        try:
            out.send(function(part))
        except Exception as error:
            out.send(error)
            return
    out.send(None)


def _results(connections: list[Connection]) -> Iterator[int]:
    """Results from all connections until every worker has sent its None."""
    while connections:
        for connection in cast(list[Connection], wait(connections)):
            try:
                result = connection.recv()
            except EOFError:
                message = "a process that was making samples was killed; is there enough memory?"
                raise RuntimeError(message) from None

            if isinstance(result, Exception):
                raise result
            if result is None:
                connections.remove(connection)
            else:
                yield result
