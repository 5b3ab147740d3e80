"""Which files apply, and what the command line says on top of them: from overrides to one plain config tree.

Hydra decides which files apply (their `defaults` lists, overridden by the command line); everything else is ours.
`create_defaults_list` is private to Hydra, which is why pyproject pins it below 1.4.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.composition.allowlist import checked_targets
from core.composition.annotations import fit, join
from core.composition.choices import GROUPS, SearchPath, choices, folders
from core.composition.overrides import SETTINGS, override, split
from core.composition.references import Misfit, References, merge, nest
from core.composition.schema import check
from core.composition.suggest import one_line, suggestion
from core.errors import UserError

# A saved config is settled: these have left their traces all over it. The other groups are nodes of their own.
SETTLED = ("modality", "method", "size", "experiment")
# Two ways to say one thing, the second of which wins: where the first is typed, a file's second is dropped.
RIVALS = {"epochs": "steps", "optim.base_lr": "optim.lr"}


def assemble(overrides: Sequence[str], searchpath: SearchPath = ()) -> dict[str, Any]:
    """The config tree of these overrides: plain data, no references, held against the constructors it names.

    Raises: UserError for anything that the overrides or files get wrong, Misfit where method and modality clash.
    """
    given = dict(split(text) for text in overrides)
    saved = given.pop("config", None)
    groups = {key: text for key, text in given.items() if key in GROUPS and not text.startswith("{")}
    tree = from_files(groups, searchpath) if saved is None else from_saved(saved, groups, searchpath)
    try:
        for key, text in given.items():
            if key not in groups:
                tree = override(tree, key, text)
        for typed, rival in RIVALS.items():
            if typed in given and rival not in given:
                tree = merge(tree, nest(rival, None))
        if missing := _not_given(tree):
            raise UserError(f"{' and '.join(missing)} must be given: {' '.join(f'{path}=<value>' for path in missing)}")
        config = References(tree).value(tree)
        _check(config)
    except Misfit as misfit:
        misfit.pair = (tree["modality"]["name"], tree["method"]["name"])
        raise
    return config


def from_files(groups: Mapping[str, str], searchpath: SearchPath = ()) -> dict[str, Any]:
    """The files that apply with these choices, laid over each other; references are left."""
    groups = {group: name for group, name in groups.items() if (group, name) != ("experiment", "null")}
    for group, name in groups.items():
        known = choices(group, searchpath)
        if name not in known:
            raise UserError(f"{group}={name}: there is no such {group}.{suggestion(name, known)}")
    try:
        files, chosen = _files_that_apply([f"{group}={name}" for group, name in groups.items()], folders(searchpath))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
        raise UserError(f"The config files cannot be put together: {one_line(error)}") from error
    tree: dict[str, Any] = {}
    for package, content in files:
        tree = merge(tree, nest(package, content) if package else content)
    for group, name in chosen.items():
        if isinstance(tree.get(group), Mapping):
            tree[group] = {**tree[group], "name": name}
        elif group not in tree:
            tree[group] = name
    return tree


def _files_that_apply(overrides: list[str], paths: list[Path]) -> tuple[list[tuple[str, dict]], dict[str, str]]:
    """(package, content) of each file in the order of laying, and what was chosen of each group."""
    Plugins.instance()  # makes Hydra know the scheme file://
    version.setbase("1.3")
    search = ConfigSearchPathImpl()
    for path in paths:
        search.append("lacuna", f"file://{path}")
    repository = CachingConfigRepository(ConfigRepository(search))
    parsed = OverridesParser.create().parse_overrides(overrides)
    found = create_defaults_list(repository, "train", parsed, prepend_hydra=False, skip_missing=False)
    files = []
    for default in found.defaults:
        content = OmegaConf.to_container(repository.load_config(default.config_path).config, resolve=False)
        files.append((default.package or "", content))
    return files, found.overrides.known_choices


def from_saved(path: str, groups: Mapping[str, str], searchpath: SearchPath = ()) -> dict[str, Any]:
    """A run's config.yaml, to be repeated in a folder of its own; other data, optim or engine may be chosen."""
    tree = {**load(path), "run_dir": None}
    names = [
        tree[group].get("name") if isinstance(tree.get(group), Mapping) else None for group in ("modality", "method")
    ]
    if None in names:
        raise UserError(f"config={path} is no config of a run: it does not name a modality and a method.")
    for group in groups:
        if group in SETTLED:
            raise UserError(
                f"{group}={groups[group]} cannot be given with config=, which settles it; drop one of them."
            )
    if groups:
        fresh = from_files({"modality": names[0], "method": names[1], **groups}, searchpath)
        tree |= {group: fresh[group] for group in groups}
    return tree


def load(path: str | Path) -> dict[str, Any]:
    """A config.yaml as plain data. Raises UserError when it cannot be read."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"The config {path} cannot be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"The config {path} holds no mapping.")
    return content


def _check(config: Mapping[str, Any]) -> None:
    checked_targets(config)
    check(config)
    for key, hint in SETTINGS.items():
        fit(config.get(key), hint | None, key)


def _not_given(node: Any, key: str = "") -> list[str]:
    """Keys that a file leaves to the user, by `???`."""
    if isinstance(node, Mapping):
        return [path for name, child in node.items() for path in _not_given(child, join(key, name))]
    return [key] if node == "???" else []
