"""Tokens of random graphs, and a masker's mask of them."""

import torch

from core.tokens import ForwardContext
from modalities.graph.graphs import Graphs
from modalities.graph.tokenizer import Nodes


def tokens(*counts: int, links: int = 0):
    drawn, count = torch.Generator().manual_seed(0), sum(counts)
    edges = torch.randint(counts[0], (2, links), generator=drawn)
    return {"graph": Nodes(3)(Graphs.of(torch.rand(count, 3, generator=drawn), edges, counts))}


def mask(masker, found):
    ctx = ForwardContext(None, found)
    return masker(found, masker.draw(found, torch.Generator().manual_seed(1), ctx), ctx)["graph"]
