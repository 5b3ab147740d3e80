"""Constructor annotations as the schema: which parameters a part has, and which values fit them."""

import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, cast, get_args, get_type_hints

from core.annotations import Unbuilt, fit, is_union, item_hint
from core.config.allowed import is_own, load_part
from core.config.files import GROUPS, choices, read
from core.errors import UserError, join, spelled, suggestion
from core.trees import paths

LABELS = ("name", "official")  # keys of a node for people, not for its constructor


class Signature(NamedTuple):
    """Parameters of a class or function. Annotations of torch and timm are not used, only their names."""

    hints: Mapping[str, Any]
    required: frozenset[str]
    defaults: Mapping[str, Any]  # those that are plain data, as YAML has them
    is_open: bool  # takes any keyword


@cache
def signature_of(target: Callable) -> Signature:
    init = target.__init__ if inspect.isclass(target) else target
    home = getattr(init, "__module__", "builtins")  # that of object has none
    annotations = get_type_hints(init) if is_own(home) else {}

    hints, required, defaults, is_open = {}, set(), {}, False
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            hints[name] = annotations.get(name, Any)
            if parameter.default is parameter.empty:
                required.add(name)
            elif is_own(home):
                with suppress(TypeError):
                    defaults[name] = json.loads(json.dumps(parameter.default))
            if parameter.default is None and name in annotations:
                hints[name] = annotations[name] | None
        # nn.Module's own constructor takes any keyword, and then refuses all of them.
        is_open |= parameter.kind is parameter.VAR_KEYWORD and home != "torch.nn.modules.module"
    return Signature(hints, frozenset(required), defaults=defaults, is_open=is_open)


def hints_of(node: Mapping, target: Callable, key: str) -> dict[str, Any]:
    """Annotations of all parameters, in order, then of further keywords. Raises UserError for a wrong one."""
    signature = signature_of(target)
    hints = dict(signature.hints)
    for name, value in node.items():
        if name in hints or name in ("_target_", "_partial_", *LABELS):
            continue
        if not signature.is_open:
            lack = f"{target.__name__} has no parameter {name!r}.{suggestion(name, hints)}"
            raise UserError(f"{spelled(join(key, name), value)}: {lack}")
        hints[name] = Any
    return hints


def target_of(node: Mapping, hint: Any = Any, key: str = "") -> Callable | None:
    """The class or function that a mapping names by `_target_`, else the class of the annotation; or None."""
    if "_target_" in node:
        return load_part(node["_target_"], key, is_partial=bool(node.get("_partial_")))

    hints = get_args(hint) if is_union(hint) else (hint,)
    kinds = [kind for kind in hints if kind is not type(None)]
    kind = kinds[0] if len(kinds) == 1 else None
    is_part = inspect.isclass(kind) and is_own(kind.__module__) and not inspect.isabstract(kind)
    return kind if is_part else None


def check(value: Any, hint: Any = Any, key: str = "", *, default: Any = None, root: Any = None) -> Any:
    """Checks a tree against the annotations of all parts it names, without building any.

    `default`: the value before anything was typed, which decides where no annotation does (None: anything fits);
    `root`: the whole of those, for messages.
    Raises: UserError for a setting that does not exist and for a value of the wrong type.
    """
    root = default if root is None else root
    if hint is Any and isinstance(default, bool | int | float | list):
        hint = type(default)
    if isinstance(value, list):
        return fit(_check_items(value, hint, key, root), hint, key)
    if not isinstance(value, Mapping):
        return fit(value, hint, key)
    if isinstance(default, bool | int | float | list):
        remedy = f"a list; give it whole, as {key}=[…]" if isinstance(default, list) else "a single value"
        raise UserError(f"{spelled(key, value)}: {key} is {remedy}.")

    target = target_of(value, hint, key)
    defaults = default if isinstance(default, Mapping) else {}
    if target is not None:
        is_same = defaults.get("_target_") == value.get("_target_")
        for name, inner in hints_of(value, target, key).items():
            if value.get(name) is not None:  # null: as if left out
                before = defaults.get(name) if is_same else None
                check(value[name], inner, join(key, name), default=before, root=root)
        is_class = inspect.isclass(target) and not value.get("_partial_")
        return fit(Unbuilt(cast(type, target) if is_class else None), hint, key)

    items = {}
    for name, item in value.items():
        place, before = join(key, name), defaults.get(name)
        if isinstance(default, Mapping) and name not in default:
            guess = _guess(name, key, siblings=defaults, root=root)
            raise UserError(f"{spelled(place, item)}: there is no {place}.{guess}")
        if item is not None or before is not None:
            items[name] = check(item, item_hint(hint, name), place, default=before, root=root)
    return fit(items, hint, key)


def _check_items(items: list, hint: Any, key: str, root: Any) -> list:
    """Checks the nodes in a list; its numbers and text are left to the whole list, which a message then shows."""
    checked = list(items)
    for i, item in enumerate(items):
        if isinstance(item, Mapping | list):
            checked[i] = check(item, item_hint(hint, i), join(key, i), root=root)
    return checked


def _guess(name: str, group: str, *, siblings: Mapping, root: Any) -> str:
    """The end of a message that a setting is not there: another file, another place or another word for it."""
    modality = (root.get("modality") or {}).get("name") if isinstance(root, Mapping) else None
    matches = []
    for stem, file in choices(group).items() if group in GROUPS else ():
        content = read(file)
        if name in content and modality in content.get("modalities", [modality]):
            matches.append(f"{group}={stem}")
    if matches:
        return f" Choose {' or '.join(matches)}, which {'has' if len(matches) == 1 else 'have'} it."

    places = [path for path, _ in paths(root) if path.split(".")[-1] == name]
    return f" Did you mean {' or '.join(places[:4])}?" if places else suggestion(name, siblings)
