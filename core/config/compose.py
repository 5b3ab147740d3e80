"""Overrides become one resolved tree: files are merged, then typed values, then `${…}` is looked up."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from core import catalogue
from core.config import files
from core.config.allowed import checked_targets
from core.config.files import SearchPath
from core.config.types import check
from core.errors import IncompatibleError, UserError
from core.saved import check_saved, compare_nodes
from core.settings import ROOT, split, typed_value
from core.trees import is_reference, load, merge, nest, paths, resolve, spatial

ORDER = ("size", "optim", "engine", "method", "data", "modality", "experiment")  # of merging
FIXED_BY_RUN = ("modality", "method", "size", "experiment")  # a saved config has their traces all over it
DERIVED_FROM = ("size.", "modality.", "data.on_world.")  # in a saved config, nothing refers to these any more
READER = ("modality.reader", "modality.pictures", "modality.baseline")  # but these are read as they stand
# One number for a list means its last two axes: 96 is [96, 96] for images, [16, 96, 96] for clips.
SPATIAL = ("modality.size", "modality.patch")
# Two ways to set one thing, the second of which wins: where the first is typed, a file's second is dropped.
EXCLUSIVE = {"epochs": "steps", "optim.base_lr": "optim.lr"}


def compose(overrides: Sequence[str] = (), searchpath: SearchPath = ()) -> dict[str, Any]:
    """The config of a run as plain data, without references, e.g. of `["modality=video", "steps=100"]`.

    Groups (`modality=`, `method=`, …) choose files; `config=<run>/config.yaml` starts from a saved config
    instead; every other key sets a value (`method.masker.ratio=0.9`). `searchpath`: folders searched before
    Lacuna's own. Raises: UserError with the key, the value and the remedy; IncompatibleError, a UserError, where
    method, modality and data do not go together.
    """
    config = assemble(overrides, searchpath)
    pair = config["modality"]["name"], config["method"]["name"]
    # A method whose parts are replaced may take more than its file lists.
    is_changed = any(text.startswith(("config=", "method.")) for text in overrides)
    if not is_changed and not catalogue.fits(*pair, searchpath):
        raise catalogue.refusal(*pair, ".", searchpath)
    return config


def assemble(overrides: Sequence[str], searchpath: SearchPath = ()) -> dict[str, Any]:
    """As `compose`, whichever modalities the method lists."""
    typed = dict(split(text) for text in overrides)
    saved = typed.pop("config", None)
    groups = {key: text for key, text in typed.items() if key in files.GROUPS and not text.startswith("{")}
    base = _from_files(groups, searchpath) if saved is None else _from_saved(saved, typed, groups, searchpath)

    for group in files.GROUPS:
        if f"{group}.name" in typed:
            name = typed[f"{group}.name"]
            raise UserError(f"{group}.name={name}: a {group} is chosen by {group}={name}.")

    typed = {rival: "null" for key, rival in EXCLUSIVE.items() if key in typed} | typed
    tree = base
    for key, text in typed.items():
        if key not in groups:
            value = typed_value(text, _hint(base, key), key)
            if key in SPATIAL and isinstance(value, int):
                value = spatial(value, base["modality"].get(key.partition(".")[2]))
            tree = merge(tree, nest(key, value))

    tree = dict.fromkeys(base) | tree  # null takes a mapping out of the others, at the root it stays
    for group in files.GROUPS:
        node, before = tree[group], base[group]
        if isinstance(node, Mapping) and isinstance(before, Mapping):
            tree[group] = {**node, "name": before["name"]}  # also of a part that was replaced

    required = {path for path, value in paths(base) if value == "???"}
    if missing := [path for path, value in paths(tree) if value == "???" or (value is None and path in required)]:
        examples = " ".join(f"{path}=<value>" for path in missing)
        origin = catalogue.origin(tree.get("experiment"), searchpath)
        raise UserError(f"{' and '.join(missing)} must be given: {examples}{'.' + origin if origin else ''}")

    try:
        config = resolve(tree)
    except IncompatibleError as error:
        raise _explained(error, tree, searchpath) from None

    checked_targets(config)
    order = [key.partition(".")[0] for key in typed]  # errors name what was typed, not what refers to it
    check({key: config.get(key) for key in [*order, *config]}, ROOT, default=base)
    return config


def _explained(error: IncompatibleError, tree: Mapping, searchpath: SearchPath) -> UserError:
    modality, method, data = (tree[group]["name"] for group in ("modality", "method", "data"))
    if not catalogue.fits(modality, method, searchpath):
        return catalogue.refusal(modality, method, f": {error}", searchpath)
    if "data" not in error.groups:
        return error
    remedy = f"modality={modality} takes data={files.picks('modality', modality, searchpath).get('data')}."
    return IncompatibleError(f"data={data} does not fit modality={modality}: {error} {remedy}")


def _from_files(typed: Mapping[str, str], searchpath: SearchPath) -> dict[str, Any]:
    """The files merged: those typed, else of the experiment, else of the modality, else of train.yaml."""
    root = files.read(files.choices("", searchpath)["train"])
    choice: dict[str, str | None] = {"experiment": None, **typed}
    if choice["experiment"] == "null":
        choice["experiment"] = None
    choice = files.picks("experiment", choice["experiment"], searchpath) | choice
    modality = str(choice.get("modality", root["choose"]["modality"]))
    choice = root["choose"] | files.picks("modality", modality, searchpath) | choice
    if missing := [group for group in ORDER if group not in choice]:
        raise UserError(f"modality={modality} chooses no {missing[0]}; give {missing[0]}=<name>.")

    # Of misspelt names those are offered that go with the modality.
    for group in ("method", "data"):
        name, fits = str(choice[group]), partial(catalogue.fits, modality, searchpath=searchpath, group=group)
        if name not in files.choices(group, searchpath):
            raise files.no_such(group, name, searchpath, fits)

    tree = {key: value for key, value in root.items() if key != "choose"}
    for group in ORDER:
        for content in files.layers(group, choice[group], searchpath):
            keys = {key: value for key, value in content.items() if key not in files.DIRECTIVES}
            tree = merge(tree, {group: keys} if keys else {})
            tree = merge(tree, content.get("set", {}))

    if not catalogue.fits(modality, str(choice["data"]), searchpath, group="data"):
        raise catalogue.refusal(modality, str(choice["data"]), ".", searchpath, group="data")
    for group in ORDER:
        tree[group] = {**tree[group], "name": choice[group]} if group in tree else choice[group]
    return tree


def _from_saved(
    path: str, typed: Mapping[str, str], groups: Mapping[str, str], searchpath: SearchPath
) -> dict[str, Any]:
    """A run's config.yaml, for a folder of its own; other data, optim or engine may be chosen."""
    if not path:
        raise UserError("config= needs a file: config=<run>/config.yaml.")
    tree: dict[str, Any] = {**load(path), "run_dir": None}
    if "chosen" in files.read(files.choices("", searchpath)["train"]):
        tree.setdefault("chosen", {})  # of runs from before defaults followed from the data
    if not tree.keys() & {*files.GROUPS}:
        raise UserError(f"config={path} is no config of a run: it names no modality and no method.")
    try:
        check_saved(tree, searchpath)
        names = {group: tree[group]["name"] for group in files.GROUPS[:-1]}
        if all(name in files.choices(group, searchpath) for group, name in names.items()):  # else its files are gone
            compare_nodes(tree, _from_files({"experiment": "null", **names}, searchpath))
    except UserError as error:
        message = f"config={path} is of another version: {error} Correct the file, or train again."
        raise UserError(message) from None

    if fixed := [f"{group}={name}" for group, name in groups.items() if group in FIXED_BY_RUN]:
        raise UserError(f"{fixed[0]} cannot be given with config=, which fixes it; drop one of them.")
    derived = [key for key in typed if key.startswith(DERIVED_FROM) and not key.startswith(READER)]
    if derived:
        raise UserError(
            f"{derived[0]} cannot be given with config=: a saved config holds the values that followed from it. Set "
            "those (method.…, modality.reader.…), or compose the run anew without config=."
        )
    pair = {group: tree[group]["name"] for group in ("modality", "method")}
    fresh = _from_files({**pair, **groups}, searchpath) if groups else {}
    return tree | {group: fresh[group] for group in groups}


def _hint(base: Mapping, key: str) -> Any:
    """The annotation of a setting at the root, text where text stands; others are checked in the whole tree."""
    node: Any = base
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) and "_target_" not in node else None
    if node == "???":
        return str | None
    return ROOT.get(key, str if isinstance(node, str) and not is_reference(node) else Any)
