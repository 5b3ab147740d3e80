"""Installed plug-ins: packages with modalities, methods and configs of their own."""

import sys
from functools import cache
from importlib.metadata import entry_points


def plugins() -> dict[str, str]:
    """Packages of the installed plug-ins, by the name of their entry point. Imports none of them."""
    return _plugins(tuple(sys.path))


@cache
def _plugins(path: tuple[str, ...]) -> dict[str, str]:
    entries = entry_points(group="lacuna.plugins")  # takes milliseconds, and depends on the path alone
    return {entry.name: entry.value.partition(":")[0].strip() for entry in entries}
