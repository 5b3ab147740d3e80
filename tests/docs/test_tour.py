"""The blocks of docs/tour.md and the example of the README run as they stand, with less data and fewer steps.

Commands are called in this process, where torch is loaded already; settings are appended, nothing is replaced.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = "steps=300"  # the length of every run in the tour

SMALL = {
    "size.dim": 24,
    "size.depth": 1,
    "size.heads": 2,
    "method.readouts.main.decoder.dim": 24,
    "method.readouts.main.decoder.trunk.depth": 1,
    "precision": "fp32",
    "engine.workers": 0,
    "steps": 2,
}
WORLD = {"data.source.train": 16, "data.source.test": 8, "batch_size": 4}


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and code of every fenced block."""
    yield from re.findall(r"^```(bash|python)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


def run_command(line: str) -> int:
    """One line of a bash block; returns its exit code."""
    words = shlex.split(line, comments=True)
    if words[0] == "pip":
        return 0
    if words[0] == "ls":
        assert {"config.yaml", "encoder", "metrics.jsonl"} <= {path.name for path in Path(words[1]).iterdir()}
        return 0

    assert words[:2] == ["python", "-m"], line
    arguments = words[3:]
    if STEPS in arguments:
        settings = SMALL if "data=folder" in arguments else {**WORLD, **SMALL}
        arguments += [f"{key}={value}" for key, value in settings.items()]
    return import_module(words[2]).main(arguments)


def run_python(code: str, names: dict) -> None:
    """A Python block, in the names of the blocks before it."""
    exec(compile(code.replace(STEPS, "**SMALL"), "docs/tour.md", "exec"), names)


@pytest.fixture
def small_world(tmp_path, monkeypatch) -> Mapping:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "cache"))
    return {**WORLD, **SMALL}


def test_every_block_of_the_tour_runs(small_world, capsys):
    names = {"SMALL": small_world}
    for language, code in blocks("docs/tour.md"):
        if language == "python":
            run_python(code, names)
            continue

        for line in code.strip().splitlines():
            expected = 2 if "exits with 2" in line else 0
            assert run_command(line) == expected, f"{line}\n{capsys.readouterr().err}"

    assert names["features"].pooled.shape == (4, 24) and names["run"].is_finished
    assert Path("runs/tour/report.html").exists() and list(Path("runs/boxes/evaluation").glob("knn*.json"))
    assert all(Path(name).exists() for name in ("features.csv", "red.png", "both.png", "table.tex"))


def test_the_example_of_the_readme_has_the_shapes_that_it_states():
    """Every comment that ends like `: latent.features (1, 16)` states the shape of that value."""
    example = next(code for language, code in blocks("README.md") if "masks = " in code)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)

    claims = re.findall(r"# .*: (\S+) (\([\d, ]+\))$", example, re.M)
    assert len(claims) == 6
    for expression, shape in claims:
        assert str(tuple(eval(expression, names).shape)) == shape, expression
