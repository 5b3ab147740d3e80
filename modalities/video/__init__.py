"""Videos: reading, masks, pictures, official checkpoints, and encoders for people who only want features."""

from pathlib import Path


def encoder(name: str = "videomaev2_base", weights: str | Path | None = None):
    """An encoder that takes clips uint8 or [0, 1] (B, C, T, H, W); `name` is "<method>_<size>".

    `weights`: a run's folder, a saved encoder, or a file of official weights; None for random ones.
    Returns a `core.export.SavedEncoder`, whose features are `tokens`, `pooled`, `cls`. Raises: UserError.
    """
    # Imported late: a masker of this package should not load the training code.
    from core.export import open_encoder

    return open_encoder("video", name, weights)
