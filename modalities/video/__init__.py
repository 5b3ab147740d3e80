"""Videos: reading, masks, pictures, official checkpoints, and encoders for people who only want features."""

from pathlib import Path


def encoder(name: str = "videomaev2_base", weights: str | Path | None = None):
    """An encoder that takes clips uint8 or [0, 1] (B, C, T, H, W); `name` is "<method>_<size>".

    `weights`: a run's folder, a saved encoder, or a file of official weights; None for fresh ones.
    Returns a `core.export.SavedEncoder`, which gives `tokens`, `pooled`, `cls`. Raises: UserError.
    """
    from core.export import open_encoder  # late: whoever wants a masker from here should not wait for it

    return open_encoder("video", name, weights)
