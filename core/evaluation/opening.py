"""A run's parts, opened for an evaluation: its config, samples and trained method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from core.config import compose, load
from core.config.build import build, build_method
from core.engine.checkpoint import STATE, Checkpoints
from core.engine.initial import initialise
from core.errors import UserError
from core.methods.masked_autoencoder import MaskedAutoencoder

CHANGEABLE = ("data", "modality.reader", "published")  # what an evaluation may set differently from its run


def open_config(run: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A run's config with overrides of its data; `data.root=` alone, after training on generated data, means a folder.

    Raises: UserError where there is no run, or for overrides of anything but the data.
    """
    file = run / "config.yaml"
    if not file.exists():
        raise UserError(f"run={run} is no folder of a run: it has no config.yaml.")
    for text in overrides:
        key = text.partition("=")[0]
        if not any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE):
            raise UserError(
                f"{text}: an evaluation takes its run as it is; it may set {' and '.join(CHANGEABLE)} only."
            )
    given = dict(text.partition("=")[::2] for text in overrides)
    if "data.root" in given and "data" not in given and "root" not in load(file)["data"]:
        overrides = ["data=folder", *overrides]
    return compose([f"config={file}", *overrides])


def open_method(run: Path, config: Mapping[str, Any]) -> MaskedAutoencoder:
    """The method with the weights of the run's newest checkpoint; the running mean of them where one was kept.

    Raises: UserError where there is no checkpoint.
    """
    newest = Checkpoints(run / "checkpoints", keep=1).newest()
    if newest is None:
        raise UserError(
            f"run={run} has no checkpoint to reconstruct with; train it first, or choose task=knn or linear."
        )
    method = build_method(dict(config))
    initialise(method, newest)
    with safe_open(newest / STATE, "pt") as state:
        names = [name for name in state.keys() if name.startswith("average/")]  # noqa: SIM118 (no mapping)
        means = {name.removeprefix("average/"): state.get_tensor(name) for name in names}
    method.load_state_dict(means, strict=False)
    return method


def workers(config: Mapping[str, Any]) -> int:
    """Loader processes, as the run's engine settings have it."""
    return build(config["engine"], key="engine").loader_workers()
