"""Words for messages: nearest names for one that does not exist, other libraries' errors on one line."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of `choices` that look like `name`, best first."""
    return get_close_matches(name, sorted(set(choices)), n=count, cutoff=0.55)


def suggestion(name: str, choices: Iterable[str]) -> str:
    """The end of a message that `name` does not exist: the nearest of `choices`, and all of them."""
    choices = sorted(set(choices))
    near = nearest(name, choices)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"{hint} There are: {', '.join(choices) or 'none'}."


def one_line(error: Exception) -> str:
    """What another library says was wrong, without the search path that Hydra adds."""
    return " ".join(str(error).split("\nConfig search path")[0].split()) or type(error).__name__
