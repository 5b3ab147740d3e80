"""What the recorded tensors of GraphMAE (GAT, GIN, molecules) and GraphMAE2 are in our terms."""

import random
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from core.engine.optim import Adam
from core.methods.masked_autoencoder import MaskedAutoencoder, Output
from core.tokens import Mask, Progress, Query, Rows
from modalities.graph.decoders import Codes
from modalities.graph.gnn import GATLayer
from modalities.graph.messages import EdgeIndex
from modalities.graph.molecules import ATOM_TYPES
from tests.parity.vectors import Folder, Pair, close, equal, gradient_pairs

# Recorded inputs and randomness, and steps on the way that have no counterpart here.
ELSEWHERE = {
    "graphmae": r"edge_index|dropped_edge_index|x|randperm_.*",
    "graphmae-gin": r"edge_index|dropped_edge_index|x|graph_id|randperm_.*",
    "graphmae-chem": r"edge_index|edge_attr|x_original|graph_id|conv\d+_out",
    "graphmae2": r"edge_index|view\d_edge_index|x",
}


def graphmae(folder: Folder) -> dict[str, Pair]:
    method, io, out, mask = trained_once(folder)
    decoder, layout = method.readouts["main"].decoder, tokens_of(folder, method).layout
    codes, erased = remasked(decoder, out, mask)
    everywhere = torch.arange(layout.count)
    pairs = shared(folder, method, out, mask)
    latent = tapped(method, folder, mask)
    for i, layer in enumerate(method.encoder.layers):
        pairs[f"enc_layer{i}_out"] = close(latent.taps[f"layer{i}"][0], io[f"enc_layer{i}_out"])
        if isinstance(layer, GATLayer):
            before = io["use_x"] if i == 0 else io[f"enc_layer{i - 1}_out"]
            f = layer.linear(before).unflatten(1, (layer.heads, -1))
            links = EdgeIndex.of(mask.layout or layout)
            edges = io.get("dropped_edge_index", io["edge_index"])
            pairs[f"enc_layer{i}_attention"] = close(
                ordered(layer.attention(f, links), links, edges), io[f"enc_layer{i}_attention"]
            )
    if "decoder_attention" in io:
        links, kept = EdgeIndex.of(layout), (~erased).nonzero()[:, 0]
        attention = decoder.attention(Codes(codes[kept], kept, layout.count), links, everywhere)
        pairs["decoder_attention"] = close(ordered(attention, links, io["edge_index"]), io["decoder_attention"])
    pairs |= {
        "encoder_to_decoder_in": close(out.latents["graph"].features[0], io["encoder_to_decoder_in"]),
        "encoder_to_decoder_out": close(decoder.bridge(out.latents["graph"].features[0]), io["encoder_to_decoder_out"]),
        "decoder_in_remasked": close(codes, io["decoder_in_remasked"]),
        **after_adam(folder),
    }
    return pairs


def gin(folder: Folder) -> dict[str, Pair]:
    pairs = graphmae(folder)
    method, io, _, _ = trained_once(folder)
    state = method.state_dict()
    for key, value in io.items():
        if key.startswith("after_forward."):
            ((name, recorded),) = folder.official.keys({key.removeprefix("after_forward."): value}).items()
            pairs[key] = close(state[name], recorded)
    embedded = folder.load().eval()
    features, counts = whole(embedded, folder), tokens_of(folder, embedded).layout.counts
    parts = features.split(counts)
    pools = {"mean": lambda x: x.mean(0), "max": lambda x: x.amax(0), "sum": lambda x: x.sum(0)}
    for name, pool in pools.items():
        pairs[f"pool_{name}"] = close(torch.stack([pool(part) for part in parts]), io[f"pool_{name}"])
    return pairs


def molecules(folder: Folder) -> dict[str, Pair]:
    method, io, out, mask = trained_once(folder)
    decoder, layout = method.readouts["main"].decoder, tokens_of(folder, method).layout
    seen = tokens_of(folder, method).replace_masked(mask)
    atoms = seen.content[0].clone()
    atoms[seen.erased[0]] = torch.tensor([ATOM_TYPES, 0])
    hidden, latent = mask.queries["main"].rows.index[0], tapped(method, folder, mask)
    prediction = answers(method, folder, mask)
    truth = out.targets["atoms"].values[0]
    drawn = official_atoms(folder, layout.counts)
    replayed = method.masker({"graph": tokens_of(folder, method)}, {"graph": drawn}, None)["graph"].hidden
    ours = method.masker.draw({"graph": tokens_of(folder, method)}, torch.Generator().manual_seed(0), None)
    own = method.masker({"graph": tokens_of(folder, method)}, ours, None)["graph"].hidden[0]
    count = lambda flag: torch.stack([part.sum() for part in flag.split(layout.counts)])  # noqa: E731
    last = method.encoder.depth - 1
    return {
        "x_masked": equal(atoms, io["x_masked"]),
        "masked_atom_indices": equal(hidden, io["masked_atom_indices"]),
        "mask from the recorded Python seed": equal(replayed, mask.hidden),
        "atoms hidden in each molecule": equal(count(own), count(mask.hidden[0])),
        "mask_node_label": equal(tokens_of(folder, method).content[0][hidden], io["mask_node_label"]),
        "node_attr_label": equal(truth, io["node_attr_label"]),
        "node_rep": close(out.latents["graph"].features[0], io["node_rep"]),
        **{f"bn{i}_out": close(batch_norm_out(method, folder, mask, i), io[f"bn{i}_out"]) for i in range(last + 1)},
        "last tap": close(latent.taps[f"layer{last}"][0], io["node_rep"]),
        "enc_to_dec_out": close(decoder.codes(out.latents["graph"].features[0]), io["enc_to_dec_out"]),
        "pred": close(prediction, io["pred"]),
        "cosine_per_masked_atom": close(cosine(prediction[hidden], truth), io["cosine_per_masked_atom"]),
        "loss": close(out.loss.reshape(1), io["loss"]),
        "node_rep_unmasked_eval": close(whole(folder.load().eval(), folder), io["node_rep_unmasked_eval"]),
        **gradients(folder, method),
    }


def graphmae2(folder: Folder) -> dict[str, Pair]:
    method, io, out, mask = trained_once(folder)
    decoder, features = method.readouts["main"].decoder, out.latents["graph"].features[0]
    batch, _ = folder.replay()
    tokens = method.tokenizer.tokenize_views(batch.views)
    teacher = method.teachers["latent"]
    said = teacher.copies["encoder"](tokens.get("teacher", tokens["graph"]).unmasked()).features[0]
    views = [(name.rpartition("/")[2], place) for name, place in mask.queries.items() if name.startswith("main")]
    pairs = {
        "mask_nodes": equal(mask.queries[next(iter(mask.queries))].rows.index[0], io["mask_nodes"]),
        "targets": equal(mask.queries["latent"].rows.index[0], io["targets"]),
        "enc_rep": close(features, io["enc_rep"]),
        "teacher_rep": close(said, io["teacher_rep"]),
        "latent_target": close(out.targets["latent"].values[0], io["latent_target"]),
        "latent_pred": close(out.predictions["latent"][0], io["latent_pred"]),
        "encoder_to_decoder_out": close(decoder.bridge(features), io["encoder_to_decoder_out"]),
        "loss_latent": close(out.terms["latent"].reshape(1), io["loss_latent"]),
        "loss": close(out.loss.reshape(1), io["loss"]),
        **gradients(folder, method),
    }
    for number, (view, place) in enumerate(views):
        view = view if view.isdigit() else str(number)
        erased = place.remask.to_mask(len(features))[0]
        token = decoder.mask_token if decoder.has_token else 0.0
        codes = torch.where(erased[:, None], token, decoder.bridge(features))
        name = "features" if len(views) == 1 else f"features/main/{view}"
        pairs |= {
            f"remask_nodes_{view}": equal(place.remask.index[0], io.get(f"remask_nodes_{view}", io["mask_nodes"])),
            f"decoder_in_{view}": close(codes, io[f"decoder_in_{view}"]),
            f"recon_{view}": close(answers(method, folder, mask, place), io[f"recon_{view}"]),
            f"loss_rec_{view}": close(out.terms[name].reshape(1), io[f"loss_rec_{view}"]),
        }
    method.before_step(Progress(0, 1, folder.settings.get("delayed_ema_epoch", 0), 1))
    state = method.state_dict()
    for key, value in io.items():
        if key.startswith("after_ema."):
            ((name, recorded),) = folder.official.keys({key.removeprefix("after_ema."): value}).items()
            pairs[key] = close(state[name], recorded)
    return pairs | after_adam(folder)


OUTPUTS: dict[str, Callable[[Folder], dict[str, Pair]]] = {
    "graphmae": graphmae,
    "graphmae-gin": gin,
    "graphmae-chem": molecules,
    "graphmae2": graphmae2,
}

# Pieces ---------------------------------------------------------------------------------------------------------------


def trained_once(folder: Folder) -> tuple[MaskedAutoencoder, dict[str, Tensor], Output, Mask]:
    """The method after one forward and backward in train mode."""
    method = folder.load().train()
    batch, draws = folder.replay()
    out = method(batch, draws=draws)
    out.loss.backward()
    return method, folder.io, out, out.masks["graph"]


def shared(folder: Folder, method: MaskedAutoencoder, out: Output, mask: Mask) -> dict[str, Pair]:
    """What the two forms with dense features have in common."""
    io, hidden = folder.io, mask.queries["main"].rows.index[0]
    source, seen = mask.content_from[0], tokens_of(folder, method).replace_masked(mask)
    nodes = torch.arange(len(source))
    prediction, truth = answers(method, folder, mask), out.targets["features"].values[0]
    error = method.readouts["main"].objectives["features"].loss(prediction[hidden], truth)
    same_set = lambda flag, key: equal(flag.nonzero()[:, 0], io[key].sort().values)  # noqa: E731
    pairs = {
        "mask_nodes": equal(hidden, io["mask_nodes"]),
        "keep_nodes": equal(mask.visible.index[0], io["keep_nodes"]),
        "token_nodes": same_set(source < 0, "token_nodes"),
        "use_x": close(method.encoder.input(seen), io["use_x"]),
        "decoder_out": close(prediction, io["decoder_out"]),
        "cosine_per_masked_node": close(cosine(prediction[hidden], truth), io["cosine_per_masked_node"]),
        "loss_per_masked_node": close(error, io["loss_per_masked_node"]),
        "loss": close(out.loss.reshape(1), io["loss"]),
        "embed_unmasked_eval": close(whole(folder.load().eval(), folder), io["embed_unmasked_eval"]),
        **gradients(folder, method),
    }
    if "noise_nodes" in io:
        pairs["noise_nodes"] = same_set((source >= 0) & (source != nodes), "noise_nodes")
        pairs["noise_source_nodes"] = equal(source[io["noise_nodes"]], io["noise_source_nodes"])
    if "masked_but_untouched_nodes" in io:
        pairs["masked_but_untouched_nodes"] = same_set(mask.hidden[0] & (source == nodes), "masked_but_untouched_nodes")
    return pairs


def tokens_of(folder: Folder, method: MaskedAutoencoder):
    return method.tokenizer(folder.replay()[0].views["graph"])


def tapped(method: MaskedAutoencoder, folder: Folder, mask: Mask):
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
def whole(method: MaskedAutoencoder, folder: Folder) -> Tensor:
    return method.encoder(tokens_of(folder, method).unmasked()).features[0]


def remasked(decoder, out: Output, mask: Mask) -> tuple[Tensor, Tensor]:
    """Codes of all nodes after emptying again, and which are erased."""
    features = out.latents["graph"].features[0]
    erased = torch.zeros(len(features), dtype=torch.bool)
    if mask.queries["main"].remask is not None:
        erased[mask.queries["main"].remask.index[0]] = True
    return torch.where(erased[:, None], 0.0, decoder.bridge(features)).detach(), erased


def ordered(values: Tensor, links: EdgeIndex, edges: Tensor) -> Tensor:
    """Values (E, …) of our edges in the order of the recorded ones; of repeated edges all have the same value."""
    nodes = links.nodes
    ours, recorded = links.source * nodes + links.row, edges[0] * nodes + edges[1]
    found, order = ours.sort()
    return values[order[torch.searchsorted(found, recorded)]]


def cosine(prediction: Tensor, truth: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(prediction, truth, dim=1, eps=1e-12)


def gradients(folder: Folder, method: MaskedAutoencoder) -> dict[str, Pair]:
    """All of gradients.safetensors, and the few that io.safetensors holds too."""
    recorded = folder.gradients()
    pairs = gradient_pairs(folder, method, recorded)
    few = {k.removeprefix("grad."): v for k, v in folder.io.items() if k.startswith("grad.")}
    named = gradient_pairs(folder, method, {**recorded, **few})
    for key in few:
        ((ours, _),) = folder.official.keys({key: few[key]}).items()
        pairs[f"grad.{key}"] = named[f"gradient of {ours}"]
    return pairs


def after_adam(folder: Folder) -> dict[str, Pair]:
    """Weights after the recorded optimiser step, taken by the recipe that trains."""
    keys = [key for key in folder.io if key.startswith("after_adam.")]
    if not keys:
        return {}
    method, _, _, _ = trained_once(folder)
    about = folder.meta["adam_settings"]
    recipe = Adam(
        lr=about["lr"], weight_decay=about["weight_decay"], betas=tuple(about["betas"]), eps=about["eps"],
        schedule="constant", warmup_share=0.0, decay_all=True,
    )  # fmt: skip
    optimizer = recipe.optimizer(method)
    recipe.set(optimizer, Progress(), 1)
    optimizer.step()
    state, pairs = method.state_dict(), {}
    for key in keys:
        ((name, recorded),) = folder.official.keys({key.removeprefix("after_adam."): folder.io[key]}).items()
        pairs[key] = close(state[name], recorded)
    return pairs


def batch_norm_out(method: MaskedAutoencoder, folder: Folder, mask: Mask, index: int) -> Tensor:
    """What goes into a layer's ReLU."""
    caught: list[Tensor] = []
    handle = method.encoder.norms[index].register_forward_hook(lambda _, __, out: caught.append(out.detach()))
    tapped(method, folder, mask)
    handle.remove()
    return caught[0]


def official_atoms(folder: Folder, counts: tuple[int, ...]) -> Tensor:
    """The official draw: Python's random.sample within each molecule in turn."""
    drawn, start = [], 0
    random.seed(folder.meta["mask_python_seed"])
    for count in counts:
        drawn += [start + i for i in random.sample(range(count), int(count * folder.settings["mask_rate"] + 1))]
        start += count
    return torch.tensor(drawn)
