"""A graph transformer on the common trunk: nodes are tokens that attend to every node of their graph."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.encoder import AttentionPlan, Encoder, Trunk
from core.tokens import EncoderInput, Latent, Layout
from modalities.graph.nn.layers import MaskedInput
from modalities.graph.nn.message_passing import EdgeIndex, weighted_sum

EXACT_NODES = 256  # of the largest graph for which return probabilities are computed exactly
PROBES = 16  # random vectors of the estimate for larger ones


class GraphTransformer(Encoder):
    """Linear embedding of features plus one of random-walk return probabilities, then the trunk.

    Attention is planned per graph of the batch (`counts`), never over all nodes. Hidden nodes are a learned
    vector, with their own edges. `steps`: length of the walks, 0 for none.
    Shapes: EncoderInput (1, N, C) -> Latent (1, N, D).
    Source of the encodings: Dwivedi et al., 2022 (random-walk positions).
    """

    masking = "replace"

    def __init__(self, trunk: Trunk, features: int, steps: int = 8):
        super().__init__()
        self.trunk, self.input, self.steps = trunk, MaskedInput(features), steps
        self.embed = nn.Linear(features, trunk.dim)
        self.position = nn.Linear(steps, trunk.dim, bias=False) if steps else None
        self.embed_dim, self.depth = trunk.dim, len(trunk.blocks)

    @property
    def provides(self) -> dict:
        return {"width": self.embed_dim}

    def forward(self, inputs: EncoderInput, taps: Sequence[str] = ()) -> Latent:
        x = self.input.project(inputs, self.embed.weight, 0.0) + self.embed.bias
        if self.position is not None:
            x = x + self.position(random_walk(inputs.layout, self.steps).to(x.dtype))

        features, tapped = self.trunk(x[None], AttentionPlan.of(inputs.layout), taps)
        return Latent(features, inputs.layout, rows=inputs.rows, taps=tapped)


@torch.no_grad()
def random_walk(layout: Layout, steps: int) -> Tensor:
    """(N, steps): (Pᵏ)ᵢᵢ for k = 1, …, `steps`, the probability that a walk of k edges ends where it began.

    P is the transition matrix, self-loops included. Exact for small graphs; else Hutchinson's estimate, the
    mean of z ∘ Pᵏ z over fixed random signs z, so that no N × N matrix is made.
    """
    links, device = EdgeIndex.of(layout), layout.edges.device
    degree = torch.bincount(links.row, minlength=layout.count).clamp(min=1)
    weight = (1 / degree)[links.row][:, None]

    largest = max(layout.counts, default=1)
    if largest <= EXACT_NODES:
        # One column per node of the largest graph: graphs share columns, as no walk leaves its graph.
        counts = torch.tensor(layout.counts)
        start = counts.cumsum(0) - counts
        number = torch.arange(layout.count, device=device) - start.to(device)[layout.sample]
        z = F.one_hot(number, largest).float()
    else:
        signs = torch.randint(2, (layout.count, PROBES), generator=torch.Generator().manual_seed(0))
        z = (2 * signs.to(device) - 1) / PROBES**0.5

    walked, returned = z, []
    for _ in range(steps):
        walked = weighted_sum(walked[:, None], weight, links)[:, 0]
        returned.append((walked * z).sum(1))
    return torch.stack(returned, 1)
