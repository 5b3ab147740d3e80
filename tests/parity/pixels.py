"""Shared by methods that predict pixels: other rows asked for, tensors by the recorded keys."""

from dataclasses import replace

import torch
from torch import Tensor

from core.methods.masked_autoencoder import MaskedAutoencoder, Output
from core.tokens import Batch, ForwardContext, Mask, Query, Rows

# Classes that an official constructor's options put in or leave out.
OPTIONS = frozenset({"Separable", "Learned", "ClsToken", "LayerScale"})


def backward(method: MaskedAutoencoder, batch: Batch, draws: dict) -> Output:
    out = method(batch, draws=draws)
    out.loss.backward()
    return out


def all_rows(mask: Mask) -> Rows:
    return Rows.all(*mask.hidden.shape)


def answered(mask: Mask, rows: Rows) -> Mask:
    return replace(mask, queries={"main": Query(rows)})


@torch.no_grad()
def ask(method: MaskedAutoencoder, batch: Batch, mask: dict[str, Mask]) -> tuple[ForwardContext, Tensor, Tensor]:
    """Prediction and target at the main place of another mask."""
    ctx = ForwardContext(batch, method.tokenizer.tokenize_views(batch.views), masks=mask)
    _, predictions = method.predict(ctx.tokens, mask)
    (objective, view, query), *_ = method.prediction_tasks(mask).values()
    return ctx, predictions["pixels"], objective.target(ctx, view, query).values
