"""Images: reading, networks, pictures, official checkpoints, and encoders for people who only want features."""

from pathlib import Path


def encoder(name: str = "mae_base", weights: str | Path | None = None):
    """An encoder that takes images uint8 or [0, 1] (B, C, H, W); `name` is "<method>_<size>".

    `weights`: a run's folder, a saved encoder, or a file of official weights; None for fresh ones.
    Returns a `core.export.SavedEncoder`, which gives `tokens`, `pooled`, `cls`. Raises: UserError.
    """
    from core.export import open_encoder  # late: the package itself stays light

    return open_encoder("image", name, weights)
