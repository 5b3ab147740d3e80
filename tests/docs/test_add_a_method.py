"""docs/add-a-method.md shows the lines that are in the tree."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def added_lines() -> dict[str, list[str]]:
    """The lines that the page's diffs add, by file."""
    lines: dict[str, list[str]] = {}
    page = (ROOT / "docs/add-a-method.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```diff\n(.*?)^```$", page, re.M | re.S):
        file = ""
        for line in block.splitlines():
            if line.startswith("+++ b/"):
                file = line.removeprefix("+++ b/")
            elif line.startswith("+"):
                lines.setdefault(file, []).append(line[1:])
    return lines


def test_the_page_adds_what_is_in_the_tree():
    files = added_lines()
    assert {"configs/method/simmim.yaml", "core/losses.py", "core/maskers.py", "core/encoder.py"} <= set(files)
    for file, lines in files.items():
        content = (ROOT / file).read_text(encoding="utf-8").splitlines()
        missing = [line for line in lines if line not in content]
        assert not missing, f"{file} no longer has {missing[0]!r}: bring docs/add-a-method.md up to date"


def test_the_config_is_shown_whole():
    lines = added_lines()["configs/method/simmim.yaml"]
    assert "\n".join(lines) + "\n" == (ROOT / "configs/method/simmim.yaml").read_text(encoding="utf-8")
