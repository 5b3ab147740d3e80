"""Three small clouds of unequal size, in groups that overlap."""

from dataclasses import replace

import torch
from torch import Tensor

from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, Mask, levels
from modalities.point.clouds import Clouds, Plan
from tests.contracts.firewall import unread

SMALL = ["modality.groups=[12]", "modality.members=[6]"]
COUNTS = (70, 95, 80)


def batch(method: MaskedAutoencoder, config: dict) -> Batch:
    """Clouds with their plans: other points are then cut into the same groups."""
    drawn = torch.Generator().manual_seed(0)
    clouds = Clouds([torch.rand(count, config["modality"]["channels"], generator=drawn) - 0.5 for count in COUNTS])
    return Batch({"point": replace(clouds, plans=method.tokenizer.grouping(clouds))})


def scrambled(method: MaskedAutoencoder, batch: Batch, masks: dict[str, Mask]) -> Batch:
    """Points that only hidden groups hold lie elsewhere. Centres stay: the layout reveals them, as published."""
    clouds = batch.views["point"]
    closed = unread(levels(masks["point"])[-1], method.encoder.masking)  # of a pyramid the finest groups
    noise = torch.Generator().manual_seed(1)

    points = []
    for number, cloud in enumerate(clouds):
        held = held_points(clouds.plans[0], closed, number, len(cloud))
        points.append(torch.where(held[:, None], cloud, torch.rand(cloud.shape, generator=noise)))
    return Batch({"point": replace(clouds, points=points)})


def held_points(plan: Plan, closed: Tensor, number: int, count: int) -> Tensor:
    """(N,) bool: points of groups that are seen, and the centres of all."""
    held = torch.zeros(count, dtype=torch.bool)
    held[plan.members[number][~closed[number]].flatten()] = True
    held[plan.centres[number]] = True
    return held
