"""Small molecules by hand: chains of atoms of given kinds."""

import torch

from modalities.graph.graphs import Graphs
from modalities.graph.nn.molecules import SELF_LOOP


def molecule(kinds: list[int]) -> Graphs:
    """A chain of atoms, bonds both ways."""
    count = len(kinds)
    chain = torch.stack([torch.arange(count - 1), torch.arange(1, count)])
    x = torch.tensor([[kind, 0] for kind in kinds])
    bonds = torch.ones(2 * count - 2, 2, dtype=torch.long)
    return Graphs.of(x, torch.cat([chain, chain.flip(0)], 1), edge_attr=bonds, loop=SELF_LOOP)
