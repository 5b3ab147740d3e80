"""The clouds of the modality, in groups of groups."""

from tests.contracts.raw.point import batch, scrambled

__all__ = ["SMALL", "batch", "scrambled"]
SMALL = ["modality.groups=[30,14,8]", "modality.members=[5,4,4]"]
