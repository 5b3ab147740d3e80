"""What the recorded tensors of GraphMAE on nodes (GAT) and on whole graphs (GIN) are in our terms."""

import torch
from torch import Tensor

from core.methods.masked_autoencoder import MaskedAutoencoder, Output
from core.tokens import Mask
from modalities.graph.nn.decoders import Codes
from modalities.graph.nn.layers import DotGATLayer, GATLayer
from modalities.graph.nn.message_passing import EdgeIndex
from tests.parity.graphs import (
    OPTIONS,
    after_adam,
    answers,
    cosine,
    emptied_again,
    tapped,
    tokens_of,
    trained_once,
    whole,
)
from tests.parity.vectors import Folder, Method, Pair, WeightComparison

# Inputs and randomness.
ELSEWHERE = r"edge_index|dropped_edge_index|x|graph_id|randperm_.*"


def compare(folder: Folder) -> dict[str, Pair]:
    method, out, mask = trained_once(folder)
    compared = WeightComparison(folder)
    masked(compared, method, mask)
    encoded(compared, method, mask)
    decoded(compared, method, out, mask)
    pooled(compared, method)
    compared.gradients(method, "grad.")
    compared.updated("after_forward.", method.state_dict())
    after_adam(compared)
    return compared.pairs


def masked(compared: WeightComparison, method: MaskedAutoencoder, mask: Mask) -> None:
    """Hidden nodes; of them those with the token, with another node's features, with their own."""
    io, source = compared.folder.io, mask.content_from[0]
    nodes = torch.arange(len(source))
    compared.equal("mask_nodes", mask.queries["main"].rows.index[0])
    compared.equal("keep_nodes", mask.visible.index[0])
    compared.equal_set("token_nodes", source < 0)

    # A node may be replaced by itself by chance: then only the record says that it was replaced.
    by_itself = torch.zeros_like(mask.hidden[0])
    if "noise_nodes" in io and "noise_source_nodes" in io:
        by_itself[io["noise_nodes"][io["noise_nodes"] == io["noise_source_nodes"]]] = True
    own = mask.hidden[0] & (source == nodes)
    compared.equal_set("noise_nodes", (source >= 0) & (source != nodes) | own & by_itself)
    compared.equal_set("masked_but_untouched_nodes", own & ~by_itself)
    if "noise_nodes" in io:
        compared.equal("noise_source_nodes", source[io["noise_nodes"]])
    compared.close("use_x", method.encoder.input(tokens_of(compared.folder, method).replace_masked(mask)))


def encoded(compared: WeightComparison, method: MaskedAutoencoder, mask: Mask) -> None:
    """Every layer, and its attention where it has one."""
    folder, io = compared.folder, compared.folder.io
    latent = tapped(method, folder, mask)
    links = EdgeIndex.of(mask.layout or tokens_of(folder, method).layout)
    edges = io.get("dropped_edge_index", io["edge_index"])

    before = method.encoder.input(tokens_of(folder, method).replace_masked(mask))
    for i, layer in enumerate(method.encoder.layers):
        if isinstance(layer, GATLayer | DotGATLayer):
            f = layer.linear(before).unflatten(1, (layer.heads, -1))
            compared.close(f"enc_layer{i}_attention", ordered(layer.attention(f, links), links, edges))
        before = latent.taps[f"layer{i}"][0]
        compared.close(f"enc_layer{i}_out", before)
    compared.close("embed_unmasked_eval", whole(folder))


def decoded(compared: WeightComparison, method: MaskedAutoencoder, out: Output, mask: Mask) -> None:
    folder, io = compared.folder, compared.folder.io
    decoder, layout = method.readouts["main"].decoder, tokens_of(folder, method).layout
    hidden, erased = mask.queries["main"].rows.index[0], emptied_again(mask.queries["main"], layout.count)
    joined = decoder.read(out.latents["graph"])
    codes = torch.where(erased[:, None], 0.0, decoder.bridge(joined)).detach()
    compared.close("encoder_to_decoder_in", joined)
    compared.close("encoder_to_decoder_out", decoder.bridge(joined))
    compared.close("decoder_in_remasked", codes)

    if "decoder_attention" in io:
        links, kept, last = EdgeIndex.of(layout), (~erased).nonzero()[:, 0], decoder.layers[-1]
        if isinstance(last, DotGATLayer):
            attention = last.attention(last.linear(codes).unflatten(1, (last.heads, -1)), links)
        else:
            everywhere = torch.arange(layout.count)
            attention = decoder.attention(Codes(codes[kept], kept, layout.count), links, everywhere)
        compared.close("decoder_attention", ordered(attention, links, io["edge_index"]))

    prediction, truth = answers(method, folder, mask), out.targets["features"].values[0]
    compared.close("decoder_out", prediction)
    compared.close("cosine_per_masked_node", cosine(prediction[hidden], truth))
    loss = method.readouts["main"].objectives["features"].loss
    compared.close("loss_per_masked_node", loss(prediction[hidden], truth))
    compared.close("loss", out.loss)


def pooled(compared: WeightComparison, method: MaskedAutoencoder) -> None:
    parts = whole(compared.folder).split(tokens_of(compared.folder, method).layout.counts)
    compared.close("pool_mean", torch.stack([part.mean(0) for part in parts]))
    compared.close("pool_max", torch.stack([part.amax(0) for part in parts]))
    compared.close("pool_sum", torch.stack([part.sum(0) for part in parts]))


def ordered(values: Tensor, links: EdgeIndex, edges: Tensor) -> Tensor:
    """Values (E, …) of our edges in the order of the recorded ones; of repeated edges all have the same value."""
    nodes = links.nodes
    ours, recorded = links.source * nodes + links.row, edges[0] * nodes + edges[1]
    ascending, order = ours.sort()
    return values[order[torch.searchsorted(ascending, recorded)]]


METHODS = (
    Method(folder="graphmae", compare=compare, elsewhere=ELSEWHERE, options=OPTIONS),
    Method(folder="graphmae-gin", compare=compare, elsewhere=ELSEWHERE, options=OPTIONS),
)
