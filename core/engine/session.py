"""One run from its config to its end: the data, the method, training, and what is left behind for later."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from core.config.build import build, build_method
from core.data.dataset import Samples
from core.data.loader import Loader
from core.data.opening import open_source
from core.data.reader import CachedReader, WholeReader
from core.engine.checkpoint import Checkpoints
from core.engine.clock import Clock
from core.engine.distributed import Distributed
from core.engine.initial import initialise
from core.engine.loop import train
from core.engine.optim import Recipe
from core.engine.randomness import seed_global
from core.engine.run_dir import default_path, load_note, lock_run_dir, save_note, write_or_check_config
from core.errors import UserError
from core.evaluation import reconstruction
from core.export import export_encoder
from core.settings import Engine, Plan
from core.tokens import Progress

FINISHED = "finished.json"


@dataclass(frozen=True)
class Data:
    """Training samples as a stream, and how many samples there are on either side of the split."""

    batches_from: Callable[[int], Loader]
    train: int
    test: str


def run(config: dict[str, Any], distributed: Distributed) -> None:
    """Trains what a composed config describes, or goes on with it; then exports and evaluates (main rank).

    Raises: UserError; Interrupted.
    """
    run_dir = Path(config.get("run_dir") or default_path(config))
    config["run_dir"] = str(run_dir)
    plan = Plan(**{name: config.get(name) for name in Plan.__dataclass_fields__})
    recipe: Recipe = build(config["optim"], key="optim")
    engine: Engine = build(config["engine"], key="engine")
    seed_global(plan.seed, distributed.device)
    method = build_method(config)  # completes the config's nodes
    with lock_run_dir(run_dir) if distributed.main else nullcontext():
        if distributed.main:
            write_or_check_config(run_dir, config)
        if distributed.from_main((run_dir / FINISHED).exists()):
            steps = load_note(run_dir / FINISHED)["steps"]
            text = f"{run_dir} holds a finished run of {steps} steps: nothing to do. Another run_dir= trains again."
            log_main(distributed, f"{text}\n{next_commands(run_dir, config)}")
            return
        steps = train_on(config, method, plan, recipe, engine, run_dir, distributed)
        if distributed.main:
            finalize_run(config, method, run_dir)
            save_note(run_dir / FINISHED, {"steps": steps})
    log_main(distributed, f"Done. The encoder is in {run_dir / 'encoder'}.\n{next_commands(run_dir, config)}")


def train_on(
    config: dict, method: nn.Module, plan: Plan, recipe: Recipe, engine: Engine, run_dir: Path, distributed: Distributed
) -> int:
    """From nothing or the newest checkpoint to the last step; returns the steps."""
    fresh = Checkpoints(run_dir / "checkpoints", engine.keep).newest() is None
    if fresh and config.get("init") is not None:
        initialise(method, Path(config["init"]))
    data = open_data(config, plan, recipe, engine, distributed)
    clock = Clock.of(plan, data.batches_from(0).steps_per_epoch, recipe.accumulate)
    log_main(distributed, table(config, method, data, plan, recipe, clock, distributed))
    return train(method, data.batches_from, recipe, plan, engine, run_dir, distributed)


def finalize_run(config: dict[str, Any], method: nn.Module, run_dir: Path) -> None:
    """The saved encoder, and how well held-out samples are reconstructed."""
    method.eval()
    export_encoder(run_dir, method, config)
    record = reconstruction.evaluate_run(run_dir, method, config)
    for name, regions in record["figures"].items():
        skill, said = regions["total"].get("skill"), regions["total"].get("result", "no hidden tokens")
        if skill is not None:
            said = f"{skill['value']:.3f} [{skill['low']:.3f}, {skill['high']:.3f}]"
        print(f"Held-out skill, {name}: {said}", flush=True)
    if "reason" in record:
        print(f"Held-out reconstruction was not measured: {record['reason']}", flush=True)


def open_data(config: Mapping[str, Any], plan: Plan, recipe: Recipe, engine: Engine, distributed: Distributed) -> Data:
    """Raises UserError where data are missing, unreadable or fewer than one step needs."""
    reader, source = open_source(config)
    items = source.items("train")
    try:
        test = str(len(source.items("test")))
    except UserError as error:
        test = f"none ({error})"
    if plan.batch_size > len(items):
        raise UserError(
            f"batch_size={plan.batch_size} is more than the {len(items)} training samples of "
            f"data={config['data']['name']}: choose a batch_size up to {len(items)}, or give more data."
        )
    workers = engine.loader_workers(distributed.local_size)
    megabytes = config["data"]["cache_mb"] / max(1, workers)
    if megabytes and isinstance(reader, WholeReader):
        reader = CachedReader(reader, megabytes)
    part = plan.part_size(recipe.accumulate, distributed.size)
    samples = Samples(items, reader, plan.seed)
    last = config["data"].get("keep_last", False)
    batches_from = partial(
        Loader, samples, part, plan.seed, workers, distributed.rank, distributed.size, keep_last=last
    )
    return Data(lambda start: batches_from(start=start), len(items), test)


def table(
    config: Mapping[str, Any],
    method: nn.Module,
    data: Data,
    plan: Plan,
    recipe: Recipe,
    clock: Clock,
    distributed: Distributed,
) -> str:
    """What is about to run, one fact a line."""
    count = sum(p.numel() for p in method.parameters() if p.requires_grad)
    inside = sum(p.numel() for p in method.encoder.parameters())
    warmup = recipe.warmup(Progress(0, clock.steps, 0.0, clock.at(clock.steps).epochs))
    parts = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
    facts = {
        "modality": config["modality"]["name"],
        "method": f"{config['method']['name']}, size {config['size']['name']}",
        "parameters": f"{count / 1e6:.2f} M, {inside / 1e6:.2f} M of them in the encoder",
        "data": f"{config['data']['name']}: {data.train} training samples, held out: {data.test}",
        "batch": f"{plan.batch_size}{parts}, {distributed.size} x {distributed.device.type}",
        "rate": f"{recipe.peak(plan.batch_size):.3g}, warm-up {warmup:.0f} steps, then {recipe.schedule}",
        "steps": f"{clock.steps} ({clock.at(clock.steps).epoch:.3g} epochs)",
        "run_dir": config["run_dir"],
    }
    return "\n".join(f"{name:>11}  {fact}" for name, fact in facts.items())


def next_commands(run_dir: Path, config: Mapping[str, Any]) -> str:
    task = "knn" if config.get("published") is None else "published"
    return f"Next:\n  python -m core.report run={run_dir}\n  python -m core.evaluate run={run_dir} task={task}"


def log_main(distributed: Distributed, text: str) -> None:
    if distributed.main:
        print(text, flush=True)
