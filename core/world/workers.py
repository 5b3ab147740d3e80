"""Applies a function to many parts of a work in forked processes.

Not in threads: with NumPy calls of some 10 µs, two threads were no faster than one.
"""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

MAX_WORKERS = 16
Part = TypeVar("Part")


def each(function: Callable[[Part], int], parts: Sequence[Part]) -> Iterator[int]:
    """Results of the function for all parts, as they get done, in any order; its exceptions are raised here.

    Without fork (macOS, Windows), with one core or one part, it happens in this process.
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
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def _start(function: Callable[[Part], int], parts: Sequence[Part]) -> tuple[Connection, BaseProcess]:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_work, args=(function, parts, theirs, os.getpid()), daemon=True
    )
    with warnings.catch_warnings():
        # From Python 3.12 on, about threads that may hold locks; the workers take none but their own.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()  # so that the end of the worker ends the connection
    return ours, process


def _work(function: Callable[[Part], int], parts: Sequence[Part], out: Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever the parent does on it
    for part in parts:
        if os.getppid() != parent:  # it was killed
            return
        try:
            out.send(function(part))
        except Exception as error:
            out.send(error)
            return
    out.send(None)


def _results(connections: list[Connection]) -> Iterator[int]:
    while connections:
        for connection in wait(connections):
            try:
                result = connection.recv()
            except EOFError:
                raise RuntimeError("a process that was making samples was killed; is there enough memory?") from None
            if isinstance(result, Exception):
                raise result
            if result is None:
                connections.remove(connection)
            else:
                yield result
