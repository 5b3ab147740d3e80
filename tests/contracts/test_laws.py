"""Law 1: core names no modality. Law 3: a modality is a package from outside, and trains without a change to core."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from core.config import compose
from core.config.files import choices, read
from core.train import main
from core.trees import paths

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "core").rglob("*.py"))
MODALITIES = {p.name for p in (ROOT / "modalities").iterdir() if (p / "__init__.py").exists()} | set(
    choices("modality")
)


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def decisive(tree: ast.AST) -> Iterator[ast.AST]:
    """Where a string decides something: comparisons, keys, arguments. (Names of columns in a list file do not.)"""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield from (node.left, *node.comparators)
        elif isinstance(node, ast.Subscript):
            yield node.slice
        elif isinstance(node, ast.Dict):
            yield from (key for key in node.keys if key is not None)
        elif isinstance(node, ast.MatchValue):
            yield node.value
        elif isinstance(node, ast.Call):
            yield from (*node.args, *(keyword.value for keyword in node.keywords))


def named(tree: ast.AST) -> set[str]:
    spots = [n for spot in decisive(tree) for n in ast.walk(spot) if isinstance(n, ast.Constant)]
    return {spot.value for spot in spots if spot.value in MODALITIES}


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_core_neither_imports_nor_names_a_modality(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [name for name in imported(tree) if name.split(".")[0] == "modalities"]
    assert not named(tree), "core must not tell modalities apart; let the modality's config or parts say what differs"


@pytest.mark.parametrize(
    "code",
    [
        "import modalities.video.reader",
        "from modalities import image",
        "import_module('modalities.image')",
        "if modality == 'video': pass",
        "if name in ('image', 'video'): pass",
        "x = {'image': 1}",
        "x = views['image']",
        "draw('image')",
    ],
)
def test_what_the_law_forbids_is_found(code):
    tree = ast.parse(code)
    assert named(tree) or [name for name in imported(tree) if name.split(".")[0] == "modalities"]


@pytest.fixture
def signals(tmp_path, monkeypatch) -> Path:
    """Installs the plug-in as far as Python can tell, and writes some signals."""
    monkeypatch.syspath_prepend(ROOT / "tests/contracts/plugin")
    folder = tmp_path / "signals"
    folder.mkdir()
    drawn = np.random.default_rng(0)
    for i in range(24):
        phase, speed = drawn.uniform(0, 6, 2)
        time = np.arange(40) / 8
        np.save(folder / f"{i:02}.npy", np.stack([np.sin(speed * time + phase), np.cos(speed * time)]).astype("f4"))
    return folder


def test_a_modality_from_outside_trains(signals, tmp_path, capsys):
    run_dir = tmp_path / "run"
    own = ["modality=signal", f"data.root={signals}", f"run_dir={run_dir}", "size=nano", "method.encoder.trunk.depth=1"]
    own += ["steps=4", "batch_size=8", "precision=fp32", "engine=debug", "optim.base_lr=0.03"]
    assert main(own) == 0, capsys.readouterr().err
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 4 and all(np.isfinite(losses))

    from core import load_encoder

    said = load_encoder(run_dir)(torch.zeros(2, 2, 32))
    assert said.tokens.shape == (2, 8, 128) and said.grid == (8,)


def test_a_modality_from_outside_brings_its_settings_for_the_generated_world(signals, tmp_path):
    (tmp_path / "modality").mkdir()
    (tmp_path / "modality" / "rendered.yaml").write_text("""
extends: signal
choose: {method: mae, data: world}
size: ${oc.select:data.on_world.size,[32]}
world: {_target_: modalities.image.world.ImageWorld}
on_world: {size: [16], batch_size: 4, steps: 7}
""")
    config = compose(["modality=rendered"], [tmp_path])
    assert (config["batch_size"], config["steps"], config["modality"]["size"]) == (4, 7, [16])
    assert config["data"]["source"] == {"_target_": "modalities.image.world.ImageWorld"}

    ours = compose(["modality=rendered", "data=folder", "data.root=x"], [tmp_path])
    assert (ours["batch_size"], ours["steps"], ours["modality"]["size"]) == (64, None, [32])


def words(group: str, names: set[str]) -> list[str]:
    """Where files of a config group name one of `names`, but for files that they choose or take, and classes."""
    places = []
    for file in choices(group).values():
        content = {key: value for key, value in read(file).items() if key not in ("choose", "modalities")}
        for path, value in paths(content):
            is_part = isinstance(value, dict) or path.endswith("_target_")
            text = path if is_part else f"{path} {value}"
            if names & set(re.findall(r"\w+", text)):
                places.append(f"{file.name}: {path}")
    return places


def test_a_new_modality_or_method_needs_no_edit_of_other_groups():
    methods, modalities = set(choices("method")), set(choices("modality"))
    assert not words("data", modalities | methods)
    own = {f"{name}.yaml: name" for name in modalities}
    assert set(words("modality", methods | modalities)) <= own


def test_what_a_modality_from_outside_lacks_is_blamed_on_the_right_choice(signals, capsys):
    assert main(["modality=signal", "data=world"]) == 2
    error = capsys.readouterr().err
    assert "data=world does not fit modality=signal: " in error and "modality=signal takes data=folder." in error
    assert main(["modality=signal", "method=videomae", f"data.root={signals}"]) == 2
    error = capsys.readouterr().err
    assert "method=videomae cannot take modality=signal" in error and "modality=signal goes with method=mae." in error
