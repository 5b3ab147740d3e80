"""From a run's config to what reads its samples and says which there are."""

from collections.abc import Mapping
from typing import Any

from core.config.build import build
from core.data.reader import Reader
from core.data.sources import Source


def open_source(config: Mapping[str, Any]) -> tuple[Reader, Source]:
    """How samples are read, and where they come from; the source takes over what the reader and `data` say.

    Raises: UserError for settings that do not fit.
    """
    reader = build(config["modality"]["reader"], key="modality.reader")
    said = {key: value for key, value in config["data"].items() if not isinstance(value, Mapping)}
    scope = {**said, "extensions": list(reader.extensions)}
    # A copy: what is filled in must not be saved with the config, where it would outlive another data.root.
    return reader, build(dict(config["data"]["source"]), scope, key="data.source")
