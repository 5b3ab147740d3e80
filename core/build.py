"""Config nodes become objects.

A node is a mapping with `_target_`; its parameters are built in the constructor's order. A required parameter that is
left out comes from the scope: plain values of enclosing nodes and what earlier parts say they `give`. What was filled
in so is written into the node, which then stands alone. Parts declare, both optional:

give  property: facts for those that come later, {"width": 128}
need  class attribute or property: facts that must have been given just so, {"axes": 3}
"""

import inspect
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch

from core.composition.allowlist import checked_targets, load_target
from core.composition.annotations import accepts, fit, inner_hint, join, show
from core.composition.choices import SearchPath, choices
from core.composition.references import Misfit
from core.composition.schema import LABELS, Constructor, check, target_of
from core.composition.suggest import one_line
from core.composition.tree import assemble
from core.errors import UserError

__all__ = ["build", "build_method", "checked_targets", "compatible", "explained", "load_target"]


def build(node: Mapping[str, Any], scope: Mapping[str, Any] | None = None, key: str = "", kind: Any = Any) -> Any:
    """The object that a node describes, with all its parts; completes the node in place.

    `scope`: values for required parameters that are left out. `key`: where the node stands in the config, for messages.
    `kind`: the class that is wanted.
    Raises: UserError for targets outside the allow-list (before anything is built), unknown parameters and values that
    do not fit; Misfit, a UserError, where a part lacks what it needs.
    """
    checked_targets(node, key)
    check(node, kind, key)
    return _make(node, kind, dict(scope or {}), key)


def build_method(config: Mapping[str, Any], searchpath: SearchPath = ()) -> Any:
    """The method of a composed config. A method that cannot take the modality is a UserError that lists what fits."""
    try:
        return build(config["method"], key="method")
    except Misfit as misfit:
        misfit.pair = (config["modality"]["name"], config["method"]["name"])
        raise explained(misfit, searchpath) from None


def compatible(method: str, searchpath: SearchPath = ()) -> list[str]:
    """The modalities that a method can take, found by building it for each without allocating anything."""
    return [modality for modality in sorted(choices("modality", searchpath)) if fits(modality, method, searchpath)]


def fits(modality: str, method: str, searchpath: SearchPath = ()) -> bool:
    """Whether a method builds for a modality, all else at its defaults."""
    try:
        config = assemble([f"modality={modality}", f"method={method}"], searchpath)
        with torch.device("meta"):
            build(config["method"], key="method")
    except Exception:  # of whatever kind: it must not hide the message that this is asked for
        return False
    return True


def explained(misfit: Misfit, searchpath: SearchPath = ()) -> UserError:
    """The error, with what goes together where the pair never does; as it is where only settings are at fault."""
    modality, method = misfit.pair
    takes = compatible(method, searchpath)
    if modality in takes:
        return misfit
    others = [name for name in sorted(choices("method", searchpath)) if fits(modality, name, searchpath)]
    if not takes and not others:
        return misfit
    return UserError(
        f"method={method} cannot take modality={modality}: {misfit}\n"
        f"method={method} takes modality={_one_of(takes)}; modality={modality} goes with method={_one_of(others)}."
    )


def _make(value: Any, hint: Any, scope: Mapping[str, Any], key: str) -> Any:
    """A value of a config as the constructor wants it: nodes built, lists and mappings item by item."""
    if isinstance(value, Mapping):
        target = target_of(value, hint, key)
        if target is not None:
            made = _construct(value, target, scope, key)
        else:
            kept = {n: v for n, v in value.items() if v is not None or accepts(None, inner_hint(hint))}
            made = _in_order(kept, hint, {**scope, **_plain(value)}, key)
    elif isinstance(value, list):
        made = list(_in_order(dict(enumerate(value)), hint, scope, key).values())
    else:
        made = value
    return fit(made, hint, key)


def _in_order(values: Mapping, hint: Any, scope: Mapping[str, Any], key: str) -> dict:
    """Builds the items of a mapping, or of a list by index, one after another; each knows what those before it give."""
    known, made = dict(scope), {}
    for name, value in values.items():
        made[name] = _make(value, inner_hint(hint, name if isinstance(name, int) else 0), known, join(key, name))
        known |= _declared(made[name], "give")
    return made


def _construct(node: Mapping[str, Any], target: Any, scope: Mapping[str, Any], key: str) -> Any:
    constructor, later = Constructor.of(target), bool(node.get("_partial_"))
    _check_needs(target, scope, key)
    known, arguments = {**scope, **_plain(node)}, {}
    for name in constructor.order(node):
        hint, said = constructor.hint(name), node.get(name)
        if name not in node or (said is None and not accepts(None, hint)):
            if later or not constructor.is_required(name):
                continue
            said = node[name] = _from_scope(name, constructor, known, key)
        arguments[name] = _make(said, hint, known, join(key, name))
        known |= _declared(arguments[name], "give")
    if later:
        return partial(target, **arguments)
    try:
        made = target(**arguments)
    except (ValueError, ArithmeticError, RuntimeError) as error:  # sizes out of range, mostly
        raise UserError(f"{key or constructor.name}: {one_line(error)}") from error
    _check_needs(made, scope, key)
    return made


def _from_scope(name: str, constructor: Constructor, scope: Mapping[str, Any], key: str) -> Any:
    if name not in scope:
        known = f" Known here: {', '.join(sorted(scope))}." if scope else ""
        raise Misfit(
            f"{join(key, name)} must be set: {constructor.name} needs it, and no earlier part gives it.{known}"
        )
    value = _listed(scope[name])
    if not _is_plain(value):
        raise TypeError(f"{join(key, name)}: {type(value)} was given, which a saved node cannot hold; give plain data")
    return value


def _check_needs(part: Any, scope: Mapping[str, Any], key: str) -> None:
    needs = _declared(part, "need")
    for fact, wanted in needs.items():
        if scope.get(fact) != wanted:
            name = part.__name__ if inspect.isclass(part) else type(part).__name__
            has = f"{fact}={show(scope[fact])}" if fact in scope else f"no {fact}"
            raise Misfit(f"{key or name} ({name}) needs tokens with {fact}={show(wanted)}; these have {has}.")


def _declared(part: Any, name: str) -> Mapping[str, Any]:
    """What a part's class declares under `give` or `need`; a property only speaks for an object."""
    kind = part if inspect.isclass(part) else type(part)
    declared = inspect.getattr_static(kind, name, {})
    if not isinstance(declared, property):
        return declared if isinstance(declared, Mapping) else {}
    return {} if inspect.isclass(part) else declared.fget(part)


def _plain(node: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a node that its parts may take over."""
    return {
        name: value
        for name, value in node.items()
        if not name.startswith("_") and name not in LABELS and value is not None and _is_plain(value)
    }


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _one_of(names: Iterable[str]) -> str:
    return "|".join(names) or "(none)"
