"""One run from its config to its end: data, method, training, then the saved encoder and its held-out skill."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch

from core import defaults
from core.config import compose, load
from core.config.build import build_at, build_method
from core.data.dataset import Samples
from core.data.fingerprint import Fingerprint, fingerprint
from core.data.loader import Loader
from core.data.opening import open_source
from core.data.reader import CachedReader, Reader, WholeReader
from core.data.sources import Item, Setting, Source
from core.engine.clock import Clock
from core.engine.distributed import Distributed, connect
from core.engine.loop import train_steps
from core.engine.optim import Recipe
from core.engine.resume import check_resume
from core.engine.run_dir import FINISHED, default_path, has_steps, lock_run_dir, seed_overrides
from core.errors import UserError
from core.evaluation import reconstruction, verdicts
from core.evaluation.published import Published
from core.evaluation.watch import HeldOutWatch
from core.export import export_encoder
from core.files import write_json
from core.initial_weights import choose_sizes, load_weights
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.runs import Run, open_run
from core.saved import complete
from core.seeding import seed_global
from core.settings import Engine, Init, Plan, Start, split
from core.tokens import Progress

Stream = Callable[[int], Loader]  # batches from the k-th on


ACCOUNT = "account.json"  # in a run's folder: the samples of its source, and whatever is passed over


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
        recipe: Recipe = build_at(config, "optim", Recipe)
        engine: Engine = build_at(config, "engine", Engine)
        if config.get("published") is not None:
            build_at(deepcopy(config), "published", Published)
        return cls(plan=plan, recipe=recipe, engine=engine, init=Init.of(config["init"]))


@dataclass(frozen=True, kw_only=True)
class Data:
    """The samples of a run before any is read. `lack`: why there are none held out, where there are none."""

    reader: Reader
    source: Source
    train: Sequence[Item]
    test: Sequence[Item]
    lack: str

    def fingerprint(self, config: Mapping[str, Any]) -> Fingerprint | None:
        """The identity of the samples; None for generated ones, of which the config holds all."""
        root = config["data"].get("root")
        return None if root is None else fingerprint([self.train, self.test], str(root))


@overload
def train(*overrides: str, **settings: Any) -> Run: ...


@overload
def train(*overrides: str, seeds: int, **settings: Any) -> list[Run]: ...


def train(*overrides: str, seeds: int | None = None, **settings: Any) -> Run | list[Run]:
    """Trains as `python -m core.train` does, or resumes, and returns the run; with `seeds` a list of runs.

    run = train("modality=image", "data.root=photos", steps=100)

    `settings`: overrides by keyword. Ctrl-C ends it after the current step and leaves a run that the same call
    resumes.
    Raises: UserError; Interrupted.
    """
    words = list(overrides)
    for key, value in settings.items():
        words.append(f"{key}={_as_override(value)}")

    start, words = Start.of(words)
    if start.dry_run:
        raise UserError("dry_run=true is for the command: python -m core.train … dry_run=true.")
    config = compose(words)
    with connect() as distributed:
        run_dirs = run_seeds(words, config, seeds, distributed, start)
    runs = list(map(open_run, run_dirs))
    return runs[0] if seeds is None else runs


def _as_override(value: Any) -> str:
    """A Python value as the right side of an override: None -> null, True -> true, lists in brackets."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_override, value))}]"
    return str(value)


def run_seeds(
    overrides: Sequence[str], config: dict[str, Any], seeds: int | None, distributed: Distributed, start: Start
) -> list[Path]:
    """`run`; with `seeds` one run after another, each with a seed of its own. Returns the runs' folders."""
    run_dirs = []
    for words in seed_overrides(overrides, config, seeds):
        if seeds is not None:
            config = compose(words)
            log_main(distributed, f"\nSeed {config['seed']}, {len(run_dirs) + 1} of {seeds}:")
        run_dirs.append(run(words, config, distributed, start))

    if start.dry_run and seeds is not None:
        log_main(distributed, f"\nAll {seeds} seeds were tried; each estimate is of one of them.")
    elif seeds is not None:
        path = shlex.quote(str(run_dirs[0].parent))
        commands = {
            f"report run={path}": "curves and pictures side by side",
            f"evaluate run={path} task=knn": "their mean, compared with baselines",
            f"compare runs=[{path},<another>] task=knn": "a table, with differences",
        }
        log_main(distributed, f"\nAll {seeds} seeds are in {path}.\n{as_list(commands)}")
    return run_dirs


def run(overrides: Sequence[str], config: dict[str, Any], distributed: Distributed, start: Start) -> Path:
    """Trains a run, or resumes it; then exports and evaluates (main rank). `config`: composed from the overrides.

    Nothing is written before the first step, so that a start that fails leaves nothing behind.
    Returns the run's folder. Raises: UserError; Interrupted.
    """
    run_dir = Path(config.get("run_dir") or default_path(config))
    check_parts(_with_patch(overrides, config))
    data = open_data(config)

    sizes = inherit_sizes(overrides, config, run_dir)
    if sizes:
        overrides = [*(size.override for size in sizes), *overrides]
        config = compose(overrides)
        log_main(distributed, defaults.describe(sizes, f"Sizes of init.from={config['init']['from']}"))
    choices = [*sizes, *choose_defaults(overrides, config, data, run_dir, distributed)]
    if choices:
        config = compose([*(choice.override for choice in choices), *overrides])
        config["chosen"] = {choice.key: {"value": choice.value, "reason": choice.reason} for choice in choices}
        data = replace(data, reader=build_at(config, "modality.reader", Reader))
    if len(choices) > len(sizes):
        log_main(distributed, defaults.describe(choices[len(sizes) :], "Chosen from your data"))

    config["run_dir"] = str(run_dir)
    settings = Settings.of(config)
    seed_global(settings.plan.seed, distributed.device)
    method: MaskedAutoencoder = build_method(config, MaskedAutoencoder)
    complete(config)
    if data.reader.views is not None:
        method.check_readouts(data.reader.views)
    stream = open_stream(config, settings, data, distributed)
    clock = Clock.of(settings.plan, stream(0).steps_per_epoch, settings.recipe.accumulate)

    with lock_run_dir(run_dir) if distributed.main else nullcontext():
        resume = None
        if distributed.main:
            resume = check_resume(run_dir, config, data.fingerprint(config), clock.steps, start)
        resume = distributed.from_main(resume)

        if resume.is_over:
            log_main(distributed, f"{nothing_to_do(run_dir, clock.steps)}\n{next_commands(run_dir, config)}")
            return run_dir

        if settings.init.source is not None and resume.steps == 0:
            text = load_weights(method, Path(settings.init.source), settings.init.part, config)
            log_main(distributed, text)

        log_main(distributed, summary(config, settings, data, method, clock, distributed))
        warning = defaults.warn_of_length(clock.steps, {split(text)[0] for text in overrides})
        if warning is not None and config["data"]["name"] == "folder":
            log_main(distributed, f"note: {warning}")
        for change in resume.changes:
            log_main(distributed, f"note: {change}")
        train_steps(
            method,
            stream,
            settings.recipe,
            settings.plan,
            settings.engine,
            run_dir,
            distributed,
            begin=partial(begin, run_dir, data, resume.begin),
            measure=HeldOutWatch(data.reader, data.source, config["modality"]),
            dry_run=start.dry_run,
        )
        if start.dry_run:
            log_main(distributed, "dry_run=true: everything is ready for the first step. Nothing was written.")
            return run_dir

        if distributed.main:
            finalize_run(config, method, run_dir)
            write_json(run_dir / FINISHED, {"steps": clock.steps})

    log_main(distributed, f"Done. The encoder is in {run_dir / 'encoder'}.\n{next_commands(run_dir, config)}")
    return run_dir


def begin(run_dir: Path, data: Data, write_config: Callable[[], None]) -> None:
    """Writes the config and the account of the data, which makes the folder a run."""
    write_config()
    write_json(run_dir / ACCOUNT, asdict(data.source.account()))


def choose_defaults(
    overrides: Sequence[str], config: Mapping[str, Any], data: Data, run_dir: Path, distributed: Distributed
) -> list[Setting]:
    """Settings that follow from people's own data: those that the run began with, else chosen anew.

    None for an experiment or a saved config, which settle everything.
    """
    given = {split(text)[0] for text in overrides}
    if given & {"experiment", "config"}:
        return []
    if has_steps(run_dir):
        return defaults.saved(load(run_dir / "config.yaml"), given)
    if config["data"]["name"] != "folder":
        return []
    facts = data.reader.peek(data.train)
    for sentence in facts.sentences():
        log_main(distributed, f"note: {sentence}")
    of_data = [*data.source.defaults(), *data.reader.defaults(facts)]
    return defaults.choose(config, facts, len(data.train), given, of_data)


def _has_defaults(config: Mapping[str, Any], given: set[str]) -> bool:
    """Whether settings follow from the data: those of people's own files, unless a whole config was named."""
    return config["data"]["name"] == "folder" and not given & {"experiment", "config"}


def _with_patch(overrides: Sequence[str], config: dict[str, Any]) -> dict[str, Any]:
    """The config with the patch that a given size will get, so that the two can be checked before data are read."""
    given = {split(text)[0] for text in overrides}
    choices = defaults.choose_patch(config, given) if _has_defaults(config, given) else []
    if not choices:
        return config
    return compose([*(choice.override for choice in choices), *overrides])


def inherit_sizes(overrides: Sequence[str], config: Mapping[str, Any], run_dir: Path) -> list[Setting]:
    """Sizes of the weights that a new run starts from, where no others are given.

    None for an experiment or a saved config, which settle them.
    """
    given, init = {split(text)[0] for text in overrides}, Init.of(config["init"])
    if init.source is None or given & {"experiment", "config"} or has_steps(run_dir):
        return []
    return choose_sizes(Path(init.source), init.part, config, given)


def check_parts(config: Mapping[str, Any]) -> None:
    """Raises UserError for mistakes in settings and method, before data are opened, which can take long."""
    draft = deepcopy(dict(config))
    Settings.of(draft)
    with torch.device("meta"):  # allocates nothing
        build_method(draft, MaskedAutoencoder)


def open_data(config: Mapping[str, Any]) -> Data:
    """Raises UserError where data are missing or unreadable."""
    reader, source = open_source(config)
    train: Sequence[Item] = source.items("train")
    try:
        test, lack = source.items("test"), ""
    except UserError as error:
        test, lack = [], str(error)
    return Data(reader=reader, source=source, train=train, test=test, lack=lack)


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
    for line in verdicts.lines({"task": "reconstruction", **record}):
        print(line, flush=True)


def summary(
    config: Mapping[str, Any],
    settings: Settings,
    data: Data,
    method: MaskedAutoencoder,
    clock: Clock,
    distributed: Distributed,
) -> str:
    """The facts of the run that is about to start, one a line."""
    plan, recipe = settings.plan, settings.recipe
    trained = [p.numel() for p in method.parameters() if p.requires_grad]
    in_encoder = [p.numel() for p in method.encoder.parameters()]
    warmup = recipe.warmup(Progress(0, clock.steps, 0.0, clock.at(clock.steps).epochs))
    batch = f"{plan.batch_size}"
    if recipe.accumulate > 1:
        batch += f" in {recipe.accumulate} parts"

    held_out = f"none ({data.lack})" if data.lack else str(len(data.test))

    facts = {
        "modality": config["modality"]["name"],
        "method": f"{config['method']['name']}, size {config['size']['name']}",
        "parameters": f"{sum(trained) / 1e6:.2f} M, {sum(in_encoder) / 1e6:.2f} M of them in the encoder",
        "data": f"{config['data']['name']}: {len(data.train)} training samples, held out: {held_out}",
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


def nothing_to_do(run_dir: Path, steps: int) -> str:
    """The message for a run that is over, with the way to go on from it."""
    return (
        f"{run_dir} holds a finished run of {steps} steps: nothing to do. steps=<more> optim.schedule=constant "
        "goes on from it; another run_dir= trains again."
    )


def next_commands(run_dir: Path, config: Mapping[str, Any]) -> str:
    """The commands to look at a run, to evaluate it, to use its encoder and to go on from its weights."""
    task = "knn"
    if config.get("published") is not None:
        task = "published"

    path, config_file = shlex.quote(str(run_dir)), shlex.quote(str(run_dir / "config.yaml"))
    longer = "steps" if config.get("steps") is not None else "epochs"
    again = f"config={config_file} init.from={path} {longer}={config[longer]} run_dir=<another>"
    commands = {
        f"report run={path}": "curves and pictures",
        f"evaluate run={path} task={task}": "compared with baselines",
        f"encode run={path} data.root=<files> out=features.npz": "features of your files",
        f"train {again}": f"from its weights on, as long again: {longer}= sets how long",
    }
    return as_list(commands)


def as_list(commands: Mapping[str, str]) -> str:
    """Commands with their purposes, one a line."""
    lines = [f"  python -m core.{command}  # {purpose}" for command, purpose in commands.items()]
    return "\n".join(["Next:", *lines])


def log_main(distributed: Distributed, text: str) -> None:
    """Prints on the main rank."""
    if distributed.main:
        print(text, flush=True)
