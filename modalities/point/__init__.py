"""Point clouds: reading, groups, official checkpoints, and encoders for people who only want features."""

from pathlib import Path


def encoder(name: str = "point_mae_small", weights: str | Path | None = None):
    """An encoder that takes clouds (B, N, 3 + C), or a list of (N, 3 + C); `name` is "<method>_<size>".

    `weights`: a run's folder, a saved encoder, or a file of official weights; None for random ones.
    Returns a `core.export.SavedEncoder`, whose features are `tokens` (B, G, D), one for each group of points,
    `coords` (B, G, 3), the groups' centres, and `pooled` (B, D). Clouds are taken as they are:
    `encoder.read(…)` and `encoder.encode(…)` centre and scale those of files and arrays. Raises: UserError.
    """
    # Imported late: a part of this package should not load the training code.
    from core.export import open_encoder

    return open_encoder("point", name, weights)
