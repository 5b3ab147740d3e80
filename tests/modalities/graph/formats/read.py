"""Content of graphs as they were read, in a form that tests compare."""

import torch

from modalities.graph.graphs import Graphs, to_dense


def dense(graph: Graphs) -> torch.Tensor:
    return to_dense(graph.x, graph.features) if graph.is_sparse else graph.x


def links(data, named=True) -> set[tuple]:
    """Pairs of ids (or numbers) that are linked, loops left out."""
    (graph,) = data.graphs
    names = data.provenance.node_ids or range(len(graph.x))
    pairs = graph.edge_index.T.tolist()
    return {(names[a], names[b]) for a, b in pairs if a != b}


def both(*pairs) -> set[tuple]:
    return {*pairs, *((b, a) for a, b in pairs)}
