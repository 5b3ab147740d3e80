"""What the command line says: `key=value`, checked against what stands at the key, laid over the tree."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.composition.annotations import inner_hint, join, read
from core.composition.choices import GROUPS, choices
from core.composition.references import Misfit, References, merge, nest
from core.composition.schema import Constructor, target_of
from core.composition.suggest import one_line, suggestion
from core.engine.settings import Plan
from core.errors import UserError

SETTINGS = get_type_hints(Plan) | {"run_dir": str | None, "init": str | None}
KEY = re.compile(r"[A-Za-z_]\w*(\.[\w@/-]+)*")
INT = re.compile(r"[-+]?(0|[1-9]\d*)")  # 007 stays text
FLOAT = re.compile(r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)|\.nan")
RESERVED = {"_target_": str, "_partial_": bool}


def split(text: str) -> tuple[str, str]:
    """key=value"""
    key, equals, value = text.partition("=")
    if not equals or not KEY.fullmatch(key):
        bare = key.lstrip("+~-")
        hint = f" Write {bare}={value or '<value>'}." if KEY.fullmatch(bare) else ""
        raise UserError(f"{text!r} is no setting of the form key=value.{hint}")
    return key, value


def parse(text: str) -> Any:
    """A value as typed: null, true, false, numbers, [lists] and {mappings} as in YAML; everything else is text."""
    if text.startswith(("[", "{", '"', "'")):
        try:
            return OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)["value"]
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"{text} is no valid list, mapping or quoted text: {one_line(error)}") from None
    words = {"null": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    if INT.fullmatch(text):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if FLOAT.fullmatch(text) else text


def override(tree: Mapping[str, Any], key: str, text: str) -> dict[str, Any]:
    """The tree with `key=text` laid over it. Raises UserError for a key that does not exist or an ill-typed value."""
    hint, standing, nullable = expected(tree, key, text)
    if nullable and text == "null":
        return merge(tree, nest(key, None))
    value = parse(text) if "{" in text else read(text, parse, hint, key)
    plain = isinstance(value, Mapping) and isinstance(standing, Mapping) and hint is Any
    if plain and "_target_" not in (standing or value):
        for name in value:  # plain settings, given together
            expected(tree, join(key, name), text)
    # Nodes and references are held against annotations when the whole tree is known.
    return merge(tree, nest(key, value))


def expected(tree: Mapping[str, Any], key: str, text: str) -> tuple[Any, Any, bool]:
    """What the value at a key must be, what stands there, and whether null takes it away.

    Below a part annotations say what it must be, elsewhere the value that stands there.
    """
    references, parts = References(tree), key.split(".")
    node, hint, of_part, above = tree, Any, False, ""
    for part in parts:
        hint, of_part = _annotated(tree, node, hint, part, above, f"{key}={text}")
        above = join(above, part)
        # Where a part was left out, its annotation says what can be set below it.
        node = _standing(references, node.get(part), above) if node.get(part) is not None else {}
    nullable = of_part or (len(parts) > 1 and isinstance(node, Mapping))
    return (_like(node) if hint is Any else hint), node, nullable


def _annotated(tree: Mapping, node: Any, hint: Any, part: str, above: str, said: str) -> tuple[Any, bool]:
    """The annotation of `part` of the node at `above`, and whether it is a constructor's parameter."""
    if not isinstance(node, Mapping):
        remedy = f"is a list; give it whole, as {above}=[…]" if isinstance(node, list) else "is a single value"
        raise UserError(f"{said}: {above} {remedy}.")
    if part in RESERVED:
        return RESERVED[part], False
    target = target_of(node, hint, above)
    if target is not None:
        constructor = Constructor.of(target)
        constructor.check_name(part, said)
        return constructor.hint(part), True
    if part not in node:
        raise UserError(f"{said}: there is no {join(above, part)}.{_guess(tree, node, above, part)}")
    return inner_hint(hint) if above else SETTINGS.get(part, Any), False


def _guess(tree: Mapping, node: Mapping, above: str, part: str) -> str:
    """Where a setting that is not here may be: in another file of the group, elsewhere in the tree, misspelt."""
    files = choices(above).items() if above in GROUPS else ()
    if having := [f"{above}={name}" for name, file in files if part in _own_keys(file, above)]:
        return f" {' and '.join(having)} {'has' if len(having) == 1 else 'have'} it."
    elsewhere = [path for path in _paths(tree) if path.split(".")[-1] == part][:4]
    return f" Did you mean {' or '.join(elsewhere)}?" if elsewhere else suggestion(part, node)


def _own_keys(file: Path, group: str) -> list[str]:
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return [*content, *content.get(group, {})]  # the latter of files that speak of the whole tree


def _standing(references: References, node: Any, key: str) -> Any:
    """What stands at a key now; what it holds may still be references."""
    try:
        node = references.known(node, key)
        if isinstance(node, Mapping) and "_target_" in node:
            return {**node, "_target_": references.value(node["_target_"], join(key, "_target_"))}
    except Misfit:
        return {}  # leads nowhere, and may be overridden for that reason
    return node


def _like(default: Any) -> Any:
    """The type of a plain setting: that of its default, anything where that is null or a part."""
    return next((kind for kind in (bool, int, float, str, list) if isinstance(default, kind)), Any)


def _paths(node: Any, key: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, child in node.items():
            yield join(key, name)
            yield from _paths(child, join(key, name))
