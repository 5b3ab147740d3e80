"""For every test: a seed, a time limit. Where reference vectors and real data are found; the summary counts them."""

import os
import random
from pathlib import Path

# Before torch is loaded: models are tiny here, and beside other workers (pytest -n) threads only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from tests.waiting import limit

ROOT = Path(__file__).resolve().parent.parent
SECONDS = {
    "fast": 300,
    "slow": 3600,
}  # of a test or its fixtures, on a busy machine too: a guard against waiting for ever


def folder(variable: str, default: str) -> Path | None:
    """The folder a variable names; its default beside the repository, or None where that is missing.

    A variable that is set, but empty or wrong, is an error: tests must not be skipped by a typo.
    """
    named = os.environ.get(variable)
    if named is None:
        path = ROOT.parent / default
        return path if path.is_dir() else None
    if not named or not (ROOT / named).is_dir():
        raise pytest.UsageError(f"{variable}={named!r} is not a folder (relative names count from {ROOT}).")
    return ROOT / named


def golden_folders(*names: str) -> list[Path]:
    """Folders of reference vectors whose name is one of `names`, or one of them followed by a dash or dot."""
    root = folder("GOLDEN_DIR", "shared/golden")
    if root is None:
        return []
    fits = lambda p: any(p.name == n or p.name.startswith((f"{n}--", f"{n}.", f"{n}_")) for n in names)  # noqa: E731
    return sorted(p for p in root.iterdir() if (p / "meta.json").exists() and fits(p))


@pytest.fixture(autouse=True)
def seed() -> None:
    """The global generators: no test depends on those that ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def seconds_of(item: pytest.Item) -> float:
    return SECONDS["slow" if item.get_closest_marker("slow") else "fast"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item):
    with limit(seconds_of(item)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    with limit(seconds_of(item)):
        return (yield)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    path = folder("GOLDEN_DIR", "shared/golden")
    if path is None:
        pytest.skip("no reference vectors: set GOLDEN_DIR")
    return path


@pytest.fixture(scope="session")
def data_dir() -> Path:
    path = folder("DATA_DIR", "shared/data")
    if path is None:
        pytest.skip("no real data: set DATA_DIR")
    return path


def pytest_terminal_summary(terminalreporter) -> None:
    for variable, default in (("GOLDEN_DIR", "shared/golden"), ("DATA_DIR", "shared/data")):
        path = folder(variable, default)
        found = (
            "not found, its tests are skipped" if path is None else f"{sum(p.is_dir() for p in path.iterdir())} folders"
        )
        terminalreporter.write_line(f"{variable}: {found}")
