"""Which YAML files there are, of Lacuna and plug-ins. A file's keys are laid under its group, but for these:

extends     the file of the same group that this one is merged into
choose      files of other groups, {group: name}: in train.yaml, a modality or an experiment
set         keys at the root of the config
origin      of an experiment: where its data are to be had
modalities  of a method or of data: those it takes; without it, every one that fits
methods     of a modality: methods that take it although they do not list it
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.errors import UserError, suggestion
from core.plugins import plugins
from core.renames import RENAMES
from core.trees import load

GROUPS = ("modality", "method", "size", "data", "optim", "engine", "experiment")
DIRECTIVES = {"extends": str, "choose": dict, "set": dict, "origin": str, "modalities": list, "methods": list}
CONFIGS = Path(__file__).resolve().parents[2] / "configs"

SearchPath = Sequence[str | Path]


def folders(extra: SearchPath = ()) -> list[Path]:
    """Folders that hold config groups; the first that has a file wins: `extra`, Lacuna's own, plug-ins'."""
    places = [*map(Path, extra), CONFIGS]
    for name, package in plugins().items():
        try:
            spec = find_spec(package)
        except ImportError:
            spec = None
        if spec is None or not spec.submodule_search_locations:  # no such package, or a module
            message = f"The plug-in {name!r} names {package!r}, which is no installed package."
            raise UserError(f"{message} Install it again.")
        places.append(Path(spec.submodule_search_locations[0]) / "configs")
    return places


def choices(group: str, searchpath: SearchPath = ()) -> dict[str, Path]:
    """The files of a group, by the name that `group=` takes."""
    files = [file for folder in folders(searchpath) for file in sorted((folder / group).glob("*.yaml"))]
    return {file.stem: file for file in reversed(files)}


def layers(group: str, name: str | None, searchpath: SearchPath = ()) -> list[dict[str, Any]]:
    """The content of `<group>/<name>.yaml` after that of the files it extends."""
    files, contents, source = choices(group, searchpath), [], f"{group}={name}"
    while name is not None:
        if name not in files or len(contents) > len(files):
            if contents:  # a file extends another that does not exist
                raise UserError(f"{source}: there is no such {group}.{suggestion(name, files)}")
            raise no_such(group, name, searchpath)
        contents.insert(0, read(files[name]))
        source, name = f"{files[name]}: extends: {contents[0].get('extends')}", contents[0].get("extends")
    return contents


def no_such(
    group: str, name: str, searchpath: SearchPath = (), listed: Callable[[str], bool] = lambda choice: True
) -> UserError:
    """The error that a group has no such file, with those that are `listed`."""
    guess = suggestion(name, choices(group, searchpath), whole=f"{group}={name}", listed=listed)
    elsewhere = [f"{other}={name}" for other in GROUPS if name in choices(other, searchpath)]
    if elsewhere and f"{group}={name}" not in RENAMES:
        guess = f" There is {' and '.join(elsewhere)}."
    return UserError(f"{group}={name}: there is no such {group}.{guess}")


def picks(group: str, name: str | None, searchpath: SearchPath = ()) -> dict[str, str]:
    """The files that a modality or experiment chooses of other groups, {group: name}."""
    choice = {}
    for content in layers(group, name, searchpath):
        choice |= content.get("choose", {})
    return choice


def read(file: Path) -> dict[str, Any]:
    """A config file as plain data."""
    content = load(file)
    if "defaults" in content:
        raise UserError(f"{file}: defaults:{suggestion('defaults', DIRECTIVES)}")
    for name, kind in DIRECTIVES.items():
        if not isinstance(content.get(name, kind()), kind):
            raise UserError(f"{file}: {name}: must be a {kind.__name__}.")
    return content
