"""Density and plain names of `core` and `modalities`: code with air, one idea per statement, nouns for names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONG_FUNCTION = 8  # lines; shorter bodies need no blank line
COLUMNS = 110

# Participles and pronouns: the noun of the thing says more.
VAGUE_TEXT = """
found known seen asked kept chosen first said told right wanted inside others other own each one whole made left
given taken lacking held standing drawn tried fresh among beside
"""
VAGUE = set(VAGUE_TEXT.split())
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@pytest.fixture(scope="module")
def sources() -> list[str]:
    paths = [*(ROOT / "core").rglob("*.py"), *(ROOT / "modalities").rglob("*.py")]
    assert len(paths) > 50
    return [path.read_text(encoding="utf-8") for path in paths]


def test_long_functions_have_blank_lines_between_their_stages(sources):
    bodies = [body for text in sources for body in long_bodies(text)]
    lines = [line for body in bodies for line in body]
    assert share(not line.strip() for line in lines) >= 0.05


def test_names_are_nouns(sources):
    names = [name for text in sources for name in assigned_names(text)]
    assert share(name in VAGUE for name in names) <= 0.01


def test_comprehensions_and_ternaries_are_rare(sources):
    count = sum(clever_expressions(text) for text in sources)
    assert count / sum(code_lines(text) for text in sources) <= 0.04


def test_lines_are_short(sources):
    lines = [line for text in sources for line in text.splitlines()]
    assert share(len(line) <= COLUMNS for line in lines) >= 0.98


def test_the_measures_see_what_they_are_for():
    dense = "def f(x):\n" + "".join(f"    a{i} = {i}\n" for i in range(9)) + "    found = [y if y else 0 for y in x]\n"
    assert [line for body in long_bodies(dense) for line in body if not line.strip()] == []
    assert list(long_bodies("def f():\n    return 1\n")) == []
    assert [name for name in assigned_names(dense) if name in VAGUE] == ["found"]
    assert clever_expressions(dense) == 2 and code_lines(dense + "\n# comment\n") == 11


def long_bodies(text: str) -> Iterator[list[str]]:
    """Lines of the bodies, docstrings left out, of functions longer than `LONG_FUNCTION`."""
    source = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            start = node.body[0].lineno
            if ast.get_docstring(node, clean=False) is not None:
                start = node.body[0].end_lineno + 1
            body = source[start - 1 : node.end_lineno]
            if len(body) > LONG_FUNCTION:
                yield body


def assigned_names(text: str) -> Iterator[str]:
    """Names of variables and arguments."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id != "_":
            yield node.id
        elif isinstance(node, ast.arg) and node.arg not in ("self", "cls"):
            yield node.arg


def clever_expressions(text: str) -> int:
    return sum(isinstance(node, (*COMPREHENSIONS, ast.IfExp)) for node in ast.walk(ast.parse(text)))


def code_lines(text: str) -> int:
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())


def share(flags) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)
