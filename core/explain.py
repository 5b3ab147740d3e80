"""`python -m core.explain <key>`: the settings of a part, with types, values and what they mean."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import shorten
from typing import Any

from core.annotations import describe
from core.cli import command
from core.config import compose
from core.config.files import GROUPS, choices
from core.config.types import LABELS, hints_of, signature_of, target_of
from core.errors import UserError, join, show, suggestion

USAGE = """\
python -m core.explain <key> [key=value ...]      list the settings of a part in the config that `core.train` would have
  python -m core.explain modality.reader modality=image
  python -m core.explain method=mae
  python -m core.explain method.encoder.trunk size=base"""
WIDTH = 118
# Settings of the command, which are no part of a run's config.
START = {
    "seeds": "that many runs, one after another, with seed, seed + 1, … in <run_dir>/seed0, seed1, …",
    "dry_run": "true: everything is checked and estimated up to the first step, and nothing is written",
    "config": "<run>/config.yaml, whose settings are taken; whatever is given beside it wins",
    "data.changed": "accept: a run goes on although its samples are others than before",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command(argv, lambda: USAGE, explain)


def explain(argv: Sequence[str]) -> None:
    """Prints the part's class and purpose, then one line for each of its settings. Raises: UserError."""
    keys = [word for word in argv if "=" not in word]
    overrides = [word for word in argv if "=" in word]
    if not keys:
        keys = [word.partition("=")[0] for word in overrides if word.partition("=")[0] in GROUPS][-1:]
    if len(keys) != 1:
        raise UserError("Name one part, such as modality.reader, optim or method=mae.")

    for line in lines(keys[0], composed(overrides)):
        print(line)


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """The config; data that have to be given stand open."""
    try:
        return compose(overrides)
    except UserError as error:
        if "data.root must be given" not in str(error):
            raise
        return compose([*overrides, "data.root=<your data>"])


def lines(key: str, config: Mapping[str, Any]) -> Iterator[str]:
    """The text about the part at a key. Raises: UserError where there is none."""
    if key in START:
        yield f"{key}: {START[key]}"
        return

    node: Any = config
    path = ""
    for name in key.split("."):
        path = join(path, name)
        if not isinstance(node, Mapping) or name not in node:
            siblings = node if isinstance(node, Mapping) else ()
            if node is config:
                siblings = [*config, *START]
            raise UserError(f"{key}: there is no {path}.{suggestion(name, siblings)}")
        node = node[name]

    comment = _comment(key)
    if not isinstance(node, Mapping):
        yield f"{key} = {show(node)}"
        if comment:
            yield f"  {comment}"
        return

    target = target_of(node)
    if target is None:
        yield f"{key}: {comment}" if comment else key
        rows = [(name, "", _value(value), "") for name, value in node.items()]
    else:
        yield f"{key}: {target.__module__}.{target.__qualname__}"
        yield f"  {_sentence(inspect.getdoc(target) or '')}"
        rows = list(_settings(node, target, key))
    yield from _table(rows)


def _comment(key: str) -> str:
    """The comment beside a key of train.yaml, which no part has; empty for others."""
    text = choices("")["train"].read_text(encoding="utf-8")
    match = re.search(rf"^{re.escape(key)}:[^#\n]*# +(.+)$", text, re.MULTILINE)
    return match[1] if match else ""


def _settings(node: Mapping[str, Any], target: Callable, key: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, value and meaning of every setting of a part."""
    signature = signature_of(target)
    for name, hint in hints_of(node, target, key).items():
        if name in LABELS:
            continue
        value = "(from other parts)"
        if name in node:
            value = _value(node[name])
        elif name in signature.defaults:
            value = _value(signature.defaults[name])
        elif name not in signature.required:
            value = "(its own)"
        kind = "" if hint is Any else describe(hint)
        yield name, kind, value, meaning(name, target)


def meaning(name: str, target: Callable) -> str:
    """What a setting is for: the comment beside it, else the sentence of the docstring that names it; or nothing."""
    for owner in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if owner is object:
            continue
        try:
            source = inspect.getsource(owner)
        except (OSError, TypeError):
            continue
        comment = re.search(rf"^\s*{name}\s*:[^#\n]*#\s*(.+)$", source, re.MULTILINE)
        if comment:
            return comment[1]

        text = " ".join((owner.__doc__ or "").split())
        sentence = re.search(rf"(?:^|(?<=[.:;] ))[^.:;]*`{name}`.*?(?:\.(?= |$)|$)", text)
        if sentence:
            return sentence[0]
    return ""


def _value(value: Any) -> str:
    """A value as one types it; of a part its class."""
    if isinstance(value, Mapping) and "_target_" in value:
        return f"<{value['_target_'].rpartition('.')[2]}>"
    return show(value)


def _sentence(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def _table(rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    """One line for each row, in columns; the meaning has the rest of the line."""
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for *cells, text in rows:
        line = "  ".join(cell.ljust(min(width, 40)) for cell, width in zip(cells, widths, strict=True) if width)
        room = max(20, WIDTH - len(line))
        yield f"  {line}  {shorten(text, room, placeholder=' …')}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
