"""Shared by methods of point clouds: groups, levels of a pyramid, predicted points, gradients, values after a step."""

import torch
from torch import Tensor

from core.engine.optim import parameter_groups
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Latent, Tokens, levels
from modalities.point.clouds import Clouds
from tests.parity.pixels import backward
from tests.parity.vectors import WeightComparison


def sets(prediction: Tensor) -> Tensor:
    """(B, M, S · 3) -> (B · M, S, 3)."""
    return prediction.flatten(0, 1).unflatten(1, (-1, 3))


def gradients_in_eval_mode(compared: WeightComparison, method: MaskedAutoencoder) -> None:
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    compared.updated("eval.grad.", gradients)


def after_step(compared: WeightComparison) -> None:
    """Weights after the recorded step of AdamW.

    Its first step is lr · g / (|g| + ε): where a gradient is as small as its own tolerance, its sign decides.
    """
    folder = compared.folder
    if not any(key.startswith("after_step.") for key in folder.io):
        return
    method, about = folder.load().train(), folder.meta["adamw"]
    backward(method, *folder.replay())
    groups = parameter_groups(method, about["weight_decay"], frozenset(method.no_weight_decay()))
    optimiser = torch.optim.AdamW(groups, lr=about["lr"], betas=about["betas"], eps=about["eps"])

    margins = {}
    for name, parameter in method.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradient, eps = gradient.double(), about["eps"]
        delta = folder.gradient_tolerance * float(gradient.abs().max())
        up, down = gradient + delta, gradient - delta
        margins[name] = about["lr"] * (up / (up.abs() + eps) - down / (down.abs() + eps))
    optimiser.step()
    compared.updated("after_step.", method.state_dict(), margins)


# Of pyramids ----------------------------------------------------------------------------------------------------------


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
def embedded(compared: WeightComparison, method: MaskedAutoencoder, prefix: str = "") -> None:
    """Embeddings of all groups: each level's are made of the encoded visible ones below."""
    vectors: list[Tensor] = []
    hooks = [embed.register_forward_hook(lambda _, __, out: vectors.append(out)) for embed in method.encoder.embeds]
    batch, draws = compared.folder.replay()
    method(batch, draws=draws)
    for hook in hooks:
        hook.remove()
    for level, x in enumerate(vectors):
        compared.close(f"{prefix}tokens{level}", x)
