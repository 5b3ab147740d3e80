"""Ctrl-C and SIGTERM: finish the step, save, leave."""

import os
import signal
import threading
from types import FrameType


class Interrupted(Exception):
    """The run got a signal to stop. `saved`: a checkpoint of the very last step exists."""

    def __init__(self, number: int, saved: bool):
        super().__init__(signal.Signals(number).name)
        self.number, self.saved = number, saved


class Stop:
    """While entered, the first SIGINT or SIGTERM only sets `signal`; a second one interrupts at once.

    Forked loader workers inherit the handler: there it does nothing, so that Ctrl-C leaves them alive until
    the step is done.
    """

    def __init__(self):
        self.signal: int | None = None
        self._owner = os.getpid()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def __enter__(self) -> "Stop":
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # A worker that the same signal killed breaks the loader; a second Ctrl-C breaks anything. No save is possible.
        if self.signal is not None and isinstance(error, RuntimeError | KeyboardInterrupt):
            raise Interrupted(self.signal, saved=False) from error
