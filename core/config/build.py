"""Config nodes become objects.

A node is a mapping with `_target_`; its parameters are built in the constructor's order. A required parameter that is
left out comes from the scope: plain values of enclosing nodes and facts that earlier parts provide. These values are
written into the node, which then stands alone. Parts declare, both optional:

provides  property: facts for later parts, {"width": 128}
requires  class attribute or property: facts that must hold in the scope, {"axes": 3}
"""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from core.config.allowed import checked_targets
from core.config.types import (
    LABELS,
    accepts,
    arguments,
    check,
    fit,
    inner_hint,
    is_required,
    join,
    parameters_of,
    show,
    target_of,
)
from core.errors import IncompatibleError, UserError, one_line


def build(node: Mapping[str, Any], scope: Mapping[str, Any] | None = None, key: str = "", kind: Any = Any) -> Any:
    """The object that a node describes, with all its parts; completes the node in place.

    `scope`: values for required parameters that are left out. `key`: the node's place in the config, for messages.
    `kind`: the expected class.
    Raises: UserError for targets outside the allow-list (before anything is built), unknown parameters and values that
    do not fit; IncompatibleError, a UserError, where a part lacks a value or fact that it requires.
    """
    checked_targets(node, key)
    check(node, kind, key)
    return _make(node, kind, dict(scope or {}), key)


def build_method(config: Mapping[str, Any]) -> Any:
    """The method of a composed config."""
    return build(config["method"], key="method")


def _make(value: Any, hint: Any, scope: Mapping[str, Any], key: str) -> Any:
    """A value of a config as the constructor takes it: nodes built, lists and mappings item by item."""
    target = target_of(value, hint, key) if isinstance(value, Mapping) else None
    if target is not None:
        value = _construct(value, target, scope, key)
    elif isinstance(value, Mapping | list):
        items = value if isinstance(value, Mapping) else dict(enumerate(value))
        facts, made = {**scope, **_plain(value)}, {}
        for name, item in items.items():
            inner = inner_hint(hint, name)
            if item is not None or isinstance(value, list) or accepts(None, inner):
                made[name] = _make(item, inner, facts, join(key, name))
                facts |= _declared(made[name], "provides")
        value = made if isinstance(value, Mapping) else list(made.values())
    return fit(value, hint, key)


def _construct(node: Mapping[str, Any], target: Any, scope: Mapping[str, Any], key: str) -> Any:
    """Builds a node's arguments one after another, each with the facts of those before it, then the object."""
    parameters, settings = parameters_of(target), arguments(node, target, key)
    is_partial = bool(node.get("_partial_"))
    _check_requirements(target, scope, key)

    facts, made = {**scope, **_plain(node)}, {}
    for name in dict.fromkeys([*parameters, *settings]):
        parameter = parameters.get(name)
        value, hint = settings[name] if name in settings else (None, parameter.annotation)
        if value is None and not (name in settings and accepts(None, hint)):
            if is_partial or parameter is None or not is_required(parameter):
                continue
            value = node[name] = _from_scope(name, target, facts, key)
        made[name] = _make(value, hint, facts, join(key, name))
        facts |= _declared(made[name], "provides")

    if is_partial:
        return partial(target, **made)
    try:
        part = target(**made)
    except (ValueError, ArithmeticError, RuntimeError) as error:  # sizes out of range, mostly
        raise UserError(f"{key or target.__name__}: {one_line(error)}") from error
    _check_requirements(part, scope, key)
    return part


def _from_scope(name: str, target: Any, scope: Mapping[str, Any], key: str) -> Any:
    if name not in scope:
        known = f" Known here: {', '.join(sorted(scope))}." if scope else ""
        source = f"{target.__name__} needs it, and no earlier part provides it"
        raise IncompatibleError(f"{join(key, name)} must be set: {source}.{known}")
    value = _listed(scope[name])
    if not _is_plain(value):
        raise TypeError(f"{join(key, name)}: a saved node cannot hold {type(value)}; parts must provide plain data")
    return value


def _check_requirements(part: Any, scope: Mapping[str, Any], key: str) -> None:
    for fact, value in _declared(part, "requires").items():
        if scope.get(fact) != value:
            name = part.__name__ if inspect.isclass(part) else type(part).__name__
            actual = f"{fact}={show(scope[fact])}" if fact in scope else f"no {fact}"
            raise IncompatibleError(
                f"{key or name} ({name}) needs tokens with {fact}={show(value)}; these have {actual}."
            )


def _declared(part: Any, name: str) -> Mapping[str, Any]:
    """The facts that a part's class `provides` or `requires`; those of a property only for an object."""
    kind = part if inspect.isclass(part) else type(part)
    declared = inspect.getattr_static(kind, name, {})
    if isinstance(declared, property):
        return {} if inspect.isclass(part) else declared.fget(part)
    return declared if isinstance(declared, Mapping) else {}


def _plain(node: Mapping[str, Any] | list) -> dict[str, Any]:
    """The values of a node that its parts may take over."""
    items = node.items() if isinstance(node, Mapping) else ()
    named = {name: value for name, value in items if not name.startswith("_") and name not in LABELS}
    return {name: value for name, value in named.items() if value is not None and _is_plain(value)}


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
