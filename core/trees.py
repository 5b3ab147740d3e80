"""Trees of settings as plain data: their paths, merging one into another, references.

A mapping merged into a mapping extends it; one with another `_target_` replaces it; one merged into a reference
extends its final value; `null` removes a part from its mapping. References are whole paths from the root
(`${size.dim}`), `${sized:{nano:64,else:512}}` (by the size's name), `${per_channel:3,[0.1,0.2,0.3],0.5}` (the
list where it has so many values, else the last value so many times) or `${oc.select:path,default}`; OmegaConf
looks them up.
"""

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.errors import IncompatibleError, UserError, did_you_mean, join, one_line


def merge(base: Any, over: Any) -> Any:
    """`over` merged into `base`; neither is changed."""
    if isinstance(over, Mapping) and is_reference(base):
        return f"${{lacuna.merge:{base},{_expression(over)}}}"
    if not isinstance(over, Mapping) or not isinstance(base, Mapping):
        return over
    if "_target_" in base and over.get("_target_", base["_target_"]) != base["_target_"]:
        return over

    merged = dict(base)
    for key, value in over.items():
        is_part = isinstance(base.get(key), Mapping) or is_reference(base.get(key))
        if value is None and is_part and "_target_" not in base:
            del merged[key]
        else:  # a constructor's parameter keeps its null, which the builder passes on or leaves out
            merged[key] = merge(base.get(key), value)
    return merged


def paths(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every (path, value) of a tree."""
    node = dict(enumerate(node)) if isinstance(node, list) else node
    for name, value in node.items() if isinstance(node, Mapping) else ():
        yield join(key, name), value
        yield from paths(value, join(key, name))


def nest(key: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for the key "a.b"."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def spatial(side: int, base: Any) -> Any:
    """One number as a list with its last two axes, the others from `base`, which may be a reference to a list."""
    if is_reference(base):
        return f"${{lacuna.spatial:{side},{base}}}"
    return _spatial(side, base)


def _spatial(side: int, base: Any) -> Any:
    """Resolver of `spatial`; a number stays one where `base` is no list."""
    if not isinstance(base, Sequence) or isinstance(base, str):
        return side
    axes = list(base)
    return axes[:-2] + [side] * len(axes[-2:])


def is_reference(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _expression(value: Any) -> str:
    """A value in OmegaConf's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_expression(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_expression, value)) + "]"
    if isinstance(value, str) and not value.startswith("${"):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return value if isinstance(value, str) else json.dumps(value)


def _merge(base: Any, over: Mapping, *, _parent_: Any) -> Any:
    """Resolver of a mapping merged into a reference; a DictConfig, so that further references can lead through."""
    return OmegaConf.create(merge(base, over), parent=_parent_)


def _sized(table: Mapping, *, _root_: Any) -> Any:
    """Resolver of `${sized:…}`: a value by the size's name; `else` for the sizes that are not listed."""
    size = OmegaConf.select(_root_, "size.name")
    if size not in table and "else" not in table:
        names = ", ".join(table)
        raise UserError(f"size={size} is not listed in ${{sized:…}}, only {names}; add it, or `else`.")
    return table.get(size, table.get("else"))


def _per_channel(channels: Any, values: Any, value: Any) -> list:
    """Resolver of `${per_channel:…}`: `values` where they are as many as `channels`, else `value` for each."""
    if len(values) == channels or not isinstance(channels, int):  # another type is an error where it is used
        return list(values)
    return [value] * channels


def resolve(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without references. Raises IncompatibleError for a path that leads nowhere, else UserError."""
    references = [(path, value) for path, value in paths(tree) if is_reference(value)]
    if not references:  # as in saved configs
        return deepcopy(dict(tree))

    for path, value in references:
        # OmegaConf has more resolvers, which read the environment; their names are refused, also in pieces.
        text = re.sub(r"\$\{\w[\w.@/-]*\}", "", value)
        for name in re.findall(r"\$\{\s*(\.|[^{}:]*(?=:|\$\{))", text):
            if name not in ("sized", "per_channel", "oc.select", "lacuna.merge", "lacuna.spatial"):
                remedy = "there are whole paths from the root (no relative ones), sized:, per_channel: and oc.select:"
                raise UserError(f"{path}: {value} asks for {name!r}; {remedy}.")
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(dict(tree)), resolve=True))
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
    siblings: Any = tree
    for part in parents:
        siblings = siblings.get(part, {}) if isinstance(siblings, Mapping) else {}
    question = did_you_mean(name, siblings if isinstance(siblings, Mapping) else ())
    choice = tree[group].get("name") if isinstance(tree.get(group), Mapping) else None
    lack = f"which {group}={choice} does not have" if choice else "which does not exist"
    message = f"{key} takes its value from {match[1]}, {lack}.{question}"
    return IncompatibleError(message, groups=(group, key.partition(".")[0]))


def load(path: str | Path) -> dict[str, Any]:
    """A YAML file as plain data. Raises UserError when it cannot be read."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise UserError(f"The config {path} cannot be read: {one_line(error)}") from None
    return deepcopy(_load(str(path), state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=512)
def _load(path: str, *version: int) -> dict[str, Any]:
    """As `load`: each version of a file is read once."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"The config {path} cannot be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"The config {path} holds no mapping.")
    return cast(dict[str, Any], content)


def dump(config: Mapping[str, Any], path: str | Path) -> None:
    """Writes a config as YAML."""
    OmegaConf.save(OmegaConf.create(dict(config)), path)


with warnings.catch_warnings(action="ignore", category=UserWarning):
    # OmegaConf 2.4 prefers the name register_resolver, which is another function in 2.3.
    OmegaConf.register_new_resolver("sized", _sized, replace=True)
    OmegaConf.register_new_resolver("per_channel", _per_channel, replace=True)
    OmegaConf.register_new_resolver("lacuna.merge", _merge, replace=True)
    OmegaConf.register_new_resolver("lacuna.spatial", _spatial, replace=True)
