"""Settings that the data at hand decide where the user does not: the features of a graph's nodes, a batch that fits."""

from collections.abc import Sequence
from typing import Any

from core.config import compose
from core.data.opening import open_source
from core.data.sources import Setting
from core.settings import split

RIVALS = {"steps": {"epochs"}, "epochs": {"steps"}, "optim.lr": {"optim", "optim.base_lr"}}  # set the same thing


def compose_for_data(overrides: Sequence[str]) -> tuple[dict[str, Any], list[Setting]]:
    """The config of a run, as `compose` makes it, with the defaults of its source; and these.

    Anything given wins; experiments and saved configs have all their settings given.
    Raises: UserError.
    """
    config = compose(overrides)
    given = {split(text)[0] for text in overrides}
    if "config" in given or config.get("experiment") is not None:
        return config, []

    _, source = open_source(config)
    settings = []
    for setting in source.defaults():
        if not ({setting.key} | RIVALS.get(setting.key, set())) & given:
            settings.append(setting)
    if not settings:
        return config, []
    words = [f"{setting.key}={setting.value}" for setting in settings]
    return compose([*overrides, *words]), settings


def describe(settings: Sequence[Setting]) -> str:
    """One line for each setting, with its reason."""
    return "\n".join(f"chosen: {setting.key}={setting.value}, as {setting.reason}" for setting in settings)
