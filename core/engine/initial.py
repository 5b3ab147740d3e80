"""`init=`: weights to start from."""

from pathlib import Path

from safetensors.torch import load_file

from core.engine.checkpoint import MODEL, Checkpoints, compare_shapes
from core.errors import UserError
from core.export import load_encoder
from core.methods.masked_autoencoder import MaskedAutoencoder


def initialise(method: MaskedAutoencoder, path: Path) -> None:
    """Loads a run's or a checkpoint's whole method, or the encoder of a saved encoder, into `method`.

    Teachers that follow the method's weights, and were not loaded themselves, begin with the loaded ones.
    Raises UserError where there is neither, or where it does not fit.
    """
    newest = Checkpoints(path / "checkpoints", keep=1).newest()
    checkpoint = newest or (path if (path / "meta.json").exists() else None)
    if checkpoint is not None:
        weights, part = load_file(checkpoint / MODEL), method
    elif (path / "config.json").exists() or (path / "encoder" / "config.json").exists():
        weights, part = load_encoder(path).encoder.state_dict(), method.encoder
    else:
        raise UserError(
            f"init={path} is neither a run, nor a checkpoint folder, nor a saved encoder. Convert official files: "
            "python -m core.convert official=<method> path=<file> out=<folder>."
        )
    compare_shapes(weights, part, path)
    part.load_state_dict(weights, strict=False)
    method.follow(weights if part is method else ())
