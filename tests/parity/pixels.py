"""Shared by methods that predict pixels: other rows asked for, tensors by the recorded keys."""

from dataclasses import replace

import torch
from torch import Tensor

from core.methods.masked_autoencoder import MaskedAutoencoder, Output
from core.tokens import Batch, Mask, Place, Rows, Step

# Classes that an official constructor's options put in or leave out.
OPTIONS = frozenset({"Separable", "Learned", "ClsToken", "LayerScale"})


def backward(method: MaskedAutoencoder, batch: Batch, draws: dict) -> Output:
    out = method(batch, draws=draws)
    out.loss.backward()
    return out


def all_rows(mask: Mask) -> Rows:
    return Rows.all(*mask.hidden.shape)


def answered(mask: Mask, rows: Rows) -> Mask:
    return replace(mask, predict={"main": Place(rows)})


@torch.no_grad()
def ask(method: MaskedAutoencoder, batch: Batch, mask: dict[str, Mask]) -> tuple[Step, Tensor, Tensor]:
    """Prediction and target at the main place of another mask."""
    step = Step(batch, method.tokenizer.views(batch.views), masks=mask)
    _, predictions = method.predict(step.tokens, mask)
    (objective, view, place), *_ = method.questions(mask).values()
    return step, predictions["pixels"], objective.target(step, view, place).values
