"""Which YAML files there are, of Lacuna and plug-ins. A file's keys are laid under its group, but for these:

extends     the file of the same group that this one is merged into
choose      files of other groups, {group: name}: in train.yaml, a modality or an experiment
set         keys at the root of the config
origin      of an experiment: where its data are to be had
modalities  of a method or of data: those it takes; without it, every one that fits
methods     of a modality: methods that take it although they do not list it
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.errors import IncompatibleError, UserError, one_line, suggestion
from core.plugins import plugins

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


def describe_choices(searchpath: SearchPath = ()) -> dict[str, dict[str, str]]:
    """The files of each group: name -> first comment line."""
    described = {}
    for group in GROUPS:
        described[group] = {}
        for name, file in sorted(choices(group, searchpath).items()):
            comment = file.read_text(encoding="utf-8").partition("#")[2]
            described[group][name] = comment.partition("\n")[0].strip()
    return described


def official_names(searchpath: SearchPath = ()) -> dict[str, str]:
    """Readers of official checkpoints, name -> dotted target, which methods' files list under `official`."""
    names: dict[str, str] = {}
    for file in choices("method", searchpath).values():
        names |= read(file).get("official") or {}
    return names


def layers(group: str, name: str | None, searchpath: SearchPath = ()) -> list[dict[str, Any]]:
    """The content of `<group>/<name>.yaml` after that of the files it extends, not to be changed."""
    files, contents, source = choices(group, searchpath), [], f"{group}={name}"
    while name is not None:
        if name not in files or len(contents) > len(files):
            guess = suggestion(name, files, whole=f"{group}={name}")
            elsewhere = [f"{other}={name}" for other in GROUPS if name in choices(other, searchpath)]
            if elsewhere and not contents:
                guess = f" There is {' and '.join(elsewhere)}."
            raise UserError(f"{source}: there is no such {group}.{guess}")
        contents.insert(0, read(files[name]))
        source, name = f"{files[name]}: extends: {contents[0].get('extends')}", contents[0].get("extends")
    return contents


def picks(group: str, name: str | None, searchpath: SearchPath = ()) -> dict[str, str]:
    """The files that a modality or experiment chooses of other groups, {group: name}."""
    choice = {}
    for content in layers(group, name, searchpath):
        choice |= content.get("choose", {})
    return choice


def experiments(method: str, searchpath: SearchPath = ()) -> list[str]:
    """The experiments that choose a method, as one types them."""
    files = choices("experiment", searchpath)
    return [f"experiment={name}" for name in sorted(files) if picks("experiment", name).get("method") == method]


def origin(experiment: str | None, searchpath: SearchPath = ()) -> str:
    """A sentence on where the data of an experiment are to be had; empty where its file does not say."""
    if experiment not in choices("experiment", searchpath):
        return ""
    places = [content["origin"] for content in layers("experiment", experiment, searchpath) if "origin" in content]
    return f" The data of experiment={experiment} are to be had from {places[-1]}." if places else ""


def fits(modality: str, name: str, searchpath: SearchPath = (), *, group: str = "method") -> bool:
    """Whether a method, or data, takes a modality: it lists it or has no list, or the modality's file lists it."""
    modalities, methods = None, []
    try:
        for content in layers(group, name, searchpath):
            modalities = content.get("modalities", modalities)
        for content in layers("modality", modality, searchpath):
            methods = content.get("methods", methods)
    except UserError:  # a broken file, which fits nothing
        return False
    return modalities is None or modality in modalities or name in methods


def refusal(
    modality: str, name: str, reason: str, searchpath: SearchPath = (), *, group: str = "method"
) -> IncompatibleError:
    """The error that a method, or data, does not take a modality, with all that go together."""
    modalities, names = sorted(choices("modality", searchpath)), sorted(choices(group, searchpath))
    takers = "|".join(other for other in modalities if fits(other, name, searchpath, group=group))
    fitting = "|".join(other for other in names if fits(modality, other, searchpath, group=group))
    remedy = f"{group}={name} takes modality={takers}; modality={modality} goes with {group}={fitting}."
    return IncompatibleError(f"{group}={name} cannot take modality={modality}{reason}\n{remedy}")


def load(path: str | Path) -> dict[str, Any]:
    """A YAML file as plain data. Raises UserError when it cannot be read."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"The config {path} cannot be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"The config {path} holds no mapping.")
    return cast(dict[str, Any], content)


def read(file: Path) -> dict[str, Any]:
    """A config file as plain data, not to be changed: each version of it is read once."""
    return _read(file, file.stat().st_mtime_ns)


@cache
def _read(file: Path, version: int) -> dict[str, Any]:
    content = load(file)
    if "defaults" in content:
        raise UserError(f"{file}: defaults:{suggestion('defaults', DIRECTIVES)}")
    for name, kind in DIRECTIVES.items():
        if not isinstance(content.get(name, kind()), kind):
            raise UserError(f"{file}: {name}: must be a {kind.__name__}.")
    return content
