"""Hidden nodes' features predicted without learning: the baseline of a reconstruction's skill."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from core.reconstruction.baseline import Baseline
from core.tokenizers import Tokenizer
from core.tokens import Tokens
from modalities.graph.graphs import Graphs, to_dense
from modalities.graph.nn.message_passing import EdgeIndex, neighbour_sum


class NeighbourMean(Baseline):
    """The mean over a hidden node's visible neighbours.

    Where it has none, over the visible nodes of its graph.

    Of class numbers (atoms, bonds) the most frequent one is taken instead.
    """

    name = (
        "mean of the visible neighbours' features (of class numbers the most frequent); without visible neighbours, of "
        "the visible nodes of the graph; of a graph hidden whole, of the batch's"
    )

    def predict(self, tokenizer: Tokenizer, data: Graphs, tokens: Tokens, hidden: Tensor) -> Graphs:
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
    # A column of ones is summed along: the number of visible rows.
    rows = torch.cat([x, torch.ones_like(x[:, :1])], 1) * visible[:, None]

    neighbours = neighbour_sum(rows, edges)
    graphs = rows.new_zeros(len(data.counts), rows.shape[1]).index_add(0, data.sample, rows)[data.sample]
    total = torch.where(graphs[:, -1:] > 0, graphs, rows.sum(0))
    total = torch.where(neighbours[:, -1:] > 0, neighbours, total)
    return total[:, :-1] / total[:, -1:].clamp(min=1)
