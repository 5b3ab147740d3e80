"""Overrides become one resolved tree: files are merged, then typed values, then OmegaConf looks up `${…}`.

References are whole paths from the root (`${size.dim}`), `${sized:{nano:64,else:512}}` (by the size's name) or
`${oc.select:path,default}`.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.config import files
from core.config.allowed import checked_targets
from core.config.files import SearchPath
from core.config.types import check
from core.errors import IncompatibleError, UserError, nearest, one_line
from core.settings import ROOT, split, typed_value
from core.trees import is_reference, merge, nest, paths

ORDER = ("size", "optim", "engine", "method", "data", "modality", "experiment")  # of merging
FIXED_BY_RUN = ("modality", "method", "size", "experiment")  # a saved config has their traces all over it
EXCLUSIVE = {"epochs": "steps", "optim.base_lr": "optim.lr"}  # where the first is typed, a file's second is dropped
RESOLVERS = ("sized", "oc.select", "lacuna.merge")


def compose(overrides: Sequence[str] = (), searchpath: SearchPath = ()) -> dict[str, Any]:
    """The config of a run as plain data, without references, e.g. of `["modality=video", "steps=100"]`.

    Groups (`modality=`, `method=`, …) choose files; `config=<run>/config.yaml` starts from a saved config instead;
    every other key sets a value (`method.masker.ratio=0.9`). `searchpath`: folders searched before Lacuna's own.
    Raises: UserError with the key, the value and what would be right; IncompatibleError, a UserError, where method,
    modality and data do not go together.
    """
    config = assemble(overrides, searchpath)
    pair = config["modality"]["name"], config["method"]["name"]
    # A method whose parts are replaced may take more than its file lists.
    is_changed = any(text.startswith(("config=", "method.")) for text in overrides)
    if not is_changed and not files.fits(*pair, searchpath):
        raise files.refusal(*pair, ".", searchpath)
    return config


def assemble(overrides: Sequence[str], searchpath: SearchPath = ()) -> dict[str, Any]:
    """As `compose`, whichever modalities the method lists."""
    typed = dict(split(text) for text in overrides)
    saved = typed.pop("config", None)
    groups = {key: text for key, text in typed.items() if key in files.GROUPS and not text.startswith("{")}
    base = _from_files(groups, searchpath) if saved is None else _from_saved(saved, groups, searchpath)

    typed = {rival: "null" for key, rival in EXCLUSIVE.items() if key in typed} | typed
    tree = base
    for key, text in typed.items():
        tree = tree if key in groups else merge(tree, nest(key, typed_value(text, _hint(base, key), key)))
    if missing := [path for path, value in paths(tree) if value == "???"]:
        examples = " ".join(f"{path}=<value>" for path in missing)
        raise UserError(f"{' and '.join(missing)} must be given: {examples}")

    try:
        config = resolve(tree)
    except IncompatibleError as error:
        raise _explained(error, tree, searchpath) from None
    checked_targets(config)
    first = [key.partition(".")[0] for key in typed]  # errors name what was typed, not what refers to it
    check({key: config.get(key) for key in [*first, *config]}, ROOT, default=base)
    return config


def _explained(error: IncompatibleError, tree: Mapping, searchpath: SearchPath) -> UserError:
    modality, method, data = (tree[group]["name"] for group in ("modality", "method", "data"))
    if not files.fits(modality, method, searchpath):
        return files.refusal(modality, method, f": {error}", searchpath)
    if "data" not in error.groups:
        return error
    usual = files.chosen("modality", modality, searchpath).get("data", data)
    remedy = f" modality={modality} takes data={usual}." if usual != data else ""
    return IncompatibleError(f"data={data} does not fit modality={modality}: {error}{remedy}")


def _from_files(typed: Mapping[str, str], searchpath: SearchPath) -> dict[str, Any]:
    """The files merged: those typed, else of the experiment, else of the modality, else of train.yaml."""
    root = files.read(files.choices("", searchpath)["train"])
    typed = {group: None if (group, name) == ("experiment", "null") else name for group, name in typed.items()}
    choice = files.chosen("experiment", typed.get("experiment"), searchpath) | typed
    choice = files.chosen("modality", (root["choose"] | choice)["modality"], searchpath) | choice
    choice = {"experiment": None} | root["choose"] | choice
    if missing := [group for group in ORDER if group not in choice]:
        raise UserError(f"modality={choice['modality']} chooses no {missing[0]}; give {missing[0]}=<name>.")

    tree = {key: value for key, value in root.items() if key != "choose"}
    for group in ORDER:
        for content in files.layers(group, choice[group], searchpath):
            keys = {key: value for key, value in content.items() if key not in files.DIRECTIVES}
            tree = merge(tree, {group: keys} if keys else {})
            tree = merge(tree, content.get("set", {}))
    named = {group: {**tree[group], "name": choice[group]} if group in tree else choice[group] for group in ORDER}
    return tree | named


def _from_saved(path: str, groups: Mapping[str, str], searchpath: SearchPath) -> dict[str, Any]:
    """A run's config.yaml, to be repeated in a folder of its own; other data, optim or engine may be chosen."""
    tree = files.load(path) | {"run_dir": None}
    nodes = [tree.get(group) for group in ("modality", "method")]
    if not all(isinstance(node, Mapping) and "name" in node for node in nodes):
        raise UserError(f"config={path} is no config of a run: it does not name a modality and a method.")
    if fixed := [f"{group}={name}" for group, name in groups.items() if group in FIXED_BY_RUN]:
        raise UserError(f"{fixed[0]} cannot be given with config=, which fixes it; drop one of them.")
    try:
        if missing := files.read(files.choices("", searchpath)["train"]).keys() - tree.keys() - {"choose"}:
            raise UserError(f"it has no {' and no '.join(sorted(missing))}.")
        checked_targets(tree)
        check(tree)
    except UserError as error:
        raise UserError(f"config={path} is of another version: {error} Correct the file, or train again.") from None

    names = {group: tree[group]["name"] for group in ("modality", "method")}
    fresh = _from_files(names | groups, searchpath) if groups else {}
    return tree | {group: fresh[group] for group in groups}


def _hint(base: Mapping, key: str) -> Any:
    """The annotation of a setting at the root, text where text stands; other values are checked in the whole tree."""
    node: Any = base
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) and "_target_" not in node else None
    return ROOT.get(key, str if isinstance(node, str) and not is_reference(node) else Any)


def dump(config: Mapping[str, Any], path: str | Path) -> None:
    """Writes a config as YAML."""
    OmegaConf.save(OmegaConf.create(dict(config)), path)


def _merge(base: Any, over: Mapping, *, _parent_: Any) -> Any:
    """Resolver of a mapping merged into a reference: a DictConfig, through which further references can lead."""
    return OmegaConf.create(merge(base, over), parent=_parent_)


def _sized(table: Mapping, *, _root_: Any) -> Any:
    """Resolver of `${sized:…}`: a value by the size's name; `else` for the sizes that are not listed."""
    size = OmegaConf.select(_root_, "size.name")
    if size not in table and "else" not in table:
        raise UserError(f"size={size} is not listed in ${{sized:…}}, only {', '.join(table)}; add it, or `else`.")
    return table.get(size, table.get("else"))


def resolve(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without references. Raises IncompatibleError for a path that leads nowhere, else UserError."""
    for path, value in paths(tree):
        for name in re.findall(r"\$\{\s*(\.|[^{}]*?(?=:))", value) if is_reference(value) else ():
            if name not in RESOLVERS:
                remedy = "there are whole paths from the root (no relative ones), sized: and oc.select:"
                raise UserError(f"{path}: {value} asks for {name!r}; {remedy}.")
    try:
        return OmegaConf.to_container(OmegaConf.create(dict(tree)), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise _translated(error, tree) from None


def _translated(error: Exception, tree: Mapping) -> UserError:
    """OmegaConf's error in our words."""
    key, text = getattr(error, "full_key", None) or "the config", one_line(error).partition(" full_key:")[0]
    if isinstance(error, RecursionError) or re.search("ecursi|to parent node", text):
        return UserError(f"{key} refers to itself.")
    match = re.search("Interpolation key '(.+?)' not found", text)
    if match is None:
        return UserError(f"{key} cannot be evaluated: {text.rpartition('interpolation: ')[2]}")

    group, (*parents, name) = match[1].partition(".")[0], match[1].split(".")
    siblings = reduce(lambda node, part: node.get(part) if isinstance(node, Mapping) else None, parents, tree)
    guesses = nearest(name, siblings) if isinstance(siblings, Mapping) else []
    question = f" Did you mean {' or '.join(guesses)}?" if guesses else ""
    choice = tree[group].get("name") if isinstance(tree.get(group), Mapping) else None
    lack = f"which {group}={choice} does not have" if choice else "which does not exist"
    message = f"{key} takes its value from {match[1]}, {lack}.{question}"
    return IncompatibleError(message, groups=(group, key.partition(".")[0]))


with warnings.catch_warnings(action="ignore", category=UserWarning):
    # OmegaConf 2.4 prefers the name register_resolver, which is another function in 2.3.
    OmegaConf.register_new_resolver("sized", _sized, replace=True)
    OmegaConf.register_new_resolver("lacuna.merge", _merge, replace=True)
