"""One run from its config to its end: data, method, training, then the saved encoder and its held-out skill."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from core import defaults
from core.config import compose, load
from core.config.build import build, build_method
from core.data.dataset import Samples
from core.data.loader import Loader
from core.data.opening import open_source
from core.data.reader import CachedReader, Reader, WholeReader
from core.data.sources import Item, Setting, Source
from core.engine.clock import Clock
from core.engine.distributed import Distributed, connect
from core.engine.loop import train_steps
from core.engine.optim import Recipe
from core.engine.run_dir import FINISHED, check_config, default_path, has_steps, lock_run_dir, save_config
from core.errors import UserError
from core.evaluation import reconstruction
from core.evaluation.watch import HeldOutWatch
from core.export import export_encoder
from core.files import read_json, write_json
from core.initial_weights import load_weights
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.runs import Run, open_run
from core.seeding import seed_global
from core.settings import Engine, Init, Plan, split
from core.tokens import Progress

Stream = Callable[[int], Loader]  # batches from the k-th on


ACCOUNT = "data.json"  # in a run's folder: the samples of its source, and whatever is passed over


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long a run is, how it updates weights, how it is carried out, and from which weights it starts."""

    plan: Plan
    recipe: Recipe
    engine: Engine
    init: Init

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Settings":
        """Builds them; completes the config's nodes."""
        settings: dict[str, Any] = {field.name: config.get(field.name) for field in fields(Plan)}
        plan = Plan(**settings)
        recipe: Recipe = build(config["optim"], key="optim")
        engine: Engine = build(config["engine"], key="engine")
        return cls(plan=plan, recipe=recipe, engine=engine, init=Init.of(config["init"]))


@dataclass(frozen=True, kw_only=True)
class Data:
    """The samples of a run before any is read. `test`: number of held-out ones, or why there are none."""

    reader: Reader
    source: Source
    train: Sequence[Item]
    test: str


def train(*overrides: str, **settings: Any) -> Run:
    """Trains as `python -m core.train` does, or resumes, and returns the run.

    run = train("modality=image", "data.root=photos", steps=100)

    `settings`: overrides by keyword. Ctrl-C ends it after the current step and leaves a run that the same call
    resumes.
    Raises: UserError; Interrupted.
    """
    words = list(overrides)
    for key, value in settings.items():
        words.append(f"{key}={_as_override(value)}")

    with connect() as distributed:
        run_dir = run(words, distributed)
    return open_run(run_dir)


def _as_override(value: Any) -> str:
    """A Python value as the right side of an override: None -> null, True -> true, lists in brackets."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_override, value))}]"
    return str(value)


def run(overrides: Sequence[str], distributed: Distributed) -> Path:
    """Trains the run that the overrides describe, or resumes it; then exports and evaluates (main rank).

    Nothing is written before the first step, so that a start that fails leaves nothing behind.
    Returns the run's folder. Raises: UserError; Interrupted.
    """
    config = compose(overrides)
    run_dir = Path(config.get("run_dir") or default_path(config))
    Settings.of(config)  # mistakes in them are reported before data are opened, which can take long
    data = open_data(config)

    choices = choose_defaults(overrides, config, data, run_dir)
    if choices:
        config = compose([*(choice.override for choice in choices), *overrides])
        config["chosen"] = {choice.key: {"value": choice.value, "reason": choice.reason} for choice in choices}
        data = replace(data, reader=build(config["modality"]["reader"], key="modality.reader"))
        log_main(distributed, defaults.describe(choices))

    config["run_dir"] = str(run_dir)
    settings = Settings.of(config)
    seed_global(settings.plan.seed, distributed.device)
    method = build_method(config)
    stream = open_stream(config, settings, data, distributed)

    with lock_run_dir(run_dir) if distributed.main else nullcontext():
        if distributed.main:
            check_config(run_dir, config)

        if distributed.from_main((run_dir / FINISHED).exists()):
            steps = read_json(run_dir / FINISHED)["steps"]
            text = f"{run_dir} holds a finished run of {steps} steps: nothing to do. Another run_dir= trains again."
            log_main(distributed, f"{text}\n{next_commands(run_dir, config)}")
            return run_dir

        if settings.init.source is not None and not distributed.from_main(has_steps(run_dir)):
            text = load_weights(method, Path(settings.init.source), settings.init.part, config)
            log_main(distributed, text)

        log_main(distributed, summary(config, settings, data, method, stream, distributed))
        steps = train_steps(
            method,
            stream,
            settings.recipe,
            settings.plan,
            settings.engine,
            run_dir,
            distributed,
            begin=partial(save_start, run_dir, config, data),
            measure=HeldOutWatch(data.reader, data.source, config["modality"]),
        )
        if distributed.main:
            finalize_run(config, method, run_dir)
            write_json(run_dir / FINISHED, {"steps": steps})

    log_main(distributed, f"Done. The encoder is in {run_dir / 'encoder'}.\n{next_commands(run_dir, config)}")
    return run_dir


def save_start(run_dir: Path, config: dict[str, Any], data: Data) -> None:
    """Writes the config, and the account of the data."""
    save_config(run_dir, config)
    write_json(run_dir / ACCOUNT, asdict(data.source.account()))


def choose_defaults(overrides: Sequence[str], config: Mapping[str, Any], data: Data, run_dir: Path) -> list[Setting]:
    """Settings that follow from people's own data: those that the run began with, else chosen anew.

    None for an experiment or a saved config, which settle everything.
    """
    given = {split(text)[0] for text in overrides}
    if config["data"]["name"] != "folder" or given & {"experiment", "config"}:
        return []
    if has_steps(run_dir):
        return defaults.saved(load(run_dir / "config.yaml"), given)
    facts = data.reader.peek(data.train)
    return defaults.choose(config, facts, len(data.train), given, data.source.defaults())


def open_data(config: Mapping[str, Any]) -> Data:
    """Raises UserError where data are missing or unreadable."""
    reader, source = open_source(config)
    items = source.items("train")
    try:
        test = str(len(source.items("test")))
    except UserError as error:
        test = f"none ({error})"
    return Data(reader=reader, source=source, train=items, test=test)


def open_stream(config: Mapping[str, Any], settings: Settings, data: Data, distributed: Distributed) -> Stream:
    """Raises UserError where there are fewer samples than one step needs, or the batch cannot be divided."""
    plan, reader = settings.plan, data.reader
    if plan.batch_size > len(data.train):
        raise UserError(
            f"batch_size={plan.batch_size} is more than the {len(data.train)} training samples of "
            f"data={config['data']['name']}: choose a batch_size up to {len(data.train)}, or give more data."
        )

    workers = settings.engine.loader_workers(distributed.local_size)
    megabytes = config["data"]["cache_mb"] / max(1, workers)
    if megabytes and isinstance(reader, WholeReader):
        reader = CachedReader(reader, megabytes)

    batches_from = partial(
        Loader,
        Samples(data.train, reader, plan.seed),
        plan.part_size(settings.recipe.accumulate, distributed.size),
        plan.seed,
        workers,
        distributed.rank,
        distributed.size,
        keep_last=data.source.keep_last,
    )
    return lambda start: batches_from(start=start)


def finalize_run(config: dict[str, Any], method: MaskedAutoencoder, run_dir: Path) -> None:
    """Saves the encoder and measures how well held-out samples are reconstructed."""
    method.eval()
    export_encoder(run_dir, method, config)

    record = reconstruction.evaluate_run(run_dir, method, config)
    for name, regions in record["figures"].items():
        text = regions["total"].get("result", "no hidden tokens")
        if "skill" in regions["total"]:
            skill = regions["total"]["skill"]
            text = f"{skill['value']:.3f} [{skill['low']:.3f}, {skill['high']:.3f}]"
        print(f"Held-out skill, {name}: {text}", flush=True)

    if "reason" in record:
        print(f"Held-out reconstruction was not measured: {record['reason']}", flush=True)


def summary(
    config: Mapping[str, Any],
    settings: Settings,
    data: Data,
    method: MaskedAutoencoder,
    stream: Stream,
    distributed: Distributed,
) -> str:
    """The facts of the run that is about to start, one a line."""
    plan, recipe = settings.plan, settings.recipe
    clock = Clock.of(plan, stream(0).steps_per_epoch, recipe.accumulate)

    trained = [p.numel() for p in method.parameters() if p.requires_grad]
    in_encoder = [p.numel() for p in method.encoder.parameters()]
    warmup = recipe.warmup(Progress(0, clock.steps, 0.0, clock.at(clock.steps).epochs))
    batch = f"{plan.batch_size}"
    if recipe.accumulate > 1:
        batch += f" in {recipe.accumulate} parts"

    facts = {
        "modality": config["modality"]["name"],
        "method": f"{config['method']['name']}, size {config['size']['name']}",
        "parameters": f"{sum(trained) / 1e6:.2f} M, {sum(in_encoder) / 1e6:.2f} M of them in the encoder",
        "data": f"{config['data']['name']}: {len(data.train)} training samples, held out: {data.test}",
        "batch": f"{batch}, {distributed.size} x {distributed.device.type}",
        "rate": f"{recipe.peak(plan.batch_size):.3g}, warm-up {warmup:.0f} steps, then {recipe.schedule}",
        "steps": f"{clock.steps} ({clock.at(clock.steps).epoch:.3g} epochs)",
        "run_dir": config["run_dir"],
    }
    lines = []
    for name, fact in facts.items():
        lines.append(f"{name:>11}  {fact}")
        if name == "data":
            lines.extend(f"{'':>11}  {line}" for line in data.source.account().lines())
    return "\n".join(lines)


def next_commands(run_dir: Path, config: Mapping[str, Any]) -> str:
    """The commands to look at a run and to evaluate it."""
    task = "knn"
    if config.get("published") is not None:
        task = "published"
    return f"Next:\n  python -m core.report run={run_dir}\n  python -m core.evaluate run={run_dir} task={task}"


def log_main(distributed: Distributed, text: str) -> None:
    """Prints on the main rank."""
    if distributed.main:
        print(text, flush=True)
