"""YAML files and overrides become one plain tree (`compose`), whose nodes become objects (`build`)."""

from core.config.compose import compose, dump
from core.config.files import describe_choices, load, official_names
from core.settings import options

__all__ = ["compose", "describe_choices", "dump", "load", "official_names", "options"]
