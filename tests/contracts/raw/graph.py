"""Three small graphs, one of them a single node."""

from dataclasses import replace

import torch

from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, Mask
from modalities.graph.graphs import Graphs
from tests.contracts.firewall import unread

SMALL = ["modality.features=6"]
COUNTS = (7, 1, 12)


def batch(method: MaskedAutoencoder, config: dict) -> Batch:
    drawn = torch.Generator().manual_seed(0)
    starts = [0, COUNTS[0], COUNTS[0] + COUNTS[1]]
    edges = [torch.randint(n, (2, 3 * n), generator=drawn) + s for n, s in zip(COUNTS, starts, strict=True)]
    x = torch.rand(sum(COUNTS), config["modality"]["features"], generator=drawn)
    return Batch({"graph": Graphs.of(x, torch.cat(edges, 1), COUNTS)})


def scrambled(method: MaskedAutoencoder, batch: Batch, masks: dict[str, Mask]) -> Batch:
    graphs = batch.views["graph"]
    noise = torch.rand(graphs.x.shape, generator=torch.Generator().manual_seed(1))
    closed = unread(masks["graph"], method.encoder.masking)[0]
    return Batch({"graph": replace(graphs, x=torch.where(closed[:, None], noise, graphs.x))})
