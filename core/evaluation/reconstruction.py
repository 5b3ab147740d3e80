"""task=reconstruction: skill at hidden tokens of held-out samples, compared with a trivial baseline."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.loader import evaluation_batches
from core.data.opening import open_source
from core.data.sources import Item, Source
from core.errors import UserError
from core.evaluation.intervals import skill_interval
from core.evaluation.labelled import draw_items, items_of
from core.evaluation.record import describe, hash_items, heading, save
from core.evaluation.settings import EvaluationSettings, LoaderSettings
from core.evaluation.verdicts import of_skill
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.reconstruction.baseline import Baseline, HarmonicInterpolation, baseline_of
from core.reconstruction.errors import context_of, token_errors, with_data
from core.reconstruction.skill import OBJECT_SHARE, REFERENCES, ErrorSums, object_shares
from core.runs import loader_workers
from core.seeding import mix
from core.tokens import Batch, ForwardContext, levels

ROUNDING = 1e-6  # an error so much smaller than another is none
KEYS = {"prediction": "prediction", "baseline": "filler", "zero": "zero"}  # of answers in a record


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """Test samples at most; masks are drawn batch by batch, so `batch_size` changes them."""

    samples: int = 1024
    batch_size: int = 32
    seed: int = 0


def evaluate_reconstruction(
    method: MaskedAutoencoder,
    source: Source,
    loader: LoaderSettings,
    *,
    samples: int,
    seed: int,
    baseline: Baseline | None = None,
) -> dict:
    """Skill of every objective that predicts hidden tokens, on test samples, in its own target and loss.

    skill = 1 - Σ error / Σ error of the better of baseline and zero; the baseline's raw data go through the
    same target, with their own statistics. Masks are a function of `seed` and the batch alone. At most
    `samples` items, drawn by it. Raises: UserError where no baseline fits the method's tokens, or nothing
    can be read.
    """
    items = draw_items(source.items("test"), samples, seed=seed)
    baseline, was_training = baseline or HarmonicInterpolation(), method.training
    sums, skipped, count = ErrorSums(by_token=len(items) == 1), [], 0

    method.to(loader.device).eval()
    try:
        with torch.no_grad():  # not inference mode: a method that trains on may keep what it computes here
            batches = evaluation_batches(items, loader.reader, loader.batch_size, loader.workers)
            for number, batch in enumerate(batches):
                generator = torch.Generator(loader.device).manual_seed(mix("evaluation masks", seed, number))
                batch = batch.to(loader.device)
                _add_batch(sums, method, batch, items, source, loader, baseline, generator)
                skipped += map(list, batch.skipped)
                count += len(batch.keys)
    finally:
        method.train(was_training)

    if not sums.objectives:
        raise UserError("task=reconstruction: this method predicts nothing at tokens that are hidden from its encoder.")
    units = "samples"
    if sums.by_token:
        units = "tokens of the only sample"
    further = {}
    if any("unseen" in sums.regions(name) for name in sums.objectives):
        further["unseen"] = (
            "parts of scored tokens that are in no visible one: squared distance to the nearest predicted"
        )
    return {
        "figures": {name: objective_figures(sums, name, baseline.name, seed) for name in sums.objectives},
        "protocol": {
            "filler": baseline.name,
            "reference": "the better of filler and zero, over all samples of a region",
            "ceiling": baseline.ceiling,
            "object_token": f"at least {OBJECT_SHARE:.0%} of its cells show an object",
            "scored": "tokens that are hidden from the encoder, predicted, and weighted in the loss",
            "held_out": source.held_out,
            "interval": f"95 %, percentile bootstrap over {units}",
            "batch_size": loader.batch_size,  # masks are drawn batch by batch
            **further,
        },
        "counts": {"test": count, "skipped": len(skipped)},
        "skipped": skipped,
    }


def evaluate_run(run_dir: str | Path, method: MaskedAutoencoder, config: Mapping[str, Any]) -> dict:
    """Skill of a run that has just finished on its own test samples, also in
    `evaluation/reconstruction.json`.

    Where it cannot be measured (no test samples, no baseline for such tokens) the record gives the reason
    instead.
    """
    start = time.monotonic()
    command = f"python -m core.evaluate {shlex.quote(f'run={run_dir}')} task=reconstruction"
    try:
        settings = ReconstructionSettings()
        return measure(Path(run_dir), method, config, command=command, settings=settings, start=start)
    except UserError as error:
        record = {"task": "reconstruction", "run": str(run_dir), "figures": {}, "reason": str(error)}
        record |= describe(command, seed=0, data_hash=hash_items([]), start=start)
        save(Path(run_dir), record)
        return record


def measure(
    run_dir: Path,
    method: MaskedAutoencoder,
    config: Mapping[str, Any],
    *,
    command: str,
    settings: ReconstructionSettings,
    start: float,
    workers: int | None = None,
    head: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> dict:
    """Evaluates on the data that `config` names; writes the record and returns it.

    `head`, `name`: the record's first keys and its file's name, by default those of a run on its own data.
    Raises: UserError.
    """
    reader, source = open_source(config)
    if workers is None:
        workers = loader_workers(config)
    device = next(method.parameters()).device
    loader = LoaderSettings(reader, settings.batch_size, workers=workers, device=device)
    baseline = baseline_of(config["modality"])
    figures = evaluate_reconstruction(
        method, source, loader, samples=settings.samples, seed=settings.seed, baseline=baseline
    )

    if head is None:
        head = heading(EvaluationSettings(str(run_dir), "reconstruction"), config)
    record = {**head, **figures}
    record |= describe(command, seed=settings.seed, data_hash=hash_items(source.items("test")), start=start)
    save(run_dir, record, name)
    return record


def objective_figures(sums: ErrorSums, objective: str, filler: str, seed: int) -> dict:
    """Figures of one objective, by region. `filler`: the baseline's name."""
    figures = {}
    for region in sums.regions(objective):
        figures[region] = _region_figures(sums.of(objective, region), sums.by_token, seed)
        figures[region]["result"] = of_skill(figures[region], filler)
    return figures


def _region_figures(parts: dict[str, np.ndarray], by_token: bool, seed: int) -> dict:
    tokens = parts["tokens"].sum()
    if not tokens:
        return {"tokens": 0, "samples": 0}

    references = np.stack([parts[name] for name in REFERENCES])
    counts = {"samples": len(parts["tokens"]), "tokens": int(tokens)}
    if by_token:
        counts["samples"] = 1
    totals = references.sum(1)
    if totals.min() <= ROUNDING * totals.max():
        return {**counts, "result": "a trivial answer has no error: no room"}

    skill = skill_interval(parts["prediction"], references, seed)
    figures = {
        "skill": skill.as_dict(),
        "error": {key: float(parts[part].sum() / tokens) for part, key in KEYS.items()},
        "better_reference": KEYS[REFERENCES[int(totals.argmin())]],
        **counts,
    }
    if "ceiling" in parts:
        figures["ceiling"] = skill_interval(parts["ceiling"], references, seed).as_dict()
    return figures


def _add_batch(
    sums: ErrorSums,
    method: MaskedAutoencoder,
    batch: Batch,
    items: Sequence[Item],
    source: Source,
    loader: LoaderSettings,
    baseline: Baseline,
    generator: torch.Generator,
) -> None:
    """Adds one batch's errors to `sums`."""
    ctx = context_of(method, batch, generator)
    ctx.masks.update(method.draw_mask(ctx))

    # Perfect answers, and shares of object in tokens, where the data have them.
    view, further = loader.reader.view, {}
    ceiling = _ceiling(method, ctx, baseline, source, view)
    if ceiling is not None:
        further["ceiling"] = ceiling
    objects = list(map(loader.reader.objects, items_of(items, batch.keys)))
    shares = object_shares(objects, ctx.tokens[view].layout)

    for errors in token_errors(method, ctx, baseline, further):
        layout = levels(ctx.tokens[errors.view])[errors.query.level].layout
        if errors.view == view and errors.query.level == 0:
            sums.add(errors, layout, shares)
        else:
            sums.add(errors, layout, None)


def _ceiling(
    method: MaskedAutoencoder, ctx: ForwardContext, baseline: Baseline, source: Source, view: str
) -> ForwardContext | None:
    """The context of the answers that a perfect method would give, where the source knows them."""
    keys = ctx.batch.keys
    tokens = baseline.ceiling_tokens(method.tokenizer, source, keys, ctx.tokens[view])
    if tokens is not None:
        return with_data(method, ctx, ctx.batch.views, {view: tokens})
    data = baseline.ceiling_data(source, keys, ctx.batch.views[view])
    if data is not None:
        return with_data(method, ctx, {**ctx.batch.views, view: data})
    return None
