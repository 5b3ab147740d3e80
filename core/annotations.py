"""Type annotations as the schema of settings: which values fit, their conversion, and words for messages."""

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin

from core.errors import UserError, did_you_mean, show

SEQUENCES = (list, tuple, Sequence)
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
WORDS = {int: "a whole number (int)", float: "a number (float)", bool: "true or false (bool)", str: "text (str)"}


class Mismatch(Exception):
    """A value does not fit an annotation."""


@dataclass(frozen=True)
class Unbuilt:
    """Stands for a part that is not built yet. `kind`: its class; None where only building shows it."""

    kind: type | None


def fit(value: Any, hint: Any, key: str) -> Any:
    """The value converted to the annotation (a list to a tuple, 3.0 to an int). Raises UserError."""
    try:
        return convert(value, hint)
    except Mismatch:
        question = ""
        if get_origin(hint) is Literal:
            question = did_you_mean(str(value), map(str, get_args(hint)))
        if isinstance(value, str) and CLASS_PATH.fullmatch(value) and inspect.isclass(hint) and hint not in WORDS:
            question = f" A class is written as {key}={{_target_: {value}}}, with its settings after a comma."
        text = f"<{getattr(value.kind, '__name__', 'part')}>" if isinstance(value, Unbuilt) else show(value)
        raise UserError(f"{key}={text}: expected {describe(hint)}.{question}") from None


def accepts(value: Any, hint: Any) -> bool:
    try:
        convert(value, hint)
    except Mismatch:
        return False
    return True


def convert(value: Any, hint: Any) -> Any:
    """The value converted to the annotation; all values fit other annotations than these. Raises Mismatch."""
    origin = cast(Any, get_origin(hint) or hint)
    args = get_args(hint)
    if is_union(hint):
        fitting = [convert(value, arg) for arg in args if accepts(value, arg)]
        # A value that needs no conversion first: 5 stays 5 under float | int.
        fitting.sort(key=lambda converted: type(converted) is not type(value))
        return _expect(fitting, fitting)[0]

    is_kind = inspect.isclass(origin) and origin is not Any and not getattr(origin, "_is_protocol", False)
    kind = cast(type, origin)  # where is_kind
    if isinstance(value, Unbuilt):
        return _expect(value.kind is None or not is_kind or issubclass(value.kind, kind), value)
    if origin is Literal:
        return _expect(any(value == arg and type(value) is type(arg) for arg in args), value)
    if origin in SEQUENCES:
        _expect(isinstance(value, list | tuple) and (not is_fixed(hint) or len(value) == len(args)), value)
        items = [convert(item, item_hint(hint, i)) for i, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if is_kind and issubclass(kind, Mapping):
        _expect(isinstance(value, Mapping), value)
        return {name: convert(item, item_hint(hint)) for name, item in value.items()}
    if origin is float and isinstance(value, str):  # YAML takes 1e-3 for text
        try:
            return float(value)
        except ValueError:
            raise Mismatch from None
    if origin in (int, float):
        _expect(isinstance(value, int | float) and not isinstance(value, bool), value)
        return origin(_expect(origin is float or value == value // 1, value))
    if origin is Path and isinstance(value, str):
        return Path(value)
    if origin in (Callable, type):
        return _expect(callable(value), value)
    return _expect(not is_kind or isinstance(value, kind), value)


def _expect(holds: Any, value: Any) -> Any:
    if not holds:
        raise Mismatch
    return value


def item_hint(hint: Any, item: int | str = 0) -> Any:
    """The annotation of an item of a sequence, of a mapping, or of a tree's root, where each name has its own."""
    if isinstance(hint, Mapping):
        return hint.get(item, Any)
    if is_union(hint):
        inner = [item_hint(arg, item) for arg in get_args(hint) if arg is not type(None)]
        return inner[0] if len(inner) == 1 else Any
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(item, int) and is_fixed(hint):
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
    if inspect.isclass(origin) and issubclass(origin, Mapping | types.NoneType):
        return "a mapping" if issubclass(origin, Mapping) else "null"
    name = str(getattr(origin, "__name__", origin))
    return WORDS.get(hint, f"{'an' if name[0] in 'AEIOU' else 'a'} {name}")


def is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def is_fixed(hint: Any) -> bool:
    """Whether a tuple has a number of items: tuple[int, int], not tuple[int, ...]."""
    return get_origin(hint) is tuple and get_args(hint)[-1] is not Ellipsis
