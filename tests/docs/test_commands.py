"""Every training command of the documents is one that composes and builds: no setting is misspelt or gone."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from core.config import compose
from core.config.build import build_method
from core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("modalities/*/README.md"))]


def commands(page: str) -> list[list[str]]:
    """The settings of every `python -m core.train`; a quoted value may go over several lines."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S):
        for command in re.findall(r'python -m core\.train((?:[^"\n]|"[^"]*")*)', block):
            found.append([" ".join(word.split()) for word in shlex.split(command, comments=True)])
    return found


@pytest.mark.parametrize("page", PAGES)
def test_training_commands_build(page):
    assert commands(page)
    for settings in commands(page):
        try:
            with torch.device("meta"):
                build_method(compose(settings))
        except UserError as error:
            raise AssertionError(f"{page}: python -m core.train {shlex.join(settings)}: {error}") from None
