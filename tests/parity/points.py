"""Shared by methods of point clouds: sets of predicted points, gradients in eval mode, values after a step."""

import torch
from torch import Tensor

from core.engine.optim import parameter_groups
from core.methods.masked_autoencoder import MaskedAutoencoder
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
