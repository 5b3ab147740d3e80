"""Constructor annotations are the schema: which parameters a part has, and which values they take."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from core.composition.allowlist import is_own, load_part
from core.composition.annotations import Unbuilt, fit, inner_hint, is_union, join
from core.composition.suggest import suggestion
from core.errors import UserError

LABELS = ("name", "official")  # say something of a node to people, not to its constructor


@dataclass(frozen=True)
class Constructor:
    """What can be said to a class or function. Annotations of torch and timm are not believed, only their names."""

    name: str
    parameters: Mapping[str, inspect.Parameter]
    hints: Mapping[str, Any]
    open: bool  # takes any keyword

    @classmethod
    def of(cls, target: Callable) -> "Constructor":
        return _constructor(target)

    def hint(self, name: str) -> Any:
        return self.hints.get(name, Any)

    def is_required(self, name: str) -> bool:
        return name in self.parameters and self.parameters[name].default is inspect.Parameter.empty

    def order(self, node: Mapping) -> Iterator[str]:
        """Parameters in the constructor's order, then the further keywords that the node gives."""
        yield from self.parameters
        yield from (name for name in settings(node, self) if name not in self.parameters)

    def check_name(self, name: str, key: str) -> None:
        if name not in self.parameters and not self.open:
            raise UserError(f"{key}: {self.name} has no parameter {name!r}.{suggestion(name, self.parameters)}")


@cache
def _constructor(target: Callable) -> Constructor:
    parameters = inspect.signature(target).parameters
    init = target.__init__ if inspect.isclass(target) else target
    home = getattr(init, "__module__", "builtins")  # that of object has none
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    hints = get_type_hints(init) if is_own(home) else {}
    for name in hints.keys() & named.keys():
        hints[name] = hints[name] | None if named[name].default is None else hints[name]
    # nn.Module's own constructor takes any keyword, and then refuses all of them.
    takes_any = home != "torch.nn.modules.module" and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return Constructor(target.__name__, named, hints, takes_any)


def settings(node: Mapping, constructor: Constructor) -> dict[str, Any]:
    """What a node says to its constructor."""
    inner = ("_target_", "_partial_", *(label for label in LABELS if label not in constructor.parameters))
    return {name: value for name, value in node.items() if name not in inner}


def target_of(node: Mapping, hint: Any = Any, key: str = "") -> Callable | None:
    """What a mapping builds: its `_target_`, else the class it is wanted as; None for a plain mapping."""
    if "_target_" in node:
        return load_part(node["_target_"], key, bool(node.get("_partial_")))
    wanted = [h for h in (get_args(hint) if is_union(hint) else (hint,)) if h is not type(None)]
    kind = wanted[0] if len(wanted) == 1 and get_origin(wanted[0]) is None else None
    return kind if inspect.isclass(kind) and is_own(kind.__module__) and not inspect.isabstract(kind) else None


def check(value: Any, hint: Any = Any, key: str = "") -> Any:
    """Holds a tree against the annotations of all parts it names, without building any.

    Raises: UserError for a parameter that does not exist and for a value of the wrong type.
    """
    if isinstance(value, Mapping):
        target = target_of(value, hint, key)
        if target is not None:
            constructor = Constructor.of(target)
            for name, child in settings(value, constructor).items():
                constructor.check_name(name, join(key, name))
                if child is not None:  # null: as if left out
                    check(child, constructor.hint(name), join(key, name))
            return fit(Unbuilt.of(target, value), hint, key)
        value = {n: check(v, inner_hint(hint), join(key, n)) for n, v in value.items() if v is not None}
    elif isinstance(value, list):
        value = [check(item, inner_hint(hint, i), join(key, i)) for i, item in enumerate(value)]
    return fit(value, hint, key)
