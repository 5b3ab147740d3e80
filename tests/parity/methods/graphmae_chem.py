"""What the recorded tensors of GraphMAE on molecules are in our terms."""

import random

import torch
from torch import Tensor

from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Mask
from modalities.graph.nn.molecules import ATOM_TYPES
from tests.parity.graphs import OPTIONS, after_adam, answers, cosine, tapped, tokens_of, trained_once, whole
from tests.parity.vectors import Folder, Method, Pair, WeightComparison, close, equal

# Inputs, and steps on the way that have no counterpart here.
ELSEWHERE = r"edge_index|edge_attr|x_original|graph_id|conv\d+_out"


def compare(folder: Folder) -> dict[str, Pair]:
    method, out, mask = trained_once(folder)
    decoder, tokens = method.readouts["main"].decoder, tokens_of(folder, method)
    hidden, features = mask.queries["main"].rows.index[0], out.latents["graph"].features[0]
    prediction, truth = answers(method, folder, mask), out.targets["atoms"].values[0]

    seen = tokens.replace_masked(mask)
    atoms = seen.content[0].clone()
    atoms[seen.erased[0]] = torch.tensor([ATOM_TYPES, 0])

    compared = WeightComparison(folder)
    compared.equal("x_masked", atoms)
    compared.equal("masked_atom_indices", hidden)
    compared.equal("mask_node_label", tokens.content[0][hidden])
    compared.equal("node_attr_label", truth)
    compared.close("node_rep", features)
    compared.close("enc_to_dec_out", decoder.codes(features))
    compared.close("pred", prediction)
    compared.close("cosine_per_masked_atom", cosine(prediction[hidden], truth))
    compared.close("loss", out.loss)
    compared.close("node_rep_unmasked_eval", whole(folder))
    compared.gradients(method, "grad.")
    after_adam(compared)

    layers(compared, method, mask)
    drawn(compared, method, mask)
    return compared.pairs


def layers(compared: WeightComparison, method: MaskedAutoencoder, mask: Mask) -> None:
    """What goes into each layer's ReLU; of the last, which has none, that is its tap."""
    folder, depth = compared.folder, method.encoder.depth
    for i in range(depth):
        caught: list[Tensor] = []
        handle = method.encoder.norms[i].register_forward_hook(lambda *given, caught=caught: caught.append(given[-1]))
        tapped(method, folder, mask)
        handle.remove()
        compared.close(f"bn{i}_out", caught[0])
    if "node_rep" in folder.io:
        last = tapped(method, folder, mask).taps[f"layer{depth - 1}"][0]
        compared.pairs["last tap"] = close(last, folder.io["node_rep"], folder.tolerance("node_rep"))


def drawn(compared: WeightComparison, method: MaskedAutoencoder, mask: Mask) -> None:
    """The official draw gives the recorded mask, ours as many atoms of each molecule."""
    folder, tokens = compared.folder, {"graph": tokens_of(compared.folder, method)}
    counts = tokens["graph"].layout.counts
    ours = method.masker.draw(tokens, torch.Generator().manual_seed(0), None)
    own = method.masker(tokens, ours, None)["graph"].hidden[0]
    compared.pairs["atoms hidden in each molecule"] = equal(
        hidden_counts(own, counts), hidden_counts(mask.hidden[0], counts)
    )
    if "mask_python_seed" in folder.meta:
        replayed = method.masker(tokens, {"graph": official_atoms(folder, counts)}, None)["graph"].hidden
        compared.pairs["mask from the recorded Python seed"] = equal(replayed, mask.hidden)


def hidden_counts(hidden: Tensor, counts: tuple[int, ...]) -> Tensor:
    return torch.stack([part.sum() for part in hidden.split(counts)])


def official_atoms(folder: Folder, counts: tuple[int, ...]) -> Tensor:
    """The official draw: Python's random.sample within each molecule in turn."""
    atoms, start = [], 0
    random.seed(folder.meta["mask_python_seed"])
    for count in counts:
        atoms += [start + i for i in random.sample(range(count), int(count * folder.settings["mask_rate"] + 1))]
        start += count
    return torch.tensor(atoms)


METHODS = (
    Method(
        folder="graphmae-chem", compare=compare, elsewhere=ELSEWHERE, config=("modality.features=2",), options=OPTIONS
    ),
)
