"""What a hidden node's features are worth without learning: the reference of a reconstruction's skill."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from core.evaluation.fillers import Filler
from core.tokenizers import Tokenizer
from core.tokens import Tokens
from modalities.graph.graphs import Graphs, to_dense
from modalities.graph.messages import EdgeIndex, neighbour_sum


class NeighbourMean(Filler):
    """The mean over a hidden node's visible neighbours; where it has none, over the visible nodes of its graph.

    Of class numbers (atoms, bonds) the most frequent one is taken instead.
    """

    name = (
        "mean of the visible neighbours' features (of class numbers the most frequent); without visible neighbours, of "
        "the visible nodes of the graph; of a graph hidden whole, of the batch's"
    )

    def fill(self, tokenizer: Tokenizer, data: Graphs, tokens: Tokens, hidden: Tensor) -> Graphs:
        links, hidden = EdgeIndex.of(tokens.layout), hidden[0]
        if data.x.is_floating_point():
            x = to_dense(data.x, data.features) if data.is_sparse else data.x
            return replace(data, x=torch.where(hidden[:, None], _means(x, data, links, ~hidden), x))
        columns = []
        for column in data.x.unbind(1):
            common = _means(F.one_hot(column).float(), data, links, ~hidden).argmax(1)
            columns.append(torch.where(hidden, common, column))
        return replace(data, x=torch.stack(columns, 1))


def _means(x: Tensor, data: Graphs, edges: EdgeIndex, visible: Tensor) -> Tensor:
    """x (N, C) -> (N, C): means over visible rows near each node."""
    # A column of ones is summed along: how many visible rows there were.
    seen = torch.cat([x, torch.ones_like(x[:, :1])], 1) * visible[:, None]
    near = neighbour_sum(seen, edges)
    own = seen.new_zeros(len(data.counts), seen.shape[1]).index_add(0, data.sample, seen)[data.sample]
    total = torch.where(near[:, -1:] > 0, near, torch.where(own[:, -1:] > 0, own, seen.sum(0)))
    return total[:, :-1] / total[:, -1:].clamp(min=1)
