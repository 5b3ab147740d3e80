"""The `lacuna` command: `lacuna train modality=video` is `python -m core.train modality=video`.

Its console script puts its own folder in front of `sys.path`, not the working directory, so that the
installed packages are imported even where the working directory has a folder named `core`; `python -m
core.train` searches the working directory before them.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from textwrap import shorten
from types import ModuleType
from typing import Any

from core.catalogue import describe_choices
from core.errors import UserError, suggestion

COMMANDS = {
    "train": "train an encoder by predicting hidden parts",
    "evaluate": "measure a run's encoder",
    "compare": "a table of runs with intervals over seeds",
    "runs": "list runs with their key figures",
    "report": "write a run's report.html",
    "encode": "write features of your own samples into a file",
    "reconstruct": "draw your own samples, masked and reconstructed",
    "convert": "turn an official checkpoint into an encoder",
    "explain": "list the settings of a part: modality.reader, optim, method=mae",
}


class CallableModule(ModuleType):
    """A command's module that can be called: `core.train(…)` calls `core.train.function`.

    Python puts a module under its name into the package as soon as anything imports it, where it would hide a
    function.
    """

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return self.function(*arguments, **settings)


HELP = {"-h", "--help", "help"}
BROKEN_PIPE = 128 + 13  # the exit code of programs that SIGPIPE ends


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Ends the program quietly where the reader of its output went away: `lacuna --help | head -1`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # the interpreter flushes once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None


def command(
    argv: Sequence[str] | None,
    usage: Callable[[], str],
    carry_out: Callable[[list[str]], object],
) -> int:
    """Prints a command's help, or carries it out.

    Returns the exit code: 0, or 2 for a user's error, printed in one line.
    """
    _print_any_name()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with reader_may_leave():
            if HELP & set(argv):
                print(usage())
            else:
                carry_out(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _print_any_name() -> None:
    """Letters of file names that the terminal's encoding has not are printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: Sequence[str] | None = None) -> int:
    """Hands over to `core.<command>.main(argv)`. Returns its exit code, 2 for a user's error."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in HELP:
        with reader_may_leave():
            print(overview())
        return 0

    name, *rest = argv
    try:
        if name not in COMMANDS:
            raise UserError(f"there is no command {name!r}.{suggestion(name, COMMANDS)}")
        return import_module(f"core.{name}").main(rest) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def overview() -> str:
    """The text of `lacuna --help`: the commands, and the choices of every config group."""
    lines = ["usage: lacuna <command> [key=value ...]", "", *_table(COMMANDS)]
    lines += ["", "`lacuna <command> --help` lists its settings. Modality, method, data and sizes are chosen by"]

    for group, choices in describe_choices().items():
        if choices:
            lines += ["", f"{group}=", *_table(choices)]
    return "\n".join(lines)


def _table(descriptions: dict[str, str]) -> list[str]:
    """One line for each name, with its description beside it."""
    width = max(map(len, descriptions)) + 2
    lines = []
    for name, text in descriptions.items():
        lines.append(f"  {name:{width}}{shorten(text, 116 - width, placeholder=' …')}")
    return lines
