"""Saved configs: complete with every default, and held against the schema of composed ones when they are read."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from core.annotations import item_hint
from core.config import files
from core.config.allowed import checked_targets
from core.config.files import SearchPath
from core.config.types import check, hints_of, signature_of, target_of
from core.errors import UserError, join, show, suggestion
from core.settings import ROOT

PARTS = ("method", "optim", "engine", "modality.reader", "data.source")  # that a run is made of
PLAIN = ("modality", "data", "size")  # groups that no constructor checks


def check_saved(tree: Mapping[str, Any], searchpath: SearchPath) -> None:
    """Raises UserError where a saved config lacks a group, has a setting too many, or a value that does not fit."""
    names = {*files.read(files.choices("", searchpath)["train"]), *files.GROUPS} - {"choose"}
    if missing := names - tree.keys():
        raise UserError(f"it has no {' and no '.join(sorted(missing))}.")
    if extra := sorted(tree.keys() - names):
        raise UserError(f"there is no setting {extra[0]}.{suggestion(extra[0], names)}")

    checked_targets(tree)
    check(tree, ROOT)
    for group in files.GROUPS[:-1]:  # an experiment leaves its name alone
        node = tree[group]
        if not isinstance(node, Mapping):
            raise UserError(f"{group} is {show(node)}; it must be a mapping, with the {group}'s name.")
        if not isinstance(node.get("name"), str):
            raise UserError(f"{group}.name is {show(node.get('name'))}; it must be the name of a {group}.")


def compare_nodes(tree: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raises UserError where a saved config lacks a part that a fresh one has, or a plain group has more keys.

    `model`: the fresh config of the same files, before references are looked up.
    """
    for group in PLAIN:
        if extra := sorted(tree[group].keys() - model[group].keys()):
            raise UserError(f"there is no {group}.{extra[0]}.{suggestion(extra[0], model[group])}")

    for key in PARTS:
        group, _, name = key.partition(".")
        node, expected = tree[group], model[group]
        if name:
            node, expected = node.get(name), expected.get(name)
        is_part = name or "_target_" in expected
        if expected is not None and is_part and not (isinstance(node, Mapping) and "_target_" in node):
            raise UserError(f"{key} is {show(node)}; it must be a mapping whose _target_ names its class.")


def complete(node: Any, hint: Any = Any, key: str = "") -> None:
    """Writes the defaults of all constructors into a config's nodes, so that it holds every setting of every part.

    Only plain values: a part that a constructor makes itself stays its own affair.
    """
    target = target_of(node, hint, key) if isinstance(node, dict) else None
    if target is not None:
        for name, inner in hints_of(node, target, key).items():
            complete(node.get(name), inner, join(key, name))
        for name, value in signature_of(target).defaults.items():
            node.setdefault(name, deepcopy(value))
        return

    items = dict(enumerate(node)) if isinstance(node, list) else node
    for name, item in items.items() if isinstance(items, dict) else ():
        complete(item, item_hint(hint, name), join(key, name))
