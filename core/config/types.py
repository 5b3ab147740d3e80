"""Constructor annotations as the schema: which parameters a part has, and which values fit them."""

import inspect
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from core.config.allowed import is_own, load_part
from core.config.files import GROUPS, choices, read, unknown
from core.errors import UserError, nearest

LABELS = ("name", "official")  # keys of a node for people, not for its constructor
SEQUENCES = (list, tuple, set, frozenset, Sequence, Collection, Iterable)
WORDS = {
    int: "a whole number (int)",
    float: "a number (float)",
    bool: "true or false (bool)",
    str: "text (str)",
    type(None): "null",
}


class Mismatch(Exception):
    """A value does not fit an annotation."""


@dataclass(frozen=True)
class Unbuilt:
    """Stands for a part that is not built yet. `kind`: its class; None where only building shows it."""

    kind: type | None


@cache
def parameters_of(target: Callable) -> dict[str, inspect.Parameter]:
    """Parameters of a class or function with their evaluated annotations; Any for those of torch and timm."""
    init = target.__init__ if inspect.isclass(target) else target
    home = getattr(init, "__module__", "builtins")  # that of object has none
    hints = get_type_hints(init) if is_own(home) else {}
    parameters = {}
    for name, parameter in inspect.signature(target).parameters.items():
        # nn.Module's own constructor takes any keyword, and then refuses all of them.
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL) or home == "torch.nn.modules.module":
            continue
        hint = hints.get(name, Any)
        is_nullable = parameter.default is None and name in hints
        parameters[name] = parameter.replace(annotation=hint | None if is_nullable else hint)
    return parameters


def arguments(node: Mapping, target: Callable, key: str) -> dict[str, tuple[Any, Any]]:
    """(value, annotation) of the keys that a node has for its constructor. Raises UserError for one too many."""
    parameters = parameters_of(target)
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    settings = {}
    for name, value in node.items():
        if name in ("_target_", "_partial_") or (name in LABELS and name not in parameters):
            continue
        if name not in parameters and not is_open:
            place = spelled(join(key, name), value)
            raise UserError(f"{place}: {target.__name__} has no parameter {name!r}.{unknown(name, parameters)}")
        settings[name] = value, parameters[name].annotation if name in parameters else Any
    return settings


def target_of(node: Mapping, hint: Any = Any, key: str = "") -> Callable | None:
    """The class or function that a mapping names by `_target_`, else the class that the annotation names; or None."""
    if "_target_" in node:
        return load_part(node["_target_"], key, is_partial=bool(node.get("_partial_")))
    kinds = [kind for kind in (get_args(hint) if is_union(hint) else (hint,)) if kind is not type(None)]
    kind = kinds[0] if len(kinds) == 1 and get_origin(kinds[0]) is None else None
    return kind if inspect.isclass(kind) and is_own(kind.__module__) and not inspect.isabstract(kind) else None


def check(value: Any, hint: Any = Any, key: str = "", *, default: Any = None, root: Any = None) -> Any:
    """Checks a tree against the annotations of all parts it names, without building any.

    `default`: the value before anything was typed, which decides where no annotation does (None: it may be anything);
    `root`: the whole of those, for messages.
    Raises: UserError for a setting that does not exist and for a value of the wrong type.
    """
    root = default if root is None else root
    kinds = [kind for kind in (bool, int, float, list) if isinstance(default, kind)]
    hint = kinds[0] if kinds and hint is Any else hint
    if isinstance(value, list):
        # Numbers and text are checked with the whole list, which the message then shows.
        is_part = [isinstance(item, Mapping | list) for item in value]
        checks = (
            check(item, inner_hint(hint, i), join(key, i), root=root) for i, item in enumerate(value) if is_part[i]
        )
        value = [next(checks) if is_part[i] else item for i, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return fit(value, hint, key)
    if kinds:
        remedy = f"is a list; give it whole, as {key}=[…]" if kinds == [list] else "is a single value"
        raise UserError(f"{spelled(key, value)}: {key} {remedy}.")

    target = target_of(value, hint, key)
    if target is not None:
        is_same = isinstance(default, Mapping) and default.get("_target_") == value.get("_target_")
        for name, (child, inner) in arguments(value, target, key).items():
            if child is not None:  # null: as if left out
                check(child, inner, join(key, name), default=default.get(name) if is_same else None, root=root)
        is_kind = inspect.isclass(target) and not value.get("_partial_")
        return fit(Unbuilt(target if is_kind else None), hint, key)

    defaults = default if isinstance(default, Mapping) else dict.fromkeys(value)
    checked = {}
    for name, child in value.items():
        if name not in defaults:
            place = join(key, name)
            raise UserError(f"{spelled(place, child)}: there is no {place}.{_guess(name, key, defaults, root)}")
        if child is not None or defaults[name] is not None:
            checked[name] = check(child, inner_hint(hint, name), join(key, name), default=defaults[name], root=root)
    return fit(checked, hint, key)


def _guess(name: str, group: str, siblings: Mapping, root: Any) -> str:
    """The end of a message that there is no such setting: another file of the group, another place, another word."""
    files = (
        [f"{group}={stem}" for stem, file in choices(group).items() if name in read(file)] if group in GROUPS else []
    )
    if files:
        return f" {' and '.join(files)} {'has' if len(files) == 1 else 'have'} it."
    elsewhere = [path for path, _ in paths(root) if path.split(".")[-1] == name][:4]
    return f" Did you mean {' or '.join(elsewhere)}?" if elsewhere else unknown(name, siblings)


def paths(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every (path, value) of a tree."""
    for name, value in node.items() if isinstance(node, Mapping) else ():
        yield join(key, name), value
        yield from paths(value, join(key, name))


def fit(value: Any, hint: Any, key: str) -> Any:
    """The value converted to the annotation (a list to a tuple, a whole float to an int). Raises UserError."""
    try:
        return convert(value, hint)
    except Mismatch:
        guesses = nearest(str(value), map(str, get_args(hint))) if get_origin(hint) is Literal else []
        question = f" Did you mean {' or '.join(guesses)}?" if guesses else ""
        raise UserError(f"{key}={show(value)}: expected {describe(hint)}.{question}") from None


def accepts(value: Any, hint: Any) -> bool:
    try:
        convert(value, hint)
    except Mismatch:
        return False
    return True


def convert(value: Any, hint: Any) -> Any:
    """The value converted to the annotation. Raises Mismatch. Annotations that are not listed here take everything."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if is_union(hint):
        fitting = [convert(value, arg) for arg in args if accepts(value, arg)]
        # A value that needs no conversion first: 5 stays 5 under float | int.
        fitting.sort(key=lambda converted: type(converted) is not type(value))
        return _expect(fitting, fitting)[0]

    is_kind = inspect.isclass(origin) and origin is not Any and not getattr(origin, "_is_protocol", False)
    if isinstance(value, Unbuilt):
        return _expect(value.kind is None or not is_kind or issubclass(value.kind, origin), value)
    if origin is Literal:
        return _expect(any(value == arg and type(value) is type(arg) for arg in args), value)
    if origin in SEQUENCES:
        _expect(isinstance(value, list | tuple | set | frozenset), value)
        _expect(not is_fixed(hint) or len(value) == len(args), value)
        items = [convert(item, inner_hint(hint, i)) for i, item in enumerate(value)]
        return origin(items) if origin in (tuple, set, frozenset) else items
    if is_kind and issubclass(origin, Mapping):
        _expect(isinstance(value, Mapping), value)
        return {name: convert(item, inner_hint(hint)) for name, item in value.items()} if args else value
    if origin in (int, float):
        return _convert_number(value, origin)
    if origin is Path and isinstance(value, str):
        return Path(value)
    if origin in (Callable, type):
        return _expect(callable(value), value)
    return _expect(not is_kind or isinstance(value, origin), value)


def _expect(holds: Any, value: Any) -> Any:
    if not holds:
        raise Mismatch
    return value


def _convert_number(value: Any, kind: type) -> int | float:
    if isinstance(value, str) and kind is float:  # YAML takes 1e-3 for text
        try:
            return float(value)
        except ValueError:
            raise Mismatch from None
    _expect(isinstance(value, int | float) and not isinstance(value, bool), value)
    return kind(_expect(kind is float or value == value // 1, value))


def inner_hint(hint: Any, item: int | str = 0) -> Any:
    """The annotation of an item of a sequence, of a mapping, or of the tree's root, whose annotations have names."""
    if isinstance(hint, Mapping):
        return hint.get(item, Any)
    if is_union(hint):
        inner = [inner_hint(arg, item) for arg in get_args(hint) if arg is not type(None)]
        return inner[0] if len(inner) == 1 else Any
    origin, args = get_origin(hint), get_args(hint)
    if is_fixed(hint):
        return args[item] if item < len(args) else Any
    if args and inspect.isclass(origin) and issubclass(origin, Mapping):
        return args[1]
    return args[0] if args and origin in SEQUENCES else Any


def describe(hint: Any) -> str:
    """An annotation in words."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if is_union(hint):
        return " or ".join(map(describe, args))
    if origin is Literal:
        return f"one of {', '.join(map(show, args))}"
    if is_fixed(hint):
        return f"a list of {len(args)}: {', '.join(map(describe, args))}"
    if origin in SEQUENCES:
        return f"a list, each {describe(args[0])}" if args else "a list"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a mapping"
    return WORDS.get(hint, f"a {getattr(origin, '__name__', origin)}")


def show(value: Any) -> str:
    """A value as one would type it; a part by its class."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: …" for name in value) + "}"
    kind = value.kind if isinstance(value, Unbuilt) else type(value)
    return str(value) if isinstance(value, int | float | str) else f"<{kind.__name__}>"


def spelled(key: str, value: Any) -> str:
    """A setting as one would type it: `a.b=1` for `a` with the value {b: 1}."""
    while isinstance(value, Mapping) and len(value) == 1:
        name, value = next(iter(value.items()))
        key = join(key, name)
    return f"{key}={show(value)}"


def join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def is_fixed(hint: Any) -> bool:
    """Whether a tuple has a number of items: tuple[int, int], not tuple[int, ...]."""
    return get_origin(hint) is tuple and get_args(hint)[-1] is not Ellipsis


def is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
