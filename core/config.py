"""Configuration as the commands use it: `compose` overrides into a tree, `dump` it with the run, `load` it again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from core.build import explained
from core.composition.annotations import read
from core.composition.choices import SearchPath, describe_choices, official_names
from core.composition.overrides import parse, split
from core.composition.references import Misfit
from core.composition.suggest import suggestion
from core.composition.tree import assemble, load
from core.errors import UserError
from core.files import write_atomic

__all__ = ["compose", "describe_choices", "dump", "load", "official_names", "options"]


def compose(overrides: Sequence[str] = (), searchpath: SearchPath = ()) -> dict[str, Any]:
    """The config of a run as plain data, without references, e.g. of `["modality=video", "steps=100"]`.

    Groups (`modality=`, `method=`, …) choose files; `config=<run>/config.yaml` starts from a saved config instead;
    every other key sets a value (`method.masker.ratio=0.9`). `searchpath`: folders that are asked before Lacuna's own.
    Raises: UserError naming the key, the value and what would be right.
    """
    try:
        return assemble(overrides, searchpath)
    except Misfit as misfit:
        raise explained(misfit, searchpath) from None


def options(argv: Sequence[str], hints: Mapping[str, Any], strict: bool = False) -> tuple[dict[str, Any], list[str]]:
    """A command's own settings, typed by `hints`, and apart from them the overrides that are meant for `compose`.

    `strict`: there must be none of those. Raises: UserError for unknown names and values that do not fit.
    """
    own, others = {}, []
    for text in argv:
        key, value = split(text)
        if key in hints:
            own[key] = read(value, parse, hints[key], key)
        elif strict:
            raise UserError(f"{text}: there is no setting {key!r}.{suggestion(key, hints)}")
        else:
            others.append(text)
    return own, others


def dump(config: Mapping[str, Any], path: str | Path) -> None:
    """Writes a config as YAML, atomically."""
    write_atomic(Path(path), OmegaConf.to_yaml(OmegaConf.create(dict(config))))
