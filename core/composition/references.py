"""Config trees as plain data: laying one over another, and what `${…}` stands for.

Lays: a mapping extends a mapping; one with another `_target_` replaces it; one laid over a reference extends what that
refers to in the end; `null` takes a part out of its mapping. References are whole paths from the root (`${size.dim}`,
`${modality.size.0}`), or ask a resolver (`${sized:{nano:64,else:512}}`), in OmegaConf's grammar.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse
from omegaconf.grammar_visitor import GrammarVisitor

from core.composition.suggest import nearest
from core.errors import UserError

MISSING = object()
PATH = re.compile(r"\$\{\s*([\w@/-]+(?:\.[\w@/-]+)*)\s*\}")


class Misfit(UserError):
    """A method and a modality do not go together, or look like it. `pair`: (modality, method)."""

    pair: tuple[str, str] | None = None


@dataclass(frozen=True)
class Laid:
    """Mappings laid over a reference, to be merged when that is known."""

    reference: str
    layers: tuple[Mapping, ...]


def merge(base: Any, over: Any) -> Any:
    """`over` laid over `base`; neither is changed."""
    if not isinstance(over, Mapping):
        return over
    if is_reference(base):
        return Laid(base, (over,))
    if isinstance(base, Laid):
        return Laid(base.reference, (*base.layers, over))
    if not isinstance(base, Mapping) or _is_other(base, over):
        return over
    merged = dict(base)
    for key, value in over.items():
        if value is None and _is_part(base.get(key)) and "_target_" not in base:
            del merged[key]
        else:
            # A constructor's parameter keeps its null: the builder says it, or leaves it out where it must not be null.
            merged[key] = merge(base.get(key), value)
    return merged


def nest(key: str, value: Any) -> dict:
    """{"a": {"b": value}} for the key "a.b"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def is_reference(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _is_other(base: Mapping, over: Mapping) -> bool:
    return "_target_" in base and over.get("_target_", base["_target_"]) != base["_target_"]


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping | Laid) or is_reference(value)


class References:
    """Evaluates a tree. Raises Misfit for a path that leads nowhere, UserError for what cannot be evaluated."""

    def __init__(self, tree: Mapping):
        self.tree = tree
        self._open: list[str] = []  # keys being evaluated, innermost last
        self._resolvers = {"sized": self._sized, "oc.select": self._select}

    def value(self, node: Any, key: str = "") -> Any:
        """`node`, which stands at `key`, as plain data without references; a copy."""
        node = self.known(node, key)
        if isinstance(node, Mapping):
            return {name: self.value(child, f"{key}.{name}" if key else str(name)) for name, child in node.items()}
        return [self.value(child, f"{key}.{i}") for i, child in enumerate(node)] if isinstance(node, list) else node

    def known(self, node: Any, key: str) -> Any:
        """What a reference stands for, and anything else as it is; what it holds may still have references."""
        if not isinstance(node, Laid) and not is_reference(node):
            return node
        if key in self._open:
            raise UserError(f"{key} refers to itself: {' -> '.join([*self._open[self._open.index(key) :], key])}.")
        self._open.append(key)
        try:
            if not isinstance(node, Laid):
                return self._evaluate(node, key)
            value = self._evaluate(node.reference, key)
            for layer in node.layers:
                value = merge(value, self.value(layer, key))
            return value
        finally:
            self._open.pop()

    def find(self, path: str) -> Any:
        """What stands at a path, evaluated, or MISSING."""
        node, key = self.tree, ""
        for part in path.split("."):
            node = self.known(node, key)
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            else:
                node = node.get(part, MISSING) if isinstance(node, Mapping) else MISSING
            if node is MISSING:
                return MISSING
            key = f"{key}.{part}" if key else part
        return self.value(node, path)

    def _evaluate(self, text: str, key: str) -> Any:
        if match := PATH.fullmatch(text):  # most are as plain as that, and the parser is slow
            return self._follow(match[1], key)

        def resolve(name: str, args: tuple, args_str: tuple) -> Any:
            if name not in self._resolvers:
                raise UserError(f"{key}: {text} asks for {name!r}; there are: {', '.join(self._resolvers)}.")
            return self._resolvers[name](*args)

        try:
            return GrammarVisitor(lambda path, _: self._follow(path, key), resolve, None).visit(parse(text))
        except (GrammarParseError, TypeError, ValueError) as error:
            raise UserError(f"{key}: {text} cannot be evaluated: {error}") from error

    def _follow(self, path: str, key: str) -> Any:
        if path.startswith("."):
            raise UserError(f"{key}: ${{{path}}} is relative; write the whole path from the root of the config.")
        value = self.find(path)
        if value is MISSING:
            where, _, name = path.rpartition(".")
            parent = self.find(where) if where else self.tree
            near = nearest(name, map(str, parent)) if isinstance(parent, Mapping) else []
            guess = f" Did you mean {' or '.join(near)}?" if near else ""
            raise Misfit(f"{key} takes its value from {path}, {self._lack(path)}.{guess}")
        return value

    def _lack(self, path: str) -> str:
        """Who lacks what a path names: the group's choice, where a whole group's file stands at its start."""
        group = path.partition(".")[0]
        name = self.find(f"{group}.name")
        return "which does not exist" if name is MISSING else f"which {group}={name} does not have"

    def _sized(self, table: Mapping) -> Any:
        """By the size's name; `else` for the sizes that are not listed."""
        size = self.find("size.name")
        if size not in table and "else" not in table:
            raise UserError(f"size={size} is not listed in ${{sized:…}}, only {', '.join(table)}; add it, or `else`.")
        return table.get(size, table.get("else"))

    def _select(self, path: str, default: Any = None) -> Any:
        value = self.find(path)
        return default if value is MISSING else value
