"""The kinds of error that a user sees, and the words of their messages; everything else is a bug of ours."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from core.renames import RENAMES


class UserError(Exception):
    """The user's input was wrong. The message names the fault, its file or config key, and the remedy.

    Commands exit with code 2.
    """


class IncompatibleError(UserError):
    """Method, modality, data and settings do not go together. `groups`: config groups that may be at fault."""

    def __init__(self, message: str, *, groups: Collection[str] = ()):
        super().__init__(message)
        self.groups = groups


class BadSample(Exception):
    """One sample cannot be used; the message is the reason. A run skips, counts and names it.

    The reason has no address in memory, so that equal reasons are equal text, and no control characters.
    """

    def __init__(self, reason: str):
        super().__init__(printable_text(reason))


def nearest(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of `choices` that look like `name`, best first."""
    return get_close_matches(name, sorted(set(choices)), n=count, cutoff=0.55)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The question after a message that `name` does not exist, or nothing where no choice looks like it."""
    guesses = nearest(name, choices)
    if not guesses:
        return ""
    return f" Did you mean {' or '.join(guesses)}?"


def suggestion(
    name: str, choices: Iterable[str], whole: str = "", *, listed: Callable[[str], bool] = lambda choice: True
) -> str:
    """The end of a message that `name` does not exist: the nearest of `choices`, and all that are `listed`.

    Instead its successor, where `name` was renamed, or the longer name `whole`.
    """
    successor = RENAMES.get(whole) or RENAMES.get(name)
    if successor:
        return f" It is {successor} now."
    choices = sorted(set(choices))
    names = ", ".join(filter(listed, choices))
    return f"{did_you_mean(name, choices)} There are: {names or 'none'}."


def one_line(error: Exception) -> str:
    """The message of another library's error, on one line."""
    return " ".join(printable_text(str(error)).split()) or type(error).__name__


def printable_text(text: str) -> str:
    """A text without control characters, and without the objects it names by address: "<_io.BytesIO at 0x7f…>"."""
    text = re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", text, flags=re.IGNORECASE)
    return re.sub(r" ?[\x00-\x1f\x7f-\x9f]+", " ", text)


def join(key: str, name: Any) -> str:
    """The key of an item: `a.b`."""
    return f"{key}.{name}".removeprefix(".")


def show(value: Any) -> str:
    """A value as one would type it; an object by its class."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float | str):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: …" for name in value) + "}"
    return f"<{type(value).__name__}>"


def spelled(key: str, value: Any) -> str:
    """A setting as one would type it: `a.b=1` for `a` with the value {b: 1}."""
    while isinstance(value, Mapping) and len(value) == 1:
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    return f"{key}={show(value)}"
