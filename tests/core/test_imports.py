"""Every module can be imported by itself, and importing the package costs next to nothing."""

import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import core
import modalities
from tests.waiting import SECONDS

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OPTIONAL = {
    "".join(c if c.isalnum() or c in "-_" else " " for c in n).split()[0] for names in EXTRAS.values() for n in names
}
MODULES = [
    found.name
    for package in (core, modalities)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not found.name.endswith("__main__")  # a command: importing it runs it
]


@pytest.mark.parametrize("name", MODULES)
def test_it_can_be_imported(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in OPTIONAL:
            pytest.skip(f"{error.name} is optional and not installed")
        raise
    assert name.endswith("__init__") or not vars(module).get("__file__", "").endswith("utils.py"), "say what it holds"


def test_the_package_itself_is_light():
    """`python -m core.train --help` must not wait for torch."""
    code = "import sys, core; print('torch' in sys.modules)"
    assert output(code) == "False"


def test_what_the_package_offers():
    assert callable(core.load_encoder)
    with pytest.raises(AttributeError, match="no attribute 'load_decoder'"):
        core.load_decoder  # noqa: B018


def test_a_module_first_imported_for_another_device_keeps_its_tensors(tmp_path):
    """Sizes are counted on the meta device, whose tensors hold nothing; what is imported meanwhile is used later."""
    (tmp_path / "made.py").write_text("import torch\n\nTABLE = torch.ones(2)\n\n\nclass Part: ...\n")
    code = f"""
import modalities
import torch
from core.config.allowed import load_target
modalities.__path__.append({str(tmp_path)!r})
with torch.device("meta"):
    load_target("modalities.made.Part")
import modalities.made
print(modalities.made.TABLE.device)
"""
    assert output(code) == "cpu"


def output(code: str) -> str:
    """The output of a process that runs `code`."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=SECONDS)
    return done.stdout.strip()
