"""The kinds of error that a user sees, and the words of their messages; everything else is a bug of ours."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches


class UserError(Exception):
    """The user's input was wrong: says what, which file or config key, and what to do. Commands exit with code 2."""


class IncompatibleError(UserError):
    """A method, a modality, data and their settings do not go together. `groups`: config groups that may be at fault."""

    def __init__(self, message: str, *, groups: Collection[str] = ()):
        super().__init__(message)
        self.groups = groups


class BadSample(Exception):
    """One sample cannot be used; the message is the reason. A run skips, counts and names it."""


def nearest(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of `choices` that look like `name`, best first."""
    return get_close_matches(name, sorted(set(choices)), n=count, cutoff=0.55)


def suggestion(name: str, choices: Iterable[str]) -> str:
    """The end of a message that `name` does not exist: the nearest of `choices`, and all of them."""
    choices = sorted(set(choices))
    guesses = nearest(name, choices)
    question = f" Did you mean {' or '.join(guesses)}?" if guesses else ""
    return f"{question} There are: {', '.join(choices) or 'none'}."


def one_line(error: Exception) -> str:
    """The message of another library's error, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
