"""Constructor annotations as the schema: which parameters a part has, and which values fit them."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, get_args, get_type_hints

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
    is_open: bool  # takes any keyword


@cache
def signature_of(target: Callable) -> Signature:
    init = target.__init__ if inspect.isclass(target) else target
    home = getattr(init, "__module__", "builtins")  # that of object has none
    known = get_type_hints(init) if is_own(home) else {}
    parameters = inspect.signature(target).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]

    hints = {p.name: known.get(p.name, Any) for p in named}
    hints |= {p.name: known[p.name] | None for p in named if p.default is None and p.name in known}
    required = frozenset(p.name for p in named if p.default is p.empty)
    # nn.Module's own constructor takes any keyword, and then refuses all of them.
    is_open = home != "torch.nn.modules.module" and any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Signature(hints, required, is_open)


def hints_of(node: Mapping, target: Callable, key: str) -> dict[str, Any]:
    """Annotations of the constructor's parameters, in order, then of the node's further keywords.

    Raises: UserError for a keyword that the constructor does not take.
    """
    signature = signature_of(target)
    further = [name for name in node if name not in {"_target_", "_partial_", *LABELS, *signature.hints}]
    if further and not signature.is_open:
        message = f"{target.__name__} has no parameter {further[0]!r}.{suggestion(further[0], signature.hints)}"
        raise UserError(f"{spelled(join(key, further[0]), node[further[0]])}: {message}")
    return {**signature.hints, **dict.fromkeys(further, Any)}


def target_of(node: Mapping, hint: Any = Any, key: str = "") -> Callable | None:
    """The class or function that a mapping names by `_target_`, else the class that the annotation names; or None."""
    if "_target_" in node:
        return load_part(node["_target_"], key, is_partial=bool(node.get("_partial_")))
    kinds = [kind for kind in (get_args(hint) if is_union(hint) else (hint,)) if kind is not type(None)]
    is_named = len(kinds) == 1 and inspect.isclass(kinds[0]) and is_own(kinds[0].__module__)
    return kinds[0] if is_named and not inspect.isabstract(kinds[0]) else None


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
        value = [
            check(item, item_hint(hint, i), join(key, i), root=root) if isinstance(item, Mapping | list) else item
            for i, item in enumerate(value)
        ]
    if not isinstance(value, Mapping):
        return fit(value, hint, key)
    if kinds:
        remedy = f"is a list; give it whole, as {key}=[…]" if kinds == [list] else "is a single value"
        raise UserError(f"{spelled(key, value)}: {key} {remedy}.")

    target = target_of(value, hint, key)
    defaults = default if isinstance(default, Mapping) else {}
    if target is not None:
        defaults = defaults if defaults.get("_target_") == value.get("_target_") else {}
        for name, inner in hints_of(value, target, key).items():
            if value.get(name) is not None:  # null: as if left out
                check(value[name], inner, join(key, name), default=defaults.get(name), root=root)
        return fit(Unbuilt(target if inspect.isclass(target) and not value.get("_partial_") else None), hint, key)

    checked = {}
    for name, child in value.items():
        place = join(key, name)
        if isinstance(default, Mapping) and name not in default:
            raise UserError(f"{spelled(place, child)}: there is no {place}.{_guess(name, key, defaults, root)}")
        if child is not None or defaults.get(name) is not None:
            checked[name] = check(child, item_hint(hint, name), place, default=defaults.get(name), root=root)
    return fit(checked, hint, key)


def _guess(name: str, group: str, siblings: Mapping, root: Any) -> str:
    """The end of a message that there is no such setting: another file of the group, another place, another word."""
    files = choices(group) if group in GROUPS else {}
    having = [f"{group}={stem}" for stem, file in files.items() if name in read(file)]
    if having:
        return f" {' and '.join(having)} {'has' if len(having) == 1 else 'have'} it."
    elsewhere = [path for path, _ in paths(root) if path.split(".")[-1] == name][:4]
    return f" Did you mean {' or '.join(elsewhere)}?" if elsewhere else suggestion(name, siblings)
