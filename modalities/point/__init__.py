"""Point clouds: reading, groups, official checkpoints, and encoders for people who only want features."""

from pathlib import Path


def encoder(name: str = "point_mae_small", weights: str | Path | None = None):
    """An encoder that takes clouds (B, N, 3 + C), or a list of (N, 3 + C); `name` is "<method>_<size>".

    `weights`: a run's folder, a saved encoder, or a file of official weights; None for random ones.
    Returns a `core.export.SavedEncoder`, whose features are `tokens`, one for each group, and `pooled`. Raises:
    UserError.
    """
    # Imported late: a part of this package should not load the training code.
    from core.export import open_encoder

    return open_encoder("point", name, weights)
