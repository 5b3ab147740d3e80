"""Shared by graph methods: one training pass on a folder's graph, predictions at every node, values after a step."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from core.engine.optim import Adam
from core.methods.masked_autoencoder import MaskedAutoencoder, Output
from core.tokens import Latent, Mask, Progress, Query, Rows, Tokens
from modalities.graph.nn.decoders import MLPDecoder
from tests.parity.vectors import Folder, WeightComparison, largest_of

# Classes that an official constructor's options put in or leave out.
OPTIONS = frozenset(
    {"LayerNorm", "BatchNorm1d", "Identity", "PReLU", "ReLU", "ELU", "GELU", "SELU", "SiLU", "Linear", "Mlp"}
    | {"GAT", "DotGAT", "GCN", "GIN", "GATLayer", "DotGATLayer", "GCNLayer", "GINLayer"}
    | {"GATDecoder", "DotGATDecoder", "GCNDecoder", "GINDecoder", "MLPDecoder", "LinearDecoder"}
)


def trained_once(folder: Folder) -> tuple[MaskedAutoencoder, Output, Mask]:
    """The method after one forward and backward, mostly in train mode, without dropout."""
    method = folder.load().train(not folder.meta.get("mode", "").startswith("eval"))
    decoder = method.readouts["main"].decoder
    if isinstance(decoder, MLPDecoder):
        decoder.drop = 0.0  # no argument of the official constructor turns it off
    batch, draws = folder.replay()
    out = method(batch, draws=draws)
    out.loss.backward()
    return method, out, out.masks["graph"]


def tokens_of(folder: Folder, method: MaskedAutoencoder) -> Tokens:
    return method.tokenizer(folder.replay()[0].views["graph"])


def tapped(method: MaskedAutoencoder, folder: Folder, mask: Mask) -> Latent:
    """The latent with every layer's output; norms are given back their statistics."""
    before = {name: value.clone() for name, value in method.state_dict().items()}
    taps = [f"layer{i}" for i in range(method.encoder.depth)]
    with torch.no_grad():
        latent = method.encoder(tokens_of(folder, method).replace_masked(mask), taps)
    method.load_state_dict(before)
    return latent


@torch.no_grad()
def answers(method: MaskedAutoencoder, folder: Folder, mask: Mask, query: Query | None = None) -> Tensor:
    """The prediction at every node, (N, C)."""
    before = {name: value.clone() for name, value in method.state_dict().items()}
    tokens = {"graph": tokens_of(folder, method)}
    query = query or mask.queries["main"]
    everywhere = replace(query, rows=Rows.all(1, tokens["graph"].layout.count))
    latent = method.encode(tokens, {"graph": mask})["graph"]
    answered = method.readouts["main"].decoder(latent, tokens["graph"].layout, {"all": everywhere}, {})["all"][0]
    method.load_state_dict(before)
    return answered


@torch.no_grad()
def whole(folder: Folder) -> Tensor:
    """Features of the graph with nothing hidden, in eval mode."""
    method = folder.load().eval()
    return method.encoder(tokens_of(folder, method).unmasked()).features[0]


def emptied_again(query: Query, nodes: int) -> Tensor:
    """(N,) nodes whose codes the decoder does not read; none for a decoder without re-mask."""
    if query.remask is None:
        return torch.zeros(nodes, dtype=torch.bool)
    return query.remask.to_mask(nodes)[0]


def cosine(prediction: Tensor, truth: Tensor) -> Tensor:
    return F.cosine_similarity(prediction, truth, dim=1, eps=1e-12)


def after_adam(compared: WeightComparison) -> None:
    """Weights after the recorded optimiser step, taken by the recipe that trains.

    Adam's first step is lr · f(g), f(g) = g / (|g| + ε): near zero a gradient's own tolerance δ moves it by
    lr · (f(g + δ) − f(g − δ)), which is allowed on top.
    """
    folder = compared.folder
    if not any(key.startswith("after_adam.") for key in folder.io):
        return
    method, _, _ = trained_once(folder)
    about = folder.meta["adam_settings"]
    recipe = Adam(
        lr=about["lr"], weight_decay=about["weight_decay"], betas=tuple(about["betas"]), eps=about["eps"],
        schedule="constant", warmup_share=0.0, decay_all=True,
    )  # fmt: skip

    gradients = {name: p.grad.double() for name, p in method.named_parameters() if p.grad is not None}
    noise = folder.gradient_noise(largest_of(gradients))
    margins = {}
    for name, gradient in gradients.items():
        decayed = gradient + about["weight_decay"] * method.get_parameter(name).detach()
        delta = max(folder.gradient_tolerance * float(gradient.abs().max()), noise)
        up, down = decayed + delta, decayed - delta
        margins[name] = about["lr"] * (up / (up.abs() + about["eps"]) - down / (down.abs() + about["eps"]))

    optimizer = recipe.optimizer(method)
    recipe.set(optimizer, Progress(), 1)
    optimizer.step()
    compared.updated("after_adam.", method.state_dict(), margins)
