"""The clouds of the modality, in groups of groups."""

from tests.contracts.raw.point_point_m2ae import SMALL, batch, scrambled

__all__ = ["SMALL", "batch", "scrambled"]
