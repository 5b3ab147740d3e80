"""Trees of settings as plain data: their paths, and merging one into another.

A mapping merged into a mapping extends it; one with another `_target_` replaces it; one merged into a reference `${…}`
extends its final value (by the resolver `lacuna.merge` of `core.config`); `null` removes a part from its mapping.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from core.errors import join


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
