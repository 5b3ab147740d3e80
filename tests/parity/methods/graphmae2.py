"""What the recorded tensors of GraphMAE2 are in our terms."""

import torch

from core.methods.masked_autoencoder import MaskedAutoencoder, Output
from core.tokens import Mask, Progress
from tests.parity.graphs import OPTIONS, after_adam, answers, emptied_again, trained_once
from tests.parity.vectors import Folder, Method, Pair, WeightComparison

# Inputs, some of them dropped edges.
ELSEWHERE = r"edge_index|view\d_edge_index|x"


def compare(folder: Folder) -> dict[str, Pair]:
    method, out, mask = trained_once(folder)
    batch, _ = folder.replay()
    tokens = method.tokenizer.tokenize_views(batch.views)
    teacher = method.teachers["latent"].copies["encoder"]

    compared = WeightComparison(folder)
    compared.equal("mask_nodes", next(iter(mask.queries.values())).rows.index[0])
    compared.equal("targets", mask.queries["latent"].rows.index[0])
    compared.close("enc_rep", out.latents["graph"].features[0])
    compared.close("teacher_rep", teacher(tokens.get("teacher", tokens["graph"]).unmasked()).features[0])
    compared.close("latent_target", out.targets["latent"].values[0])
    compared.close("latent_pred", out.predictions["latent"][0])
    compared.close("loss_latent", out.terms["latent"])
    compared.close("loss", out.loss)
    decodings(compared, method, out, mask)
    compared.gradients(method, "grad.")

    method.before_step(Progress(0, 1, folder.settings.get("delayed_ema_epoch", 0), 1))
    compared.updated("after_ema.", method.state_dict())
    after_adam(compared)
    return compared.pairs


def decodings(compared: WeightComparison, method: MaskedAutoencoder, out: Output, mask: Mask) -> None:
    """Of each decoding its own re-mask, codes, predictions and loss."""
    decoder = method.readouts["main"].decoder
    codes = decoder.bridge(decoder.read(out.latents["graph"]))
    token = decoder.mask_token if decoder.has_token else torch.zeros(())
    compared.close("encoder_to_decoder_out", codes)

    places = {name: place for name, place in mask.queries.items() if name.startswith("main")}
    for number, (name, place) in enumerate(places.items()):
        erased = emptied_again(place, len(codes))
        term = "features" if len(places) == 1 else f"features/{name}"
        if place.remask is not None:
            compared.equal(f"remask_nodes_{number}", place.remask.index[0])
        compared.close(f"decoder_in_{number}", torch.where(erased[:, None], token, codes))
        compared.close(f"recon_{number}", answers(method, compared.folder, mask, place))
        compared.close(f"loss_rec_{number}", out.terms[term])


METHODS = (Method(folder="graphmae2", compare=compare, elsewhere=ELSEWHERE, options=OPTIONS),)
