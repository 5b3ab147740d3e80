"""The training loop, top to bottom."""

import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn, Protocol

from core.engine import flops
from core.engine.average import WeightEMA
from core.engine.checkpoint import Checkpoints
from core.engine.clock import Clock
from core.engine.compiling import compile_blocks
from core.engine.distributed import Distributed
from core.engine.estimate import estimate
from core.engine.meter import Failure, Meter
from core.engine.metrics import Metrics
from core.engine.optim import Recipe
from core.engine.precision import DryRun, Precision, autocast, choose
from core.engine.progress import open_display
from core.engine.run_dir import PRECISION
from core.engine.stopping import Interrupted, Stop
from core.engine.watching import Watching
from core.errors import UserError
from core.files import read_json, write_json
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.seeding import PlacedGenerator, deterministic, seed_part
from core.settings import Engine, Plan
from core.tokens import Batch

NAMED = 20  # sample keys that a message spells out


class Batches(Protocol):
    """An endless stream whose k-th batch is a pure function of (seed, k)."""

    steps_per_epoch: int

    def __iter__(self) -> Iterator[Batch]: ...


class Diverged(UserError):
    """Loss or gradient are no longer finite."""


def train_steps(
    method: MaskedAutoencoder,
    batches_from: Callable[[int], Batches],
    recipe: Recipe,
    plan: Plan,
    engine: Engine,
    run_dir: Path,
    distributed: Distributed,
    *,
    begin: Callable[[], None] | None = None,
    measure: Callable[[MaskedAutoencoder], Mapping[str, float]] | None = None,
    dry_run: bool = False,
) -> int:
    """Trains `method` in place to the end of `plan`, on from the newest checkpoint in `run_dir`; returns the steps.

    `batches_from(k)` gives the stream from its k-th batch on; a step reads `recipe.accumulate` of them. What
    a step does depends on weights, optimiser state, k and (seed, step, rank) alone: stopped anywhere and
    started again, a run ends with the same bits. The device is read at log lines and checkpoints only; on a
    CPU, where reading is free, the loss is checked in every step. Nothing is written before everything is
    ready for the first step; then the main rank calls `begin`. `measure` gives held-out figures of the method
    as it is; they are logged now and then (`engine.held_out`) and change nothing. `dry_run`: up to the first
    step, whose time and memory are estimated.

    Raises: Diverged (a UserError) when loss or gradient stop being finite; Interrupted after Ctrl-C or
    SIGTERM; UserError when a file cannot be written or a checkpoint does not fit.
    """
    method.to(distributed.device).train()
    optimizer, average = recipe.optimizer(method), WeightEMA(method, recipe.ema)
    checkpoints = Checkpoints(run_dir / "checkpoints", engine.keep)
    notes = distributed.from_main(checkpoints.clean() if distributed.main and not dry_run else [])
    done = checkpoints.resume(method, optimizer, average)
    stream = batches_from(done.batches)
    clock = Clock.of(plan, stream.steps_per_epoch, recipe.accumulate)
    if done.step == clock.steps:
        average.apply()
        return done.step

    with (
        open_display(done.step, clock.steps, distributed.main) as display,
        Stop() as stop,
        deterministic(engine.deterministic),
    ):
        if done.step:
            notes = [*notes, f"resumed after step {done.step}"]
        for note in notes:
            display.note(note)

        batches, start = iter(stream), time.perf_counter()
        batch = next(batches)
        reading = time.perf_counter() - start
        batches = itertools.chain([batch], batches)

        trial = DryRun(method, batch.to(distributed.device), clock.at(done.step), distributed.device)
        trial.check_masks()
        precision, reason = settle_precision(plan.precision, trial, run_dir, distributed)
        peak = flops.peak(distributed.device, precision)
        cost = recipe.accumulate * flops.count(trial, precision)
        if reason:
            display.note(f"precision: {precision} ({reason})")
        display.note(f"{cost * distributed.size / 1e9:.4g} GFLOP a step; mfu: share of {peak.origin}")

        # The first batch waited for workers to start; the others don't.
        if engine.loader_workers(distributed.local_size):
            reading = 0.0
        steps = (clock.steps - done.step) * recipe.accumulate
        display.note(estimate(trial, precision, reading, steps, method, recipe))
        del trial, batch
        if dry_run:
            return done.step

        if distributed.any(stop.signal is not None):
            raise Interrupted(stop.signal or signal.SIGTERM, saved=False)
        if distributed.main and begin is not None:
            begin()
        if distributed.main and plan.precision == "auto":
            write_json(run_dir / PRECISION, {"precision": precision, "reason": reason})

        if plan.compile:
            compile_blocks(method)
        model = distributed.wrap(method)
        generator = PlacedGenerator(distributed.device)
        generator.rank, generator.size = distributed.rank, distributed.size
        metrics = Metrics(run_dir, done.step, display, distributed.main)
        meter = Meter(distributed, cost, peak.flops)
        watching = Watching(
            partial(measure, method) if measure is not None and distributed.main else None,
            steps=clock.steps,
            times=engine.held_out,
            note=display.note,
        )
        saved = time.monotonic()

        for step in range(done.step, clock.steps):
            progress = clock.at(step)
            rate = recipe.set(optimizer, progress, plan.batch_size)

            for part in range(recipe.accumulate):
                with meter.waiting():
                    batch = next(batches).to(distributed.device)
                seed_part(generator, plan.seed, step, distributed.rank, part)
                with distributed.exchange(model, part == recipe.accumulate - 1):
                    with autocast(precision, distributed.device):
                        out = model(batch, progress=progress, generator=generator)
                    (out.loss / recipe.accumulate).backward()
                meter.add(step, batch, out.loss, out.terms)

            norm = recipe.clip_gradients(optimizer)
            method.before_step(progress)
            optimizer.step()
            optimizer.zero_grad()
            method.after_step(progress)
            average.update()
            meter.finish(step, norm)
            display.step(step + 1)

            done = replace(done, step=step + 1, batches=done.batches + recipe.accumulate)
            log = done.step in (1, clock.steps) or done.step % engine.log_every == 0
            ask = log or distributed.size == 1  # ranks agree on times and signals at log lines
            halt = ask and distributed.any(stop.signal is not None)
            save = (
                halt or done.step == clock.steps or (ask and distributed.any(engine.is_late(time.monotonic() - saved)))
            )
            save = save or engine.is_due(done.step)

            if log or save or distributed.device.type == "cpu":
                failure = meter.failure()
                if failure is not None:
                    give_up(failure, metrics, checkpoints, precision)
            if log or save:
                skips = meter.take_skips()
                metrics.skips(skips)
                done = replace(done, skipped=done.skipped + len(skips))
            if log:
                values = {**meter.read(plan.batch_size), "lr": rate}
                metrics.train(done.step, done.step / clock.steps_per_epoch, values, done.skipped)
            if save:
                if distributed.main:
                    checkpoints.save(method, optimizer, average, done)
                saved = time.monotonic()
            if halt:
                raise Interrupted(stop.signal or signal.SIGTERM, saved=True)
            if done.step < clock.steps:  # the end is measured in full, after the last step
                with meter.paused():
                    metrics.held_out(done.step, watching.after(done.step))

        average.apply()
    return done.step


def settle_precision(
    setting: Precision | Literal["auto"],
    dry_run: DryRun,
    run_dir: Path,
    distributed: Distributed,
) -> tuple[Precision, str]:
    """The precision of this run and its reason. A choice that was measured earlier stays: a resume computes alike."""
    if setting != "auto":
        return setting, ""

    choice = None
    if distributed.main:
        choice = read_json(run_dir / PRECISION)
        if choice is None:
            precision, reason = choose(dry_run, distributed.device)
            choice = {"precision": precision, "reason": reason}

    choice = distributed.from_main(choice)
    return choice["precision"], choice["reason"]


def give_up(failure: Failure, metrics: Metrics, checkpoints: Checkpoints, precision: Precision) -> NoReturn:
    """Raises Diverged: which step, which samples, which checkpoint is good, what to try."""
    step = failure.step + 1
    metrics.stop(step, "loss or gradient not finite", failure.keys)

    more, remedy = "", "a lower optim.base_lr or optim.lr, optim.clip=1.0"
    if len(failure.keys) > NAMED:
        more = f" and {len(failure.keys) - NAMED} more (metrics.jsonl lists all)"
    if precision == "bf16":
        remedy += ", precision=fp32"

    raise Diverged(
        f"The loss or its gradient became NaN or infinite in step {step}.\n"
        f"Samples of that step: {', '.join(failure.keys[:NAMED])}{more}.\n"
        f"Last good checkpoint: {checkpoints.newest() or 'none yet'}.\n"
        f"Look at those samples; or try {remedy}, in another run_dir=."
    )
