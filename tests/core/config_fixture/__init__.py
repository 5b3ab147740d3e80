"""A small config tree, and a plug-in package with toy parts, which is installed as far as Python can tell."""

from pathlib import Path

HERE = Path(__file__).parent
TREE = [HERE / "configs"]


def install(monkeypatch) -> None:
    """Makes the plug-in `lacuna_toy` importable and its entry point known, for one test."""
    monkeypatch.syspath_prepend(HERE)
