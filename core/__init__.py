"""Lacuna's core: masked self-supervised learning for any modality. Start reading at `core/tokens.py`."""

from importlib import import_module


def __getattr__(name: str):
    # Loaded on first use, so that `python -m core.train --help` does not pay for what it does not need.
    if name == "load_encoder":
        return import_module("core.export").load_encoder
    raise AttributeError(f"module 'core' has no attribute {name!r}")
