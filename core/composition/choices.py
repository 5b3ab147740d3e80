"""Where the YAML files are, and what there is to choose: `modality=`, `method=`, `size=`, …

A plug-in is an installed package with an entry point of the group `lacuna.plugins`, whose value is the package's name.
The YAML files in its folder `configs/` are found like Lacuna's own, and configs may name what it defines.
"""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from omegaconf import OmegaConf

from core.errors import UserError

GROUPS = ("modality", "method", "size", "data", "optim", "engine", "experiment")

SearchPath = Sequence[str | Path]


def plugins() -> dict[str, str]:
    """Packages of the installed plug-ins, by the name of their entry point. Imports none of them."""
    return {entry.name: entry.value.partition(":")[0].strip() for entry in entry_points(group="lacuna.plugins")}


def folders(extra: SearchPath = ()) -> list[Path]:
    """Folders that hold config groups; the first that has a file wins: `extra`, Lacuna's own, plug-ins'."""
    own = Path(__file__).resolve().parents[2] / "configs"
    return [Path(folder).resolve() for folder in extra] + [own, *(_configs(*item) for item in plugins().items())]


def choices(group: str, searchpath: SearchPath = ()) -> dict[str, Path]:
    """The files of a group, by the name that `group=` takes."""
    found: dict[str, Path] = {}
    for folder in folders(searchpath):
        for file in sorted((folder / group).glob("*.yaml")):
            found.setdefault(file.stem, file)
    return found


def describe_choices(searchpath: SearchPath = ()) -> dict[str, dict[str, str]]:
    """What each group offers: name -> first comment line of the file."""
    return {
        group: {name: _first_comment(file) for name, file in sorted(choices(group, searchpath).items())}
        for group in GROUPS
    }


def official_names(searchpath: SearchPath = ()) -> dict[str, str]:
    """Readers of official checkpoints, name -> dotted target: what the method files list under `official`."""
    names: dict[str, str] = {}
    for file in choices("method", searchpath).values():
        names |= _official(file)
    return names


@cache
def _official(file: Path) -> dict[str, str]:
    return dict(OmegaConf.load(file).get("official") or {})


def _configs(name: str, package: str) -> Path:
    try:
        spec = find_spec(package)
    except ImportError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The plug-in {name!r} names {package!r}, which is no installed package. Install it again.")
    return Path(next(iter(spec.submodule_search_locations))) / "configs"


def _first_comment(file: Path) -> str:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    comments = (line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line)
    return next(comments, "")
