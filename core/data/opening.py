"""Builds the reader and the source that a run's config names."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from core.config.build import build_at
from core.config.types import signature_of, target_of
from core.data.reader import Reader
from core.data.sources import Source


def open_source(config: Mapping[str, Any]) -> tuple[Reader, Source]:
    """The run's reader and source.

    The source also takes the plain settings of `data`, the reader's extensions and, where it has parameters
    of these names, `reads_parts`, `sample_axes` and `frame_extensions` of the reader.
    Raises: UserError for settings that do not fit.
    """
    reader: Reader = build_at(config, "modality.reader", Reader)

    scope: dict[str, Any] = {}
    for key, value in config["data"].items():
        if not isinstance(value, Mapping):  # nodes are parts of their own
            scope[key] = value
    scope["extensions"] = list(reader.extensions)

    # A copy: values filled in here must not be saved with the config, where they would outlive the data.root.
    draft: dict[str, Any] = deepcopy(dict(config))
    node = draft["data"].get("source")
    target = target_of(node, key="data.source") if isinstance(node, dict) else None
    for name in ("reads_parts", "sample_axes", "frame_extensions"):
        if target is not None and name in signature_of(target).hints:
            # Over whatever stands there: a saved config holds the defaults of a source without a reader.
            value = getattr(reader, name)
            node[name] = list(value) if isinstance(value, tuple) else value
    source: Source = build_at(draft, "data.source", Source, scope)
    return reader, source
