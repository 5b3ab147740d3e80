"""YAML files and overrides become one plain tree (`compose`), whose nodes become objects (`build`)."""

from core.config.compose import compose
from core.settings import options
from core.trees import dump, load

__all__ = ["compose", "dump", "load", "options"]
