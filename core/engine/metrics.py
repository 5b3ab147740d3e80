"""A run's log: metrics.jsonl, TensorBoard and the display."""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

# Generated classes, which appear at run time only.
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from core.engine.progress import Display, spell_held_out
from core.files import explain_write_errors, write_atomic

SHOWN = 3  # skipped samples that the display names between two log lines; metrics.jsonl names all


class Metrics:
    """Writes one JSON object a line; only the main rank does anything.

    A resumed run first drops the lines of steps that are about to be taken again. Files are opened for every
    write and no other thread has a part in it, so that a full disk is one clean error.
    """

    def __init__(self, run_dir: Path, start: int, display: Display, main: bool):
        self._path, self._main = run_dir / "metrics.jsonl", main
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._board = run_dir / "tensorboard" / name

        self.display, self._skipped = display, set()
        if main:
            with explain_write_errors(self._path):
                truncate_log(self._path, start)
                self._skipped = skipped_keys(self._path)
                self._board.parent.mkdir(exist_ok=True)
            self._events(Event(file_version="brain.Event:2"))
            self._events(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))  # drops later steps

    def train(self, step: int, epoch: float, values: dict[str, float], skipped: int) -> None:
        """A log line after `step` steps: means and speed since the last one.

        `skipped`: how often a sample was bad since the beginning; the display counts each of them once.
        """
        line = {"kind": "train", "step": step, "epoch": epoch, **values, "skipped": skipped, "time": time.time()}
        self._write(line)

        points = [Summary.Value(tag=f"train/{name}", simple_value=value) for name, value in values.items()]
        self._events(Event(step=step, summary=Summary(value=points)))
        self.display.metrics(line | {"skipped": len(self._skipped)})

    def held_out(self, step: int, values: Mapping[str, float | str]) -> None:
        """Held-out figures after `step` steps, where there are any."""
        if not values:
            return

        self._write({"kind": "held_out", "step": step, **values})
        points = []
        for name, value in values.items():
            if not isinstance(value, str):
                points.append(Summary.Value(tag=f"held_out/{name}", simple_value=value))
        self._events(Event(step=step, summary=Summary(value=points)))
        self.display.note(f"step {step}  held out: {spell_held_out(values)}")

    def skips(self, skips: list[tuple[int, str, str]]) -> None:
        """Bad samples: (step from 0, key, reason). Lines count steps from 1; the display names a sample once."""
        fresh = {}
        for step, key, reason in skips:
            self._write({"kind": "skip", "step": step + 1, "key": key, "reason": reason})
            if key not in self._skipped:
                self._skipped.add(key)
                fresh[key] = reason

        for key, reason in list(fresh.items())[:SHOWN]:
            self.display.note(f"skipped {key}: {reason}")
        if len(fresh) > SHOWN:
            self.display.note(f"skipped {len(fresh) - SHOWN} more: see {self._path}")

    def stop(self, step: int, reason: str, keys: list[str]) -> None:
        """Why a run ended before its time, and the samples concerned."""
        self._write({"kind": "stop", "step": step, "reason": reason, "keys": keys})

    def _write(self, line: dict) -> None:
        if self._main:
            with explain_write_errors(self._path), open(self._path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")

    def _events(self, event: Event) -> None:
        if self._main:
            event.wall_time = time.time()
            with explain_write_errors(self._board), open(self._board, "ab") as stream:
                RecordWriter(stream).write(event.SerializeToString())


def skipped_keys(path: Path) -> set[str]:
    """The bad samples that a log names."""
    keys = set()
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if line["kind"] == "skip":
                keys.add(line["key"])
    return keys


def truncate_log(path: Path, start: int) -> None:
    """Keeps the whole lines up to step `start`; a line that a kill cut short goes as well."""
    if not path.exists():
        return

    lines = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and json.loads(line).get("step", 0) <= start:
            lines.append(line)

    write_atomic(path, "".join(lines))
