"""task=reconstruction: how much better than a trivial filler hidden tokens of held-out samples are predicted."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from core.config.build import build
from core.data.loader import evaluation_batches
from core.data.opening import open_source
from core.data.seeding import mix
from core.data.sources import Item, Source
from core.errors import UserError
from core.evaluation import opening
from core.evaluation.features import Reading
from core.evaluation.fillers import Filler, HarmonicFiller
from core.evaluation.record import describe, save
from core.evaluation.skill import Sums, figures
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.tokens import Batch, ForwardContext, Layout, Mask, Progress, Query, Rows, levels

OBJECT_SHARE = 0.5  # a token counts as object from this share of object cells on, else as background
TRAINED = Progress(1, 1, 1.0, 1.0)  # the end of training, for masks and targets that follow a schedule


@runtime_checkable
class Rendered(Protocol):
    """A source that knows its samples as they were before they were encoded as files."""

    def clean(self, key: str) -> Tensor: ...


@dataclass(frozen=True)
class Comparison:
    """One question about hidden tokens: errors (B, M) of each answer, and which of the place's rows count (B, M)."""

    name: str
    view: str
    query: Query
    errors: Mapping[str, Tensor]
    scored: Tensor


@dataclass(frozen=True)
class Settings:
    """Of an evaluation by reconstruction; masks are drawn batch by batch, so `batch_size` is one of them."""

    samples: int = 1024
    batch_size: int = 32
    seed: int = 0


def evaluate_reconstruction(
    method: MaskedAutoencoder, source: Source, reading: Reading, samples: int, seed: int, filler: Filler | None = None
) -> dict:
    """Skill of every objective that answers hidden tokens, on test samples, in the objective's own target and loss.

    skill = 1 - Σ error / Σ error of the better of filler and zero; the filler's raw data go through the same target,
    with their own statistics. Masks are a function of `seed` and the batch alone. At most `samples` items, drawn by it.
    Raises: UserError where no filler fits the method's tokens, or nothing can be read.
    """
    items = _choose(source.items("test"), samples, seed)
    by_key = {item.key: item for item in items}
    filler, was_training = filler or HarmonicFiller(), method.training
    sums, skipped, read = Sums(by_token=len(items) == 1), [], 0
    method.to(reading.device).eval()
    try:
        with torch.inference_mode():
            batches = evaluation_batches(items, reading.reader, reading.batch_size, reading.workers)
            for number, batch in enumerate(batches):
                generator = torch.Generator(reading.device).manual_seed(mix("evaluation masks", seed, number))
                present = [by_key[key] for key in batch.keys]
                _score(method, batch.to(reading.device), present, source, reading, filler, generator, sums)
                skipped += [list(entry) for entry in batch.skipped]
                read += len(batch.keys)
    finally:
        method.train(was_training)
    if not sums.objectives:
        raise UserError("task=reconstruction: this method predicts nothing at tokens that are hidden from its encoder.")
    units = "tokens of the only sample" if sums.by_token else "samples"
    return {
        "figures": {name: figures(sums, name, seed) for name in sums.objectives},
        "protocol": {
            "filler": filler.name,
            "reference": "the better of filler and zero, over all samples of a region",
            "object_token": f"at least {OBJECT_SHARE:.0%} of its cells show an object",
            "scored": "tokens that are hidden from the encoder, predicted, and weighted in the loss",
            "held_out": source.held_out,
            "interval": f"95 %, percentile bootstrap over {units}",
            "batch_size": reading.batch_size,  # masks are drawn batch by batch
        },
        "counts": {"test": read, "skipped": len(skipped)},
        "skipped": skipped,
    }


def evaluate_run(run_dir: str | Path, method: MaskedAutoencoder, config: Mapping[str, Any]) -> dict:
    """What a finished run says of itself: skill on its own test samples, also in `evaluation/reconstruction.json`.

    Where it cannot be measured (no test samples, no filler for such tokens) the record gives the reason instead.
    """
    start = time.monotonic()
    command = f"python -m core.evaluate run={run_dir} task=reconstruction"
    try:
        return measure(Path(run_dir), method, config, command, Settings(), start)
    except UserError as error:
        record = {"task": "reconstruction", "run": str(run_dir), "figures": {}, "reason": str(error)}
        save(Path(run_dir), record | describe(command, 0, [], start))
        return record


def measure(
    run_dir: Path,
    method: MaskedAutoencoder,
    config: Mapping[str, Any],
    command: str,
    settings: Settings,
    start: float,
    workers: int | None = None,
) -> dict:
    """Evaluates on the data that `config` names; writes the record and returns it. Raises UserError."""
    reader, source = open_source(config)
    count = opening.workers(config) if workers is None else workers
    reading = Reading(reader, settings.batch_size, count, next(method.parameters()).device)
    node = config["modality"].get("filler")
    filler = None if node is None else build(node, key="modality.filler")
    result = evaluate_reconstruction(method, source, reading, settings.samples, settings.seed, filler)
    record = {"task": "reconstruction", "run": str(run_dir), "data": config["data"]["name"], **result}
    record |= describe(command, settings.seed, source.items("test"), start)
    save(run_dir, record)
    return record


def _score(
    method: MaskedAutoencoder,
    batch: Batch,
    items: Sequence[Item],
    source: Source,
    reading: Reading,
    filler: Filler,
    generator: torch.Generator,
    sums: Sums,
) -> None:
    """Adds one batch's errors to `sums`."""
    ctx = context_of(method, batch, generator=generator)
    ctx.masks.update(method.draw_mask(ctx))
    view = reading.reader.view
    clean = _clean(source, items, batch.views[view])
    pictures = {} if clean is None else {"clean": {**batch.views, view: clean}}
    shares = _object_shares(reading, items, ctx.tokens[view].layout)
    for found in compare(method, ctx, filler, pictures):
        owner, samples = _owners(found.query, levels(ctx.tokens[found.view])[found.query.level].layout)
        known = shares if found.view == view and found.query.level == 0 else None
        for region, flag in _regions(found.scored, found.query, known).items():
            sums.add(found.name, region, found.errors, flag, owner, samples)


def context_of(method: MaskedAutoencoder, batch: Batch, **more) -> ForwardContext:
    """A step at the end of training."""
    return ForwardContext(batch, method.tokenizer.tokenize_views(batch.views), TRAINED, method.teachers, method, **more)


def compare(
    method: MaskedAutoencoder,
    ctx: ForwardContext,
    filler: Filler,
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Comparison]:
    """Errors of the prediction, the filler's answer and zero, for every question about hidden tokens.

    `step` holds the masks. `others`: by name, further raw data by view whose targets are taken for answers.
    """
    _, predictions = method.predict(ctx.tokens, ctx.masks, ctx=ctx)
    filled = {view: _fill(method, ctx, view, filler) for view in ctx.tokens}
    likes = {name: _like(method, ctx, views) for name, views in {"filler": filled, **(others or {})}.items()}
    for name, (objective, view, query) in method.prediction_tasks(ctx.masks).items():
        if query.rows is None:
            continue  # every cell of a grid, whether a token lies there or not: no rows to call hidden
        truth, weight = objective.target(ctx, view, query)
        scored = _scored(query, weight, hidden_rows(ctx.masks, view, query.level))
        if not scored.any():
            continue
        answers = {"prediction": predictions[name], "zero": torch.zeros_like(truth)}
        answers |= {part: objective.target(like, view, query).values for part, like in likes.items()}
        errors = {part: _by_row(objective.loss(answer, truth), weight) for part, answer in answers.items()}
        yield Comparison(name, view, query, errors, scored)


def hidden_rows(masks: Mapping[str, Mask], view: str, level: int = 0) -> Tensor:
    """(B, N): rows of a view that no mask over it leaves visible, nor shows in another row's place."""
    found = []
    for name, mask in masks.items():
        if name.partition("/")[0] == view:
            for _ in range(level):
                mask = mask.finer
            found.append(mask.hidden if mask.content_from is None else mask.hidden & ~_named(mask.content_from))
    return torch.stack(found).all(0)


def _named(content_from: Tensor) -> Tensor:
    """(B, N) rows whose content stands somewhere."""
    return Rows(content_from.clamp(min=0), content_from >= 0).to_mask(content_from.shape[1])


def _owners(query: Query, layout: Layout) -> tuple[Tensor, int]:
    """Which sample each row of a place is of, (B, M), and how many samples there are."""
    index = query.rows.index
    if layout.sample is not None:
        return query.rows.gather(layout.sample[None]), layout.samples
    return torch.arange(len(index), device=index.device)[:, None].expand_as(index), len(index)


def _regions(scored: Tensor, query: Query, shares: Tensor | None) -> dict[str, Tensor]:
    if shares is None:
        return {"total": scored}
    is_object = query.rows.gather(shares.to(scored.device)) >= OBJECT_SHARE
    return {"total": scored, "object": scored & is_object, "background": scored & ~is_object}


def _scored(query: Query, weight: Tensor | None, hidden: Tensor) -> Tensor:
    """Which rows of a place (B, M) count: hidden from the encoder, no padding, and weighted in the loss."""
    scored = query.rows.gather(hidden)
    if query.rows.valid is not None:
        scored = scored & query.rows.valid
    if weight is not None:
        scored = scored & ((weight.flatten(2).amax(2) if weight.dim() > 2 else weight) > 0)
    return scored


def _like(method: MaskedAutoencoder, ctx: ForwardContext, views: Mapping) -> ForwardContext:
    """The same step with other raw data, which targets and their teachers then see; masks stay."""
    other = context_of(method, replace(ctx.batch, views=views))
    other.masks.update(ctx.masks)
    other.latents.update(ctx.latents)
    return other


def _fill(method: MaskedAutoencoder, ctx: ForwardContext, view: str, filler: Filler):
    if not any(name.partition("/")[0] == view for name in ctx.masks):
        return ctx.batch.views[view]  # seen by teachers alone
    return filler.fill(method.tokenizer, ctx.batch.views[view], ctx.tokens[view], hidden_rows(ctx.masks, view))


def _by_row(error: Tensor, weight: Tensor | None) -> Tensor:
    """An error per token (B, M) of a loss per token or per value; values weigh as they do in the loss."""
    if error.dim() == 2:
        return error
    if weight is None or weight.dim() == 2:
        return error.flatten(2).mean(2)
    share = weight.expand_as(error).flatten(2)
    return (error.flatten(2) * share).sum(2) / share.sum(2).clamp(min=torch.finfo(error.dtype).tiny)


def _object_shares(reading: Reading, items: Sequence[Item], layout: Layout) -> Tensor | None:
    """(B, N): the share of each token's cells that show an object; None where that is not known of every sample."""
    shown = [reading.reader.objects(item) for item in items]
    if any(flag is None for flag in shown):
        return None
    if layout.sample is not None:
        return torch.cat(shown)[None].float()
    if layout.grid is None or layout.coords is not None:
        return None
    cells = torch.stack(shown).float()
    for axis, places in enumerate(layout.grid, start=1):
        cells = cells.unflatten(2 * axis - 1, (places, -1))
    return cells.mean(tuple(range(2, cells.dim(), 2))).flatten(1)


def _clean(source: Source, items: Sequence[Item], data: Tensor) -> Tensor | None:
    """Samples before the codec, where the source knows them at the size that was read."""
    if not isinstance(source, Rendered):
        return None
    clean = torch.stack([source.clean(item.key) for item in items]).to(data.device)
    return clean if clean.shape == data.shape else None


def _choose(items: Sequence[Item], samples: int, seed: int) -> list[Item]:
    chosen = np.random.default_rng(seed).permutation(len(items))[:samples]
    return [items[i] for i in np.sort(chosen)]
