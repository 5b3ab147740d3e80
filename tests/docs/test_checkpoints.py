"""The documents' own lines about checkpoints run, against files in the layouts that they name."""

import re
from pathlib import Path

import pytest
import torch

from core.convert import main
from tests.core.official_files import official_i2p_mae, official_mae, official_point_mae, official_videomae

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("modalities/*/README.md"))]
FILE = re.compile(r"[\"'=]([\w./-]+\.(?:pth|pt|safetensors))\b")


def python_lines(page: str) -> list[str]:
    """Of every Python block that names a weight file: its imports, and the lines with the file."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = []
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        if FILE.search(block):
            imports = re.findall(r"^(?:from|import) .*$", block, re.M)
            lines += imports + [line for line in block.splitlines() if FILE.search(line)]
    return lines


def commands(page: str) -> list[list[str]]:
    """The settings of every `python -m core.convert` that names a file."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split() for line in re.findall(r"python -m core\.convert ([^\n`#]+)", text) if FILE.search(line)]


def save_file_for(name: str) -> None:
    """A file of random weights, of the method in the file's name."""
    state = distilled()
    if "point_mae" in name:
        state = official_point_mae()
    elif "i2p_mae" in name:
        state = official_i2p_mae()
    elif "mae_" in name and "video" not in name:
        state = official_mae()
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state}, name)


def distilled() -> dict[str, torch.Tensor]:
    """The layout in which VideoMAE V2's ViT-S and ViT-B are published (its MODEL_ZOO)."""
    encoder = {key.removeprefix("encoder."): x for key, x in official_videomae().items() if key.startswith("encoder.")}
    encoder |= {f"fc_norm.{part}": encoder.pop(f"norm.{part}") for part in ("weight", "bias")}
    return encoder | {"head.weight": torch.zeros(5, 192), "head.bias": torch.zeros(5)}


def test_the_readme_shows_how_checkpoints_are_opened():
    assert any("load_official" in line for line in python_lines("README.md"))
    assert any("weights=" in line for line in python_lines("README.md"))


@pytest.mark.filterwarnings("ignore")  # notes on what is left out
@pytest.mark.parametrize("page", PAGES)
def test_python_lines_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = python_lines(page)
    for line in lines:
        for name in FILE.findall(line):
            save_file_for(name)
    data = {"torch": torch, "images": torch.rand(1, 3, 32, 32), "clips": torch.rand(1, 3, 4, 16, 16)}
    exec(compile("\n".join(lines), page, "exec"), data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [*PAGES, "core/convert.py"])
def test_conversions_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        for name in FILE.findall(" ".join(words)):
            save_file_for(name)
        assert main(words) == 0, words
