"""What the recorded tensors of Point-M2AE are in our terms."""

import torch
from torch import Tensor

from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Latent, Tokens, levels
from modalities.point.clouds import Clouds
from tests.parity.pixels import backward
from tests.parity.points import after_step, gradients_in_eval_mode
from tests.parity.vectors import Folder, Method, Pair, WeightComparison

# Inputs, steps on the way, what belongs to evaluation, and the option that lets tokens attend to padding.
ELSEWHERE = (
    r"points|(eval\.)?grad_norm_total|dec\d+\.\w+|(eval\.)?dec_norm|token_prop\d+\.out|dist_.*|finetune.*|svm\..*"
    r"|padded\..*|enc\.valid\d+"
)


def compare(folder: Folder) -> dict[str, Pair]:
    method = folder.load().train()
    batch, draws = folder.replay()
    compared = WeightComparison(folder)
    groups(compared, method)

    out = backward(method, batch, draws)
    for level, mask in enumerate(levels(out.masks["point"])[::-1]):
        compared.equal(f"mask.level{level}", mask.hidden)
    latents(compared, "enc.x_vis", out.latents["point"])
    embedded(compared, folder.load().train())
    valid = out.masks["point"].finer.queries["main"].rows.valid
    compared.close("pred", valid_rows(sets_by_row(out.predictions["points"]), valid))
    compared.close("target", valid_rows(out.targets["points"].values, valid))
    compared.close("loss", out.loss)
    compared.close("loss_float64", out.loss)
    compared.updated("post.", method.state_dict())
    compared.gradients(method, "grad.")

    eval_method = folder.load().eval()
    out = backward(eval_method, batch, draws)
    latents(compared, "eval.enc.x_vis", out.latents["point"])
    compared.close("eval.pred", valid_rows(sets_by_row(out.predictions["points"]), valid))
    compared.close("eval.loss", out.loss)
    gradients_in_eval_mode(compared, eval_method)
    after_step(compared)
    return compared.pairs


def sets_by_row(prediction: Tensor) -> Tensor:
    """(B, M, P · 3) -> (B, M, P, 3)."""
    return prediction.unflatten(2, (-1, 3))


def valid_rows(x: Tensor, valid: Tensor | None) -> Tensor:
    """(B, M, …) -> (rows that count, …)."""
    return x.flatten(0, 1) if valid is None else x[valid]


def groups(compared: WeightComparison, method: MaskedAutoencoder) -> None:
    """Centres, members and their indices, of plans made anew."""
    clouds = Clouds(compared.folder.io["points"])
    plans = method.tokenizer.grouping(clouds)
    pyramid: tuple[Tokens, ...] = levels(method.tokenizer(clouds))[::-1]
    for level, (plan, tokens) in enumerate(zip(plans, pyramid, strict=True)):
        compared.equal(f"fps_idx{level}", plan.centres)
        compared.equal(f"knn_idx{level}", plan.members)
        compared.close(f"center{level}", tokens.layout.coords)
        compared.close(f"neighborhood{level}", tokens.content)


def latents(compared: WeightComparison, prefix: str, latent: Latent) -> None:
    """Rows of each level that count; padding is the official code's own affair."""
    for level, one in enumerate(levels(latent)[::-1]):
        key = f"{prefix}{level}"
        if key in compared.folder.io:
            valid = compared.folder.io[f"enc.valid{level}"]
            features = one.features if one.rows.valid is None else one.rows.zero_padding(one.features)
            recorded = compared.folder.io[key] * valid[..., None]
            compared.folder.io[key] = recorded
            compared.close(key, features * valid[..., None])


@torch.no_grad()
def embedded(compared: WeightComparison, method: MaskedAutoencoder) -> None:
    """Embeddings of all groups: each level's are made of the encoded visible ones below."""
    vectors: list[Tensor] = []
    hooks = [embed.register_forward_hook(lambda _, __, out: vectors.append(out)) for embed in method.encoder.embeds]
    batch, draws = compared.folder.replay()
    method(batch, draws=draws)
    for hook in hooks:
        hook.remove()
    for level, x in enumerate(vectors):
        compared.close(f"tokens{level}", x)


METHODS = (
    Method(
        folder="point-m2ae",
        compare=compare,
        elsewhere=ELSEWHERE,
        options=frozenset({"RandomMasker", "PublishedMasker"}),
    ),
)
