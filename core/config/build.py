"""Config nodes become objects.

A node is a mapping with `_target_`; its parameters are built in the constructor's order. A required parameter
that is left out comes from the scope: plain values of enclosing nodes and facts that earlier parts provide. These
values are written into the node, which then stands alone. Parts declare, all optional:

provides  property: facts for later parts, {"width": 128}
requires  class attribute or property: facts that must hold in the scope, {"axes": 3}
built_first  class attribute: parameters that are built before the others, ("teachers",)
"""

import inspect
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from core import catalogue
from core.annotations import accepts, describe, fit, item_hint
from core.config import types
from core.config.allowed import checked_targets
from core.errors import IncompatibleError, UserError, join, one_line, show
from core.trees import paths


def build(node: Mapping, scope: Mapping[str, Any] | None = None, key: str = "", kind: Any = Any) -> Any:
    """The object that a node describes, with all its parts; completes the node in place.

    `scope`: values for required parameters that are left out. `key`: the node's place in the config, for
    messages. `kind`: the expected class.
    Raises: UserError for targets outside the allow-list (before anything is built), unknown parameters and values
    that do not fit; IncompatibleError, a UserError, where a part lacks a value or fact that it requires.
    """
    checked_targets(node, key)
    types.check(node, kind, key)
    return _make(node, kind, dict(scope or {}), key)


def build_at(config: Mapping[str, Any], key: str, kind: Any, scope: Mapping[str, Any] | None = None) -> Any:
    """The part at a key of a config, "modality.reader", which a run cannot do without. Raises: as `build`."""
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        raise UserError(f"{key}={show(node)}: it must be {describe(kind)}, a mapping whose _target_ names its class.")
    return build(node, scope, key=key, kind=kind)


def build_method(config: Mapping[str, Any], kind: Any = Any) -> Any:
    """The method of a composed config. Raises: as `build`; with the experiments that fit, where parts do not."""
    try:
        return build_at(config, "method", kind)
    except IncompatibleError as error:
        experiments = catalogue.experiments(config["method"].get("name"))
        if config.get("experiment") is not None or not experiments:
            raise
        remedy = f"Settings that fit this method: {' or '.join(experiments[:3])}."
        raise IncompatibleError(f"{error} {remedy}", groups=error.groups) from None


def _make(value: Any, hint: Any, scope: Mapping[str, Any], key: str) -> Any:
    """A value of a config as the constructor takes it: nodes built, lists and mappings item by item."""
    target = types.target_of(value, hint, key) if isinstance(value, Mapping) else None
    if target is not None:
        return fit(_construct(value, target, scope, key), hint, key)
    if not isinstance(value, Mapping | list):
        return fit(value, hint, key)

    is_list, facts, items = isinstance(value, list), {**scope, **_plain(value)}, {}
    for name, item in enumerate(value) if isinstance(value, list) else value.items():
        inner = item_hint(hint, name)
        if item is not None or is_list or accepts(None, inner):
            items[name] = _make(item, inner, facts, join(key, name))
            facts |= _declared(items[name], "provides")
    return fit(list(items.values()) if is_list else items, hint, key)


def _construct(node: Any, target: Any, scope: Mapping[str, Any], key: str) -> Any:
    """Builds a node's arguments in turn, each with the facts of those before it, then the object."""
    _check_requirements(target, scope, key)
    is_partial, required = bool(node.get("_partial_")), types.signature_of(target).required

    facts, arguments = {**scope, **_plain(node)}, {}
    for name, hint in _in_order(target, types.hints_of(node, target, key)).items():
        value = node.get(name)
        if value is None and not (name in node and accepts(None, hint)):
            if is_partial or name not in required:
                continue
            value = node[name] = _from_scope(name, target, facts, key)
        arguments[name] = _make(value, hint, facts, join(key, name))
        parts = arguments[name].values() if isinstance(arguments[name], Mapping) else (arguments[name],)
        for part in parts:
            facts |= _declared(part, "provides")

    if is_partial:
        return partial(target, **arguments)
    try:
        part = target(**arguments)
    except (ValueError, ArithmeticError, RuntimeError) as error:  # sizes out of range, mostly
        raise UserError(f"{key or target.__name__}: {one_line(error)}") from error
    _check_requirements(part, scope, key)
    return part


def _in_order(target: Any, hints: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in the order in which they are built."""
    first = inspect.getattr_static(target, "built_first", ())
    return {name: hints[name] for name in first} | dict(hints)


def _from_scope(name: str, target: Any, scope: Mapping[str, Any], key: str) -> Any:
    if name not in scope:
        facts = f" Known here: {', '.join(sorted(scope))}." if scope else ""
        lack = f"{target.__name__} needs it, and no earlier part provides it"
        raise IncompatibleError(f"{join(key, name)} must be set: {lack}.{facts}")
    try:
        return json.loads(json.dumps(scope[name]))  # lists for tuples, as YAML has them
    except TypeError:
        message = f"{join(key, name)}: parts must provide plain data, not {type(scope[name])}"
        raise TypeError(message) from None


def _check_requirements(part: Any, scope: Mapping[str, Any], key: str) -> None:
    for fact, value in _declared(part, "requires").items():
        if scope.get(fact) != value:
            name = part.__name__ if inspect.isclass(part) else type(part).__name__
            actual = f"{fact}={show(scope[fact])}" if fact in scope else f"no {fact}"
            needs = f"{key or name} ({name}) needs tokens with {fact}={show(value)}"
            raise IncompatibleError(f"{needs}; these have {actual}.")


def _declared(part: Any, name: str) -> Mapping[str, Any]:
    """The facts that a part's class `provides` or `requires`; those of a property only for an object."""
    declared = inspect.getattr_static(part if inspect.isclass(part) else type(part), name, {})
    if isinstance(declared, property):
        return {} if inspect.isclass(part) else getattr(part, name)
    return declared if isinstance(declared, Mapping) else {}


def _plain(node: Mapping[str, Any] | list) -> dict[str, Any]:
    """The values of a node that its parts may take over."""
    values = {}
    for name, value in node.items() if isinstance(node, Mapping) else ():
        has_nodes = any(isinstance(item, Mapping) for _, item in paths({name: value}))
        if value is not None and not has_nodes and not name.startswith("_") and name not in types.LABELS:
            values[name] = value
    return values
