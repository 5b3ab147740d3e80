"""`init.from=`: the weights that a run starts from. Differences are refused by setting, the rest is listed."""

import inspect
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from core.config import load
from core.config.allowed import load_target
from core.data.sources import Setting
from core.embeddings import FlatSinusoid, Learned, Separable, SinCos, TablePositions, resize_table
from core.engine.checkpoint import META, MODEL, Checkpoints, compare_shapes
from core.errors import UserError, show
from core.export import DECODER, METHOD, load_encoder
from core.methods.masked_autoencoder import MaskedAutoencoder
from core.trees import paths

# Settings that change no function of the weights, or whose difference the tensors' shapes show.
START = ("init", "layer_scale", "drop", "feat_drop", "attn_drop", "drop_path", "masking")
SHAPES = ("dim", "depth", "mlp_ratio", "width", "inner", "features")
SIZES = (*SHAPES, "heads", "patch", "channels")  # taken from the source where nothing else is given
FROM_SCOPE = ("grid", "size", "values", "axes", "stride", "widths", "out")  # of enclosing nodes
MODALITY = ("normalise", "channels", "patch", "features")  # settings that a method takes from its modality


@dataclass(frozen=True)
class Source:
    """Weights by the method's names, and the nodes of a method's config, empty where none was saved."""

    path: Path
    weights: dict[str, Tensor]
    _: KW_ONLY
    nodes: Mapping[str, Any] = field(default_factory=dict)


def load_weights(
    method: MaskedAutoencoder, path: Path, part: str | None = None, config: Mapping[str, Any] | None = None
) -> str:
    """Copies weights of a run, a checkpoint folder or a saved encoder into `method`; returns a list as text.

    Without `part`: of a run or checkpoint, and of a converted official file with its decoder, the whole
    method; of any other saved encoder the encoder. `part`: the path of one module that both have
    ("encoder.trunk", `init.part=`); everything else stays fresh. Positions of another grid are computed anew
    where they are fixed, and resampled where they are learned. `config`: the run's, whose options are
    compared with the source's.
    Teachers that follow the method's weights, and were not loaded themselves, begin with the loaded ones.
    Raises: UserError where there is no such source or part, or where shapes or options differ.
    """
    source = open_weights(path)
    if part is None and all(name.startswith("encoder.") for name in source.weights):
        part = "encoder"

    remedy = ""
    if config is not None:
        remedy = compare_options(source, config["method"], part)
    weights, notes = fit_positions(source, method)

    target: nn.Module = method
    if part is not None:
        weights, target = _part_of(weights, method, path, part)

    remedy = remedy or "Choose the source's method and size, or a smaller init.part=."
    compare_shapes(weights, target, path, remedy)
    target.load_state_dict(weights, strict=False)
    if target is method:
        method.follow(weights)
    else:
        method.follow(())
    return "\n".join([f"init.from={path}: {_summary(weights, method, part)}", *notes])


def open_weights(path: Path) -> Source:
    """A run's newest checkpoint, a checkpoint folder, or a saved encoder, with its decoder where it has one.

    Raises: UserError where `path` is none of these.
    """
    checkpoint = Checkpoints(path / "checkpoints", keep=1).newest()
    if checkpoint is None and (path / META).exists():
        checkpoint = path
    if checkpoint is not None:
        file = checkpoint.parent.parent / "config.yaml"
        nodes = {}
        if file.exists():
            nodes = load(file)["method"]
        return Source(path, load_file(checkpoint / MODEL), nodes=nodes)

    if (path / "config.json").exists() or (path / "encoder" / "config.json").exists():
        saved = load_encoder(path)
        weights, nodes = {}, {}
        for name, value in saved.encoder.state_dict().items():
            weights[f"encoder.{name}"] = value
        for name in ("tokenizer", "encoder"):
            if name in saved.config:
                nodes[name] = saved.config[name]
        if (path / DECODER).exists():
            weights |= load_file(path / DECODER)
            nodes = json.loads((path / METHOD).read_text(encoding="utf-8"))
        return Source(path, weights, nodes=nodes)

    raise UserError(
        f"init.from={path} is neither a run, nor a checkpoint folder, nor a saved encoder. Convert official "
        "files: python -m core.convert official=<method> path=<file> out=<folder>."
    )


def choose_sizes(path: Path, part: str | None, config: Mapping[str, Any], given: Collection[str]) -> list[Setting]:
    """The source's sizes that differ from those of `config`, as settings; only those that were not `given`.

    With `size=` only patch and channels.
    Raises: UserError where there is no such source.
    """
    source = open_weights(path)
    theirs, ours = options_of(source.nodes), options_of(config["method"])
    reason = f"as in init.from={path}"

    settings: dict[str, Setting] = {}
    keys = differing_options(theirs, ours, part)
    if part in (None, "encoder", "tokenizer") and "tokenizer.patch" in theirs.keys() & ours.keys():
        keys.append("tokenizer.patch")  # alike too: otherwise it would be chosen from the data
    for key in keys:
        name = key.rpartition(".")[2]
        setting = _setting(key)
        if name in SIZES and not _is_set(setting, given):
            settings[setting] = Setting(setting, theirs[key], reason=reason)
    if "modality.patch" in settings and "modality.size" in given:
        check_size(path, settings["modality.patch"].value, config["modality"]["size"])
    return list(settings.values())


def check_size(path: Path, patch: Sequence[int], size: Sequence[int]) -> None:
    """Raises: UserError, with a size that fits, where the source's patches do not divide the given one."""
    fits = [side * max(1, round(length / side)) for length, side in zip(size, patch, strict=True)]
    if fits != list(size):
        raise UserError(
            f"init.from={path} has patches of {list(patch)}, which do not divide modality.size={show(size)}: "
            f"give modality.size={show(fits)}, or leave it out."
        )


def compare_options(source: Source, nodes: Mapping[str, Any], part: str | None) -> str:
    """The settings that give this method the source's sizes, as a remedy; empty where they agree.

    Empty too where there is no config to compare.

    Raises: UserError naming options that differ and that no shape shows: heads, a norm's eps, the kind of
    positions.
    """
    if not nodes or not source.nodes:
        return ""

    theirs, ours = options_of(source.nodes), options_of(nodes)
    differing, sizes = [], []
    for key in differing_options(theirs, ours, part):
        if key.rpartition(".")[2] in SHAPES:
            sizes.append(key)
        else:
            differing.append(key)

    words = [f"{_setting(key)}={_typed(theirs[key])}" for key in [*sizes, *differing]]
    remedy = " ".join(words)
    if differing:
        lines = [f"init.from={source.path} was trained with other options, which the shapes of weights do not show:"]
        for key in differing[:6]:
            lines.append(f"  {key}: {show(theirs[key])} there, {show(ours[key])} here")
        less = "" if part == "encoder.trunk" else ", or load less by init.part=encoder.trunk"
        lines.append(f"Give {remedy}{less}.")
        raise UserError("\n".join(lines))
    if sizes:
        return f"Its sizes: {remedy}. Or load less by init.part=."
    return ""


def differing_options(theirs: Mapping[str, Any], ours: Mapping[str, Any], part: str | None) -> list[str]:
    """Options with two values of which loaded weights are a function, by their paths in a method's config."""
    places: tuple[str, ...] = ("encoder", "readouts", "tokenizer")
    if part == "encoder":
        places = ("encoder", "tokenizer")
    elif part is not None:
        places = (part,)

    keys = []
    for key in sorted(theirs.keys() & ours.keys()):
        # Targets, losses and their weights may be others: no weight depends on them.
        is_training = key.startswith("readouts.") and ".decoder." not in key
        is_loaded = not is_training and any(f"{key}.".startswith(f"{place}.") for place in places)
        is_from_elsewhere = key.rpartition(".")[2] in (*START, *FROM_SCOPE)
        if is_loaded and not is_from_elsewhere and theirs[key] != ours[key]:
            keys.append(key)
    return keys


def options_of(node: Any, key: str = "") -> dict[str, Any]:
    """Every option of a config's nodes by its path, with the constructors' defaults of those left out."""
    options, defaults, lists = {}, {}, set()
    for path, value in paths(node, key):
        if path.rpartition(".")[0] in lists:  # an item of a list, which is compared whole
            continue
        if isinstance(value, list):
            lists.add(path)
        if not isinstance(value, Mapping):
            options[path] = value
        elif "_target_" in value:
            parameters = inspect.signature(load_target(value["_target_"])).parameters
            for name, parameter in parameters.items():
                if parameter.default is not parameter.empty and not isinstance(value.get(name), Mapping):
                    defaults[f"{path}.{name}"] = parameter.default
    return defaults | options


def fit_positions(source: Source, method: MaskedAutoencoder) -> tuple[dict[str, Tensor], list[str]]:
    """The source's weights with tables of positions for this method's grids, and a note for each change."""
    weights, notes = dict(source.weights), []
    theirs = options_of(source.nodes)
    for name, module in method.named_modules():
        grid = theirs.get(f"{name}.grid")
        if not isinstance(module, TablePositions) or grid is None or tuple(grid) == module.grid:
            continue

        change = "×".join(map(str, grid)) + " → " + "×".join(map(str, module.grid))
        old = tuple(grid)
        if isinstance(module, SinCos | FlatSinusoid) and f"{name}.table" in weights:
            weights[f"{name}.table"] = module.table
            notes.append(f"  {name}: fixed positions computed for this input, {change}")
        elif len(old) != len(module.grid):
            raise UserError(
                f"init.from={source.path}: {name} has positions of {len(old)} axes, not {len(module.grid)}."
            )
        elif isinstance(module, Learned) and f"{name}.table" in weights:
            weights[f"{name}.table"] = resize_table(weights[f"{name}.table"][0], old, module.grid)[None]
            notes.append(f"  {name}: learned positions resampled, {change}")
        elif isinstance(module, Separable) and f"{name}.spatial" in weights:
            space, time = weights[f"{name}.spatial"][0], weights[f"{name}.temporal"][0]
            weights[f"{name}.spatial"] = resize_table(space, old[1:], module.grid[1:])[None]
            weights[f"{name}.temporal"] = resize_table(time, old[:1], module.grid[:1])[None]
            notes.append(f"  {name}: learned positions resampled, {change}")
    return weights, notes


def _part_of(
    weights: Mapping[str, Tensor], method: MaskedAutoencoder, path: Path, part: str
) -> tuple[dict[str, Tensor], nn.Module]:
    """The weights below `part` by the names there, and that module of the method."""
    prefix = f"{part}."
    inner = {}
    for name, value in weights.items():
        if name.startswith(prefix):
            inner[name.removeprefix(prefix)] = value

    modules = dict(method.named_modules())
    if not inner or part not in modules:
        place = "the method"
        if not inner:
            place = f"init.from={path}"
        names = [name for name in modules if name.startswith("encoder") and name.count(".") < 2]
        parts = ", ".join(sorted(names))
        raise UserError(f"init.part={part}: {place} has no weights there. Parts of the method: {parts}.")
    return inner, modules[part]


def _summary(weights: Mapping[str, Tensor], method: MaskedAutoencoder, part: str | None) -> str:
    """Numbers of tensors, loaded and fresh, by the parts of the method."""
    loaded = set(weights)
    if part is not None:
        loaded = {f"{part}.{name}" for name in weights}
    fresh = method.state_dict().keys() - loaded
    return f"loaded: {_count_tensors(loaded)}; fresh: {_count_tensors(fresh)}"


def _count_tensors(names: Iterable[str]) -> str:
    """Numbers of tensors by the first two parts of their names."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    texts = [f"{name} ({count} tensors)" for name, count in sorted(counts.items())]
    return ", ".join(texts) or "nothing"


def _setting(key: str) -> str:
    """The setting of a method's option: those that the modality passes on are set there."""
    for name in MODALITY:
        start, found, rest = key.partition(f".{name}")
        if found and start.split(".")[-1] in ("tokenizer", "embed"):
            return f"modality.{name}{rest}"
    return f"method.{key}"


def _is_set(setting: str, given: Collection[str]) -> bool:
    """Whether a size, a node around it, one inside it, or one that settles it as well was set."""
    names = [setting, "modality.side"] if setting == "modality.patch" else [setting]
    if setting.startswith("method."):
        names.append("size")
    nodes = [text for text in given if text not in ("modality", "method")]  # a choice of these sets no size
    for name in names:
        if any(f"{text}.".startswith(f"{name}.") or f"{name}.".startswith(f"{text}.") for text in nodes):
            return True
    return False


def _typed(value: Any) -> str:
    """A value as it is typed, numbers in full."""
    if value is None or isinstance(value, str | bool | list | tuple):
        return show(value)
    return repr(value)
