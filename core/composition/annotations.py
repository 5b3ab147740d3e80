"""Type annotations as what a config value may be: checking, converting and putting them into words."""

import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from core.composition.suggest import nearest
from core.errors import UserError

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
    """Stands for a part that is not built yet. `kind`: its class; None where only building tells."""

    kind: type | None

    @classmethod
    def of(cls, target: Callable, node: Mapping) -> "Unbuilt":
        return cls(target if inspect.isclass(target) and not node.get("_partial_") else None)


def fit(value: Any, hint: Any, key: str) -> Any:
    """The value as the annotation wants it (a list becomes a tuple, a whole float an int). Raises UserError."""
    try:
        return convert(value, hint)
    except Mismatch:
        near = nearest(str(value), [str(a) for a in get_args(hint)]) if get_origin(hint) is Literal else []
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"{key}={show(value)}: expected {describe(hint)}.{guess}") from None


def read(text: str, parse: Callable[[str], Any], hint: Any, key: str) -> Any:
    """What the command line says: parsed, or as it stands where text is wanted (`run_dir=2024`)."""
    value = parse(text)
    if not isinstance(value, str) and accepts(text, hint) and not accepts(value, hint):
        return text
    return fit(value, hint, key)


def accepts(value: Any, hint: Any) -> bool:
    try:
        convert(value, hint)
    except Mismatch:
        return False
    return True


def convert(value: Any, hint: Any) -> Any:
    """The value as the annotation wants it. Raises Mismatch. Annotations it does not know accept everything."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return value
    if is_union(hint):
        return _convert_union(value, args)
    if isinstance(value, Unbuilt):
        return _expect(value.kind is None or not _is_kind(origin) or issubclass(value.kind, origin), value)
    if origin is Literal:
        return _expect(any(value == a and type(value) is type(a) for a in args), value)
    if origin in SEQUENCES:
        return _convert_sequence(value, origin, hint)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        _expect(isinstance(value, Mapping), value)
        return {name: convert(item, inner_hint(hint)) for name, item in value.items()} if args else value
    if origin in (Callable, type):
        return _expect(callable(value), value)
    if origin in (int, float):
        return _convert_number(value, origin)
    if origin is Path and isinstance(value, str):
        return Path(value)
    if hint is None:
        return _expect(value is None, value)
    return _expect(not _is_kind(origin) or isinstance(value, origin), value)


def _is_kind(origin: Any) -> bool:
    """Whether things can be asked if they are of this kind."""
    return inspect.isclass(origin) and not getattr(origin, "_is_protocol", False)


def _expect(holds: bool, value: Any) -> Any:
    if not holds:
        raise Mismatch
    return value


def _convert_union(value: Any, args: tuple) -> Any:
    fitting = [convert(value, arg) for arg in args if accepts(value, arg)]
    _expect(bool(fitting), value)
    # What needs no conversion first: 5 stays 5 under float | int.
    return next((v for v in fitting if type(v) is type(value)), fitting[0])


def _convert_number(value: Any, kind: type) -> int | float:
    if isinstance(value, str) and kind is float:  # YAML takes 1e-3 for text
        try:
            return float(value)
        except ValueError:
            raise Mismatch from None
    _expect(isinstance(value, int | float) and not isinstance(value, bool), value)
    _expect(kind is float or value == value // 1, value)
    return kind(value)


def _convert_sequence(value: Any, kind: type, hint: Any) -> Any:
    args = get_args(hint)
    _expect(isinstance(value, list | tuple | set | frozenset), value)
    if kind is tuple and args and args[-1] is not Ellipsis:
        _expect(len(value) == len(args), value)
    items = [convert(item, inner_hint(hint, i)) for i, item in enumerate(value)]
    return kind(items) if kind in (tuple, set, frozenset) else items


def inner_hint(hint: Any, index: int = 0) -> Any:
    """The annotation of what a sequence or mapping holds."""
    if is_union(hint):
        inner = [inner_hint(arg, index) for arg in get_args(hint) if arg is not type(None)]
        return inner[0] if len(inner) == 1 else Any
    origin, args = get_origin(hint), get_args(hint)
    if not args or origin is Literal:
        return Any
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return args[1]
    if origin is tuple and args[-1] is not Ellipsis:
        return args[index] if index < len(args) else Any
    return args[0] if origin in SEQUENCES else Any


def describe(hint: Any) -> str:
    """An annotation in words."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if is_union(hint):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(show(arg) for arg in args)
    if origin is tuple and args and args[-1] is not Ellipsis:
        return f"a list of {len(args)}: " + ", ".join(describe(arg) for arg in args)
    if origin in SEQUENCES:
        return f"a list, each {describe(args[0])}" if args else "a list"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a mapping"
    if hint in WORDS or hint is None:
        return WORDS[hint or type(None)]
    return f"a {origin.__name__}" if inspect.isclass(origin) else str(hint)


def show(value: Any) -> str:
    """A value as one would type it; a built part by its class."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(show(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: …" for name in value) + "}"
    kind = value.kind if isinstance(value, Unbuilt) else type(value)
    return str(value) if isinstance(value, int | float | str) else f"<{kind.__name__}>"


def join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)
