"""Conventions of the tests themselves."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def test_no_test_file_imports_from_another():
    """Helpers stand in conftest.py or in a module that is named for them."""
    imports = {}
    for path in TESTS.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        modules = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        imports |= {str(path.relative_to(TESTS)): name for name in modules if name.split(".")[-1].startswith("test_")}
    assert imports == {}
