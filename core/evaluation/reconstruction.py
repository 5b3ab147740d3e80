"""task=reconstruction: how much better than a trivial filler hidden tokens of held-out samples are predicted."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from core.build import build
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
from core.tokens import Batch, Layout, Mask, Place, Progress, Step

OBJECT_SHARE = 0.5  # a token counts as object from this share of object cells on, else as background
TRAINED = Progress(1, 1, 1.0, 1.0)  # the end of training, for masks and targets that follow a schedule


@runtime_checkable
class Rendered(Protocol):
    """A source that knows its samples as they were before they were encoded as files."""

    def clean(self, key: str) -> Tensor: ...


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
    sums, skipped, read = Sums(), [], 0
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
    return {
        "figures": {name: figures(sums, name, seed) for name in sums.objectives},
        "protocol": {
            "filler": filler.name,
            "reference": "the better of filler and zero, over all samples of a region",
            "object_token": f"at least {OBJECT_SHARE:.0%} of its cells show an object",
            "scored": "tokens that are hidden from the encoder, predicted, and weighted in the loss",
            "interval": "95 %, percentile bootstrap over samples",
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
    step = _step(method, batch, generator=generator)
    step.masks.update(method.draw_mask(step))
    _, predictions = method.predict(step.tokens, step.masks, step=step)
    view = reading.reader.view
    others = {"filler": _like(method, step, {view: _fill(method, step, view, filler) for view in step.tokens})}
    clean = _clean(source, items, batch.views[view])
    if clean is not None:
        others["clean"] = _like(method, step, {**batch.views, view: clean})
    shares = _object_shares(reading, items, step.tokens[view].layout)
    for name, (objective, asked, place) in method.questions(step.masks).items():
        if place.rows is None:
            continue  # every cell of a grid, whether a token lies there or not: no rows to call hidden
        truth, weight = objective.target(step, asked, place)
        scored = _scored(place, weight, _hidden(step.masks, asked, place.level))
        if not scored.any():
            continue
        answers = {"prediction": predictions[name], "zero": torch.zeros_like(truth)}
        answers |= {part: objective.target(other, asked, place).values for part, other in others.items()}
        errors = {part: _by_row(objective.loss(answer, truth), weight) for part, answer in answers.items()}
        known = shares if asked == view and place.level == 0 else None
        for region, flag in _regions(scored, place, known).items():
            sums.add(name, region, errors, flag)


def _regions(scored: Tensor, place: Place, shares: Tensor | None) -> dict[str, Tensor]:
    if shares is None:
        return {"total": scored}
    is_object = place.rows.take(shares.to(scored.device)) >= OBJECT_SHARE
    return {"total": scored, "object": scored & is_object, "background": scored & ~is_object}


def _scored(place: Place, weight: Tensor | None, hidden: Tensor) -> Tensor:
    """Which rows of a place (B, M) count: hidden from the encoder, no padding, and weighted in the loss."""
    scored = place.rows.take(hidden)
    if place.rows.valid is not None:
        scored = scored & place.rows.valid
    if weight is not None:
        scored = scored & ((weight.flatten(2).amax(2) if weight.dim() > 2 else weight) > 0)
    return scored


def _hidden(masks: Mapping[str, Mask], view: str, level: int = 0) -> Tensor:
    """(B, N): rows of a view that no mask over it leaves visible."""
    found = []
    for name, mask in masks.items():
        if name.partition("/")[0] == view:
            for _ in range(level):
                mask = mask.finer
            found.append(mask.hidden)
    return torch.stack(found).all(0)


def _step(method: MaskedAutoencoder, batch: Batch, **more) -> Step:
    return Step(batch, method.tokenizer.views(batch.views), TRAINED, method.teachers, method, **more)


def _like(method: MaskedAutoencoder, step: Step, views: Mapping) -> Step:
    """The same step with other raw data, which targets and their teachers then see; masks stay."""
    other = _step(method, replace(step.batch, views=views))
    other.masks.update(step.masks)
    other.latents.update(step.latents)
    return other


def _fill(method: MaskedAutoencoder, step: Step, view: str, filler: Filler):
    if not any(name.partition("/")[0] == view for name in step.masks):
        return step.batch.views[view]  # seen by teachers alone
    return filler.fill(method.tokenizer, step.batch.views[view], step.tokens[view], _hidden(step.masks, view))


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
    if layout.grid is None or layout.coords is not None or any(flag is None for flag in shown):
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
