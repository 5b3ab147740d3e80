"""Errors at hidden tokens of prediction, baseline and zero, in the objective's own target and loss."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.losses import to_nearest
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.reconstruction.baseline import Baseline
from core.tokens import Batch, ForwardContext, Mask, Progress, Query, Rows, Tokens, levels, view_of

TRAINED = Progress(1, 1, 1.0, 1.0)  # the end of training, for masks and targets that follow a schedule


@dataclass(frozen=True, kw_only=True)
class TokenErrors:
    """Errors (B, M) at the rows of one objective's query, by answer; `scored` (B, M): rows that count.

    Answers are "prediction", "baseline" and "zero", and the names of further contexts. `region`: "unseen" where
    errors are of those parts of a row alone that no visible token shows, else None.
    """

    objective: str
    view: str
    query: Query
    errors: Mapping[str, Tensor]
    scored: Tensor
    region: str | None = None


def context_of(method: MaskedAutoencoder, batch: Batch, generator: torch.Generator | None = None) -> ForwardContext:
    """The context of a forward at the end of training, without masks."""
    return method.context(batch, progress=TRAINED, generator=generator)


def token_errors(
    method: MaskedAutoencoder,
    ctx: ForwardContext,
    baseline: Baseline,
    further: Mapping[str, ForwardContext] | None = None,
) -> Iterator[TokenErrors]:
    """Errors of prediction, baseline and zero, for every objective that predicts hidden tokens.

    `ctx` holds the masks. `further`: contexts by name, whose targets are taken for answers. Where tokens overlap,
    the errors at unseen parts come apart: squared distances to the nearest part of an answer.
    """
    predictions = method.predict(ctx.tokens, ctx.masks, ctx=ctx)[1]
    contexts = {"baseline": _with_baseline(method, ctx, baseline), **(further or {})}

    for name, (objective, view, query) in method.prediction_tasks(ctx.masks).items():
        if query.rows is None:
            continue  # every cell of a grid, whether a token lies there or not: no rows to call hidden

        values, weight = objective.target(ctx, view, query)
        scored = _scored_rows(query.rows, weight, hidden_rows(ctx.masks, view, query.level))
        if not scored.any():
            continue

        answers = {"prediction": predictions[name], "zero": torch.zeros_like(values)}
        for answer, context in contexts.items():
            answers[answer] = objective.target(context, view, query).values

        errors = {part: _per_row(objective.loss(answer, values), weight) for part, answer in answers.items()}
        row = TokenErrors(objective=name, view=view, query=query, errors=errors, scored=scored)
        yield row

        unseen = objective.target.unseen(ctx, view, query, hidden_levels(ctx, view))
        if unseen is not None:
            yield _at_unseen_parts(row, answers, values, unseen)


def _at_unseen_parts(row: TokenErrors, answers: Mapping[str, Tensor], values: Tensor, unseen: Tensor) -> TokenErrors:
    """Mean error at the unseen parts of each row. Shapes: values (B, M, S, A), unseen (B, M, S) bool."""
    counts = unseen.sum(-1)
    errors = {}
    for name, answer in answers.items():
        errors[name] = (to_nearest(answer, values) * unseen).sum(-1) / counts.clamp(min=1)
    return replace(row, errors=errors, scored=row.scored & (counts > 0), region="unseen")


def hidden_levels(ctx: ForwardContext, view: str) -> list[Tensor]:
    """Hidden rows (B, N) of each level of a view, coarsest first."""
    return [hidden_rows(ctx.masks, view, level) for level in range(len(levels(ctx.tokens[view])))]


def hidden_rows(masks: Mapping[str, Mask], view: str, level: int = 0) -> Tensor:
    """(B, N): rows of a view that no mask over it leaves visible, nor shows in another row's place."""
    flags = []
    for name, mask in masks.items():
        if view_of(name) != view:
            continue
        for _ in range(level):
            assert mask.finer is not None, "a query names a level that the mask has"
            mask = mask.finer

        hidden = mask.hidden
        if mask.content_from is not None:
            hidden = hidden & ~_source_rows(mask.content_from)
        flags.append(hidden)
    return torch.stack(flags).all(0)


def _source_rows(content_from: Tensor) -> Tensor:
    """(B, N) rows whose content some row shows."""
    return Rows(content_from.clamp(min=0), content_from >= 0).to_mask(content_from.shape[1])


def _scored_rows(rows: Rows, weight: Tensor | None, hidden: Tensor) -> Tensor:
    """Rows of a query (B, M) that count: hidden from the encoder, no padding, and weighted in the loss."""
    scored = rows.gather(hidden)
    if rows.valid is not None:
        scored = scored & rows.valid
    if weight is not None:
        if weight.dim() > 2:
            weight = weight.flatten(2).amax(2)
        scored = scored & (weight > 0)
    return scored


def with_data(
    method: MaskedAutoencoder,
    ctx: ForwardContext,
    views: Mapping[str, Any],
    tokens: Mapping[str, Tokens] | None = None,
) -> ForwardContext:
    """The same context with other raw data, or tokens, for targets and their teachers; masks and latents stay.

    Other data go through the same targets, with their own statistics.
    """
    context = context_of(method, replace(ctx.batch, views=views))
    context.masks.update(ctx.masks)
    context.latents.update(ctx.latents)
    context.tokens.update(tokens or {})
    return context


def _with_baseline(method: MaskedAutoencoder, ctx: ForwardContext, baseline: Baseline) -> ForwardContext:
    """The same context with the baseline's data, or with its tokens, where views have masks."""
    views, answers = {}, {}
    for view, tokens in ctx.tokens.items():
        views[view] = ctx.batch.views[view]
        if not any(view_of(name) == view for name in ctx.masks):
            continue  # a view for teachers alone

        hidden = hidden_levels(ctx, view)
        answer = baseline.predict_tokens(tokens, hidden)
        if answer is None:
            views[view] = baseline.predict(method.tokenizer, views[view], tokens, hidden[0])
        else:
            answers[view] = answer

    return with_data(method, ctx, views, answers)


def _per_row(error: Tensor, weight: Tensor | None) -> Tensor:
    """An error per token (B, M) of a loss per token or per value; values weigh as they do in the loss."""
    if error.dim() == 2:
        return error
    if weight is None or weight.dim() == 2:
        return error.flatten(2).mean(2)
    share = weight.expand_as(error).flatten(2)
    return (error.flatten(2) * share).sum(2) / share.sum(2).clamp(min=torch.finfo(error.dtype).tiny)
